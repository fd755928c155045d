"""Write cpu.txt and dev.txt: installed versions of what the extras need, without what breaks vLLM on CPU."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
# The package index has only CUDA builds of these; beside a CPU torch they break `import transformers`.
BROKEN = {"torchvision", "torchaudio", "torchcodec"}
# torch comes from its own index (see the Makefile); the project itself is installed from the checkout.
APART = {"torch", "netgpt-orchestrator"}


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Name -> version of everything ``requirements`` lead to among the installed distributions."""
    found: dict[str, str] = {}
    queue, seen = list(requirements), set()
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        key = (name, frozenset(requirement.extras))
        if key in seen or name in BROKEN:
            continue
        seen.add(key)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = installed.version
        for line in installed.requires or []:
            needed = Requirement(line)
            extras = [*requirement.extras, ""]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(needed)
    return {name: version for name, version in found.items() if name not in APART}


def main() -> None:
    """Write both files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["serving"], *extras["cpu"], "setuptools"]
    runtime = closure([Requirement(line) for line in named if "netgpt" not in line])
    dev = closure([Requirement(line) for line in extras["dev"]])
    write("cpu.txt", runtime)
    write("dev.txt", {name: version for name, version in dev.items() if name not in runtime})


def write(file: str, versions: dict[str, str]) -> None:
    """One ``name==version`` a line, sorted."""
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    (HERE / file).write_text("# Written by `make lock`; install with --no-deps.\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
