"""The gateways that are compared, each in front of the same upstream; those that are not installed are left out."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.session import free_port

KEY = "sk-benchmark-0123456789abcdef"
CASCADE = [("small", 0.0001), ("large", 0.01)]  # names and dollars a thousand tokens


@dataclass(frozen=True, slots=True)
class Gateway:
    """How one is started and asked. ``ours`` are held to the targets."""

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    key: str = "none"
    ours: bool = False
    streams: bool = True


def gateways(upstream: str, directory: Path) -> Iterator[Gateway]:
    """Ours first, then the peers that are there; HAProxy last, on a port of its own: it takes none just left."""
    port = free_port()
    site = [sys.executable, "-m", "benchmarks.serving.site", "--port", str(port), "--upstream", upstream]
    yield Gateway("NetGPT site, edge answers", port, site, ours=True)
    yield Gateway("NetGPT site, edge answers, without its log", port, [*site, "--no-log"])
    yield Gateway("NetGPT site, cloud answers", port, [*site, "--threshold", "1"])
    yield Gateway("bare ASGI forwarder", port, uvicorn("forwarder", port), {"UPSTREAM": upstream}, streams=False)
    if router := _installed("vllm-router"):
        behind = upstream.removesuffix("/v1")
        command = [router, "--port", str(port), "--worker-urls", behind, "--policy", "round_robin"]
        yield Gateway("vllm-router", port, command)
    if litellm := _installed("litellm"):
        config = directory / "litellm.yaml"
        config.write_text(
            "model_list:\n  - model_name: upstream\n    litellm_params: {model: openai/upstream, api_base: "
            f"{upstream}, api_key: none}}\ngeneral_settings: {{master_key: {KEY}}}\n",
            encoding="utf-8",
        )
        command = [litellm, "--config", str(config), "--port", str(port), "--num_workers", "1"]
        yield Gateway("LiteLLM", port, command, key=KEY)
    if cascade := _installed("cascadeflow-gateway"):
        config = directory / "cascadeflow.yaml"
        models = "".join(f"  - {{name: {name}, provider: vllm, cost: {cost}}}\n" for name, cost in CASCADE)
        config.write_text(f"models:\n{models}", encoding="utf-8")
        command = [cascade, "--mode", "agent", "--config", str(config), "--port", str(port)]
        yield Gateway("cascadeflow", port, command, {"VLLM_BASE_URL": upstream})
    serve = [sys.executable, "-m", "benchmarks.serving.ray_serve", "--port", str(port)]
    yield Gateway("Ray Serve, an echo", port, serve, streams=False)
    port = free_port()
    serve = [*serve[:-1], str(port)]
    proxied = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    yield Gateway("Ray Serve behind HAProxy, an echo", port, serve, proxied, streams=False)


def uvicorn(app: str, port: int) -> list[str]:
    """The command that serves one of ``benchmarks.serving.apps``."""
    options = ["--port", str(port), "--no-access-log", "--log-level", "error", "--lifespan", "off", "--loop", "uvloop"]
    return [sys.executable, "-m", "uvicorn", f"benchmarks.serving.apps:{app}", *options]


def _installed(command: str) -> str | None:
    """Beside this Python, or where ``$PEERS`` points to (an environment of their own: their pins clash with ours)."""
    places = [str(Path(sys.executable).parent), *filter(None, [os.environ.get("PEERS")])]
    return shutil.which(command, path=os.pathsep.join(places))
