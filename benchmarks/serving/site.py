"""An edge site whose models are both one upstream, as a process of its own: ``python -m benchmarks.serving.site``.

The whole site runs: the endpoint, the draft from a remote engine with its log-probabilities, the validity gate, the
score, the decision, the Arrow log with its syncs. Only Ray and a router are missing, which no request meets.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from pathlib import Path

import uvloop

import orchestrator.site
from actors.log_record import OffloadRecord
from actors.swap import Weights
from cluster.memory import settle
from orchestrator.config import Config, default_config
from orchestrator.site import EdgeSite

NO_ROUTER = "127.0.0.1:9"


class NoLog:
    """Takes records and forgets them, to tell what the log costs."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def append(self, record: OffloadRecord) -> int | None:  # noqa: ARG002
        """Forget it."""
        return 0

    def gauges(self) -> dict[str, float]:
        """As an empty log's."""
        return {"log_durable_seq": -1.0}

    def close(self) -> None:
        """Nothing to write."""


def configured(var: Path, port: int, upstream: str, threshold: float) -> Config:
    """The site's configuration."""
    edge = {"kind": "openai", "base_url": upstream, "model": "upstream"}
    return default_config(
        var=str(var),
        site={"name": "site", "port": port, "served_model": "upstream", "audit_rate": 0.0, "engine": edge},
        policy={"kind": "fixed", "value": threshold, "safe_threshold": 0.0},
        learner={"enabled": False},
        telemetry={"probe_interval_s": 60.0},
    )


async def serve(config: Config, weights: Path, upstream: str) -> None:
    """Serve until the process is ended."""
    running = EdgeSite(
        config, Weights("edge-0000-00000000", weights), cloud_url=upstream, cloud_model="upstream", router=NO_ROUTER
    )
    await running.start()
    settle()
    try:
        await asyncio.Event().wait()
    finally:
        await running.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="URL up to /v1")
    parser.add_argument("--threshold", type=float, default=0.0, help="0 keeps every draft, 1 sends every request on")
    parser.add_argument("--no-log", action="store_true", help="forget every record, to tell what the log costs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if options.no_log:
        orchestrator.site.OffloadLog = NoLog  # type: ignore[assignment, attr-defined]
    with tempfile.TemporaryDirectory(prefix="netgpt-serving-") as var:
        weights = Path(var, "weights")
        weights.mkdir()
        config = configured(Path(var), options.port, options.upstream, options.threshold)
        uvloop.run(serve(config, weights, options.upstream))


if __name__ == "__main__":
    main()
