"""What the HTTP path adds to an edge-served request, against the same engine called in process.

One engine (the bundled edge model on vLLM), one event loop, a real offload log. Every task of the test set is asked
in process, through the node and over HTTP, in changing order, after a throw-away call that fills the prefix cache.
*Adds* is what one and the same request took beyond its own engine call, so it does not carry the engine's variation.
That the engine is not slower with a server around it is seen in *paired*: the request over HTTP minus the same prompt
given to the bare engine, with a 95 % interval of its median. The client is a process of its own on a kept-alive
connection, with the standard library's client, so that its cost is small and not the server's; ``openai`` is the same
with that client. Requests whose draft is invalid are left out: at a site without a cloud they are drafted twice. Then
many clients ask at once (``many_clients``).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from actors.build import build_engine
from actors.chat import ChatRequest
from actors.edge_node import EdgeNode
from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.model_store import verify
from actors.offload_log import OffloadLog
from actors.scorer import first_scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from benchmarks.figures import Figure, at_least, at_most, parser, percentile, publish
from benchmarks.many_clients import ASKERS, tokens_per_s
from orchestrator.config import default_config, resolve_model
from orchestrator.endpoint.app import Surface
from orchestrator.endpoint.protocol import PatientProtocol
from orchestrator.rules import PolicyBuilder, default_snapshot
from orchestrator.site import KEEP_ALIVE_S, HostedServer
from orchestrator.tasks.generator import Split, Task, tasks
from policies.errors import Refused
from policies.types import LinkState

MAX_TOKENS = 128
ROUNDS = 5
TARGET_MS = 2.0
SHARE = 0.9  # of the bare engine's tokens a second that are left behind the endpoint
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


class TimedEngine:
    """An engine that counts its ``calls`` and the seconds they took in all, ``spent_s``."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.calls, self.spent_s = engine, 0, 0.0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``."""
        began = time.perf_counter()
        generation = await self._engine.generate(prompt, sampling)
        self.calls, self.spent_s = self.calls + 1, self.spent_s + time.perf_counter() - began
        return generation

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``."""
        return await self._engine.load(path, version)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one request: all of it, and its engine call."""

    total: float
    engine: float

    @property
    def added(self) -> float:
        """What was not the engine."""
        return self.total - self.engine


async def measure(
    engine: TimedEngine, node: EdgeNode, port: int, count: int
) -> tuple[dict[str, list[Times]], list[Task]]:
    """The ways to ask, one entry a task: ``engine`` and ``node`` in process, ``http`` and ``openai`` from outside.

    Returns:
        Them, and the tasks that were asked.
    """
    plain, official = await _client("plain", port), await _client("openai", port)
    found: dict[str, list[Times]] = {"engine": [], "node": [], "http": [], "openai": []}
    order, asked = random.Random(0), []
    for task in islice(tasks(0, Split.TEST), count):
        request, body, calls = _request(task), _body(task), engine.calls
        try:
            await node.answer(request)
        except Refused:
            continue
        if engine.calls != calls + 1:
            continue  # an invalid draft was made again under a grammar
        asked.append(task)
        if not found["engine"]:
            await asyncio.gather(plain.ask(body), official.ask(body))  # both connect
        ways: list[tuple[str, Callable[[], Awaitable[float]]]] = [
            ("engine", partial(_timed, partial(engine.generate, request.prompt, request.sampling))),
            ("node", partial(_timed, partial(node.answer, request))),
            ("http", partial(plain.ask, body)),
            ("openai", partial(official.ask, body)),
        ]
        for name, way in order.sample(ways, len(ways)):
            before = engine.spent_s
            seconds = await way()
            found[name].append(Times(1e3 * seconds, 1e3 * (engine.spent_s - before)))
    await plain.close()
    await official.close()
    return found, asked


def figures(found: dict[str, list[Times]]) -> list[Figure]:
    """Medians of each way, of what it adds, and of the paired difference to the bare engine."""
    if not found["engine"]:
        raise SystemExit("no draft of this model was valid, so nothing was served from the edge")
    paired = sorted(http.total - bare.total for http, bare in zip(found["http"], found["engine"], strict=True))
    low, high = median_interval(paired)
    added = {name: [times.added for times in found[name]] for name in ("node", "http", "openai")}
    return [
        *(Figure(f"{name}_p50", _p50([t.total for t in found[name]]), "ms") for name in ("engine", "node", "http")),
        Figure("node_adds_p50", _p50(added["node"]), "ms"),
        at_most("http_adds_p50", _p50(added["http"]), "ms", TARGET_MS),
        Figure("http_adds_p95", percentile(added["http"], 0.95), "ms"),
        Figure("openai_client_adds_p50", _p50(added["openai"]), "ms"),
        Figure("paired_p50", _p50(paired), "ms"),
        Figure("paired_p50_low", low, "ms"),
        Figure("paired_p50_high", high, "ms"),
        Figure("requests", len(paired), "count"),
    ]


def _together(bare: float, served: float) -> list[Figure]:
    return [
        Figure(f"engine_tokens_per_s_{ASKERS}", bare, "1/s"),
        Figure(f"http_tokens_per_s_{ASKERS}", served, "1/s"),
        at_least(f"http_share_of_tokens_{ASKERS}", served / bare, "ratio", SHARE),
    ]


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the median with 95 % (normal approximation of the sign test)."""
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return ordered[max(low, 0)], ordered[min(high, count - 1)]


async def run(model: str, count: int) -> list[Figure]:
    """Load, serve, measure, stop."""
    path = Path(resolve_model(model))
    engine = TimedEngine(await build_engine("vllm", path, "edge-0000-00000000", LocalSettings()))
    try:
        with tempfile.TemporaryDirectory() as directory:
            log = OffloadLog(Path(directory), "benchmark")
            try:
                node = _node(engine, path, log)
                async with _served(node) as port:
                    found, asked = await measure(engine, node, port, count)
                    requests = [_request(task) for task in asked]
                    bodies = [json.dumps(_body(task)).encode() for task in asked]
                    together = await tokens_per_s(engine, port, requests, bodies, ROUNDS)
                    return [*figures(found), *_together(*together)]
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
    measured = uvloop.run(run(given.model, count))
    return publish("HTTP path against the engine in process", measured, given, {"model": given.model})


def _node(engine: Engine, path: Path, log: OffloadLog) -> EdgeNode:
    config = default_config(policy={"kind": "fixed", "value": 0.0})
    weights = Weights("edge-0000-00000000", path)
    return EdgeNode(
        engine=engine,
        weights=weights,
        scorers=Scorers(weights.version, first_scorer(path)),
        cloud=None,
        rules=SiteRules(PolicyBuilder(config, weights), default_snapshot(config)),
        link=StillLink(),
        log=log,
        verify=verify,
    )


@asynccontextmanager
async def _served(node: EdgeNode) -> AsyncIterator[int]:
    options: dict[str, Any] = {"http": PatientProtocol, "lifespan": "off", "log_config": None, "access_log": False}
    server = HostedServer(uvicorn.Config(Surface(node), port=0, timeout_keep_alive=KEEP_ALIVE_S, **options))
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


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _request(task: Task) -> ChatRequest:
    return ChatRequest(task.messages, task.tools, sampling=Sampling(max_tokens=MAX_TOKENS), request_id="benchmark")


def _body(task: Task) -> dict[str, Any]:
    fields = {"messages": list(task.messages), "tools": list(task.tools), "max_tokens": MAX_TOKENS, "temperature": 0}
    return {"model": "netgpt", **fields}


def _p50(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


if __name__ == "__main__":
    sys.exit(main())
