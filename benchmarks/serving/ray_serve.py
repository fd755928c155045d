"""Ray Serve's ingress and nothing behind it: ``python -m benchmarks.serving.ray_serve --port N``.

Answers every request at once, so this is the least that a router built on Ray Serve pays. With
``RAY_SERVE_ENABLE_HA_PROXY=1`` HAProxy listens in place of Ray's own proxy.
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serving.apps import WHOLE


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Echo:
    """Says the upstream's answer."""

    async def __call__(self, request: Request) -> Response:
        """Answer."""
        await request.body()
        return Response(WHOLE, media_type="application/json")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=2, object_store_memory=200 << 20, **quiet)
    serve.start(
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    serve.run(Echo.bind(), route_prefix="/")  # type: ignore[attr-defined]
    threading.Event().wait()


if __name__ == "__main__":
    main()
