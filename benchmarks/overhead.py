"""What the HTTP path adds to an edge-served request, against the same engine called in process.

One engine (the bundled edge model on vLLM), one event loop, a real offload log. Every task of the test set is asked
both ways, one right after the other, the order alternating, after a throw-away call that fills the prefix cache; the
figure is the median of the paired differences. The HTTP client is a process of its own on a kept-alive connection,
with the standard library's client, so that its cost is small and not the server's. Drafts that would leave the edge
are left out: the site has no cloud and a threshold of 0. The last figure is the same with the ``openai`` client.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import uvicorn

from actors.build import build_engine
from actors.chat import ChatRequest
from actors.edge_node import EdgeNode
from actors.engine import Engine, Sampling
from actors.engine_settings import LocalSettings
from actors.model_store import verify
from actors.offload_log import OffloadLog
from actors.scorer import first_scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from benchmarks.figures import Figure, at_most, parser, percentile, publish
from orchestrator.config import Config, resolve_model
from orchestrator.http import create_app
from orchestrator.site import KEEP_ALIVE_S, HostedServer, default_snapshot
from orchestrator.tasks.generator import Split, Task, tasks
from policies.errors import Refused
from policies.threshold import FixedThreshold
from policies.types import LinkState

MAX_TOKENS = 128
TARGET_MS = 3.0
CLIENT = """
import http.client, json, sys, time
kind, port = sys.argv[1], int(sys.argv[2])
if kind == "openai":
    from openai import OpenAI
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port)
for line in sys.stdin:
    begun = time.perf_counter()
    if kind == "openai":
        client.chat.completions.create(**json.loads(line))
    else:
        connection.request("POST", "/v1/chat/completions", line.encode(), {"content-type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status == 200, body
    print(time.perf_counter() - begun, flush=True)
"""


class StillLink:
    """A link that does not change: the site has no cloud to reach over it."""

    def state(self) -> LinkState:
        """Wide and near."""
        return LinkState(rtt_ms=10.0, up_bps=1e8, down_bps=1e8)

    def observe_offload(
        self, up_bytes: int, down_bytes: int, seconds: float, server_seconds: float | None, ok: bool
    ) -> None:
        """Nothing to learn."""

    def gauges(self) -> dict[str, float]:
        """None."""
        return {}


class Client:
    """A client process: one line in, one request, one duration out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, body: dict[str, Any]) -> float:
        """Seconds of one request, as the client process measured it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(body).encode() + b"\n")
        return float(await self._process.stdout.readline())

    async def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def measure(engine: Engine, node: EdgeNode, port: int, count: int) -> dict[str, list[float]]:
    """Paired durations in milliseconds: ``engine`` and ``node`` in process, ``http`` and ``openai`` from outside."""
    plain, official = await _client("plain", port), await _client("openai", port)
    found: dict[str, list[float]] = {"engine": [], "node": [], "http": [], "openai": []}
    for index, task in enumerate(islice(tasks(0, Split.TEST), count)):
        request, body = _request(task), _body(task)
        try:
            await node.answer(request)
        except Refused:
            continue  # an invalid draft: nothing would be served from the edge
        if not found["engine"]:
            await asyncio.gather(plain.ask(body), official.ask(body))  # both connect
        ways = [
            ("engine", lambda asked=request: _timed(engine.generate(asked.prompt, asked.sampling))),
            ("node", lambda asked=request: _timed(node.answer(asked))),
            ("http", lambda sent=body: plain.ask(sent)),
            ("openai", lambda sent=body: official.ask(sent)),
        ]
        for name, way in ways if index % 2 else reversed(ways):
            found[name].append(1e3 * await way())
    await plain.close()
    await official.close()
    return found


def figures(found: dict[str, list[float]]) -> list[Figure]:
    """Medians of each way, and of the paired differences to the bare engine."""
    if not found["engine"]:
        raise SystemExit("no draft of this model was valid, so nothing was served from the edge")
    medians = [Figure(f"{name}_p50", percentile(found[name], 0.5), "ms") for name in ("engine", "node", "http")]
    added = {name: _differences(found[name], found["engine"]) for name in ("node", "http", "openai")}
    return [
        *medians,
        Figure("node_adds_p50", percentile(added["node"], 0.5), "ms"),
        at_most("http_adds_p50", percentile(added["http"], 0.5), "ms", TARGET_MS),
        Figure("http_adds_p95", percentile(added["http"], 0.95), "ms"),
        Figure("openai_client_adds_p50", percentile(added["openai"], 0.5), "ms"),
        Figure("requests", len(found["engine"]), "count"),
    ]


async def run(model: str, count: int) -> list[Figure]:
    """Load, serve, measure, stop."""
    path = Path(resolve_model(model))
    engine = await build_engine("vllm", path, "edge-0000-00000000", LocalSettings())
    try:
        with tempfile.TemporaryDirectory() as directory:
            log = OffloadLog(Path(directory), "benchmark")
            try:
                node = _node(engine, path, log)
                async with _served(node) as port:
                    return figures(await measure(engine, node, port, count))
            finally:
                log.close()
    finally:
        await engine.close()


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="bundled:edge", help="bundled:edge or a model directory")
    given = arguments.parse_args()
    count = 60 if given.quick else 400
    measured = asyncio.run(run(given.model, count))
    return publish("HTTP path against the engine in process", measured, given, {"model": given.model})


def _node(engine: Engine, path: Path, log: OffloadLog) -> EdgeNode:
    weights = Weights("edge-0000-00000000", path)
    return EdgeNode(
        engine=engine,
        weights=weights,
        scorers=Scorers(weights.version, first_scorer(path)),
        cloud=None,
        rules=SiteRules("fixed", default_snapshot(Config()), lambda _: FixedThreshold(0.0)),
        link=StillLink(),
        log=log,
        verify=verify,
    )


@asynccontextmanager
async def _served(node: EdgeNode) -> AsyncIterator[int]:
    options: dict[str, Any] = {"http": "httptools", "lifespan": "off", "log_config": None, "access_log": False}
    server = HostedServer(uvicorn.Config(create_app(node), port=0, timeout_keep_alive=KEEP_ALIVE_S, **options))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def _client(kind: str, port: int) -> Client:
    pipe = asyncio.subprocess.PIPE
    arguments = (sys.executable, "-c", CLIENT, kind, str(port))
    return Client(await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=1 << 20))


async def _timed(work: Any) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


def _request(task: Task) -> ChatRequest:
    return ChatRequest(task.messages, task.tools, sampling=Sampling(max_tokens=MAX_TOKENS), request_id="benchmark")


def _body(task: Task) -> dict[str, Any]:
    fields = {"messages": list(task.messages), "tools": list(task.tools), "max_tokens": MAX_TOKENS, "temperature": 0}
    return {"model": "netgpt", **fields}


def _differences(values: list[float], base: list[float]) -> list[float]:
    return [value - other for value, other in zip(values, base, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
