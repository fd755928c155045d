"""Fakes around an edge node: engines that answer from a script, a link, a log; and a node made of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.chat import ChatRequest
from actors.edge_node import EdgeNode, NodeOptions
from actors.engine import Completion, Engine, Generation, LoadReport, Prompt, Sampling
from actors.limits import Limits
from actors.log_record import OffloadRecord
from actors.scorer import Scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from policies.calibration import Calibrator
from policies.control import Snapshot
from policies.threshold import FixedThreshold
from policies.toolcalls import render
from policies.types import CloudSpeed, LinkState, Objective, Prices, ToolCall

SURE, UNSURE = (-0.001,) * 8, (-2.0,) * 8
GOOD = LinkState(rtt_ms=40.0, up_bps=1e7, down_bps=2e7)
DOWN = LinkState(rtt_ms=40.0, up_bps=1e7, down_bps=2e7, up=False)
SNAPSHOT = Snapshot(
    1, 30.0, Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0), Objective(0.02, 0.002, 0.97), CloudSpeed()
)
MOVE = {
    "type": "function",
    "function": {
        "name": "move_slice",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string", "enum": ["north", "south"]}},
            "required": ["to"],
            "additionalProperties": False,
        },
    },
}
ALARM = {"type": "function", "function": {"name": "set_alarm", "parameters": {"type": "object"}}}
NORTH = render([ToolCall("move_slice", {"to": "north"})])
SOUTH = render([ToolCall("move_slice", {"to": "south"})])
WEST = render([ToolCall("move_slice", {"to": "west"})])

Reply = str | Exception | Callable[[Prompt], Any]


class FakeEngine:
    """Answers with ``reply`` (or raises it), remembers what it was asked, can be held."""

    def __init__(
        self, reply: Reply = NORTH, logprobs: tuple[float, ...] = SURE, version: str = "edge-0001-aaaaaaaa"
    ) -> None:
        self.reply, self.logprobs, self.version = reply, logprobs, version
        self.asked: list[tuple[Prompt, Sampling]] = []
        self.loaded: list[tuple[Path, str]] = []
        self.load_error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.cancelled = 0
        self.closed = False

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        self.asked.append((prompt, sampling))
        version, logprobs = self.version, self.logprobs
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        reply = self.reply(prompt) if callable(self.reply) else self.reply
        if isinstance(reply, Exception):
            raise reply
        completion = reply if isinstance(reply, Completion) else Completion(reply, logprobs, "stop", len(logprobs))
        return Generation((completion,) * sampling.n, 100, version, 0.01, up_bytes=500, down_bytes=300)

    async def load(self, path: Path, version: str) -> LoadReport:
        if self.load_error is not None:
            raise self.load_error
        self.loaded.append((path, version))
        self.version = version
        return LoadReport(version, 0.0)

    async def close(self) -> None:
        self.closed = True


class TokenEngine(FakeEngine):
    """Shows each token to the watch, as an engine that sees them does."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        whole = await super().generate(prompt, sampling)
        watch, completion = sampling.watch, whole.completions[0]
        for n, logprob in enumerate(completion.logprobs, 1):
            if watch and watch(logprob):
                cut = Completion(completion.text[:n], completion.logprobs[:n], "abandoned", n)
                return Generation((cut,), whole.prompt_tokens, whole.version, whole.seconds)
        return whole


class SpeakingEngine(FakeEngine):
    """Says its reply in ``parts`` to whoever listens, and waits for ``gate`` before the last."""

    def __init__(self, *parts: str, breaks: Exception | None = None) -> None:
        super().__init__("".join(parts), version="cloud-1")
        self.parts, self.breaks = parts, breaks
        self.last: asyncio.Event | None = None

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        if sampling.hear is not None:
            for number, part in enumerate(self.parts, 1):
                if self.last is not None and number == len(self.parts):
                    try:
                        await self.last.wait()
                    except asyncio.CancelledError:
                        self.cancelled += 1
                        raise
                await sampling.hear(part)
            if self.breaks is not None:
                raise self.breaks
        return await super().generate(prompt, sampling)


class FakeLink:
    """A link in whatever state the test wants."""

    def __init__(self, state: LinkState = GOOD) -> None:
        self.now = state
        self.offloads: list[tuple[int, int, bool]] = []

    def state(self) -> LinkState:
        return self.now

    def observe_offload(
        self, up_bytes: int, down_bytes: int, seconds: float, server_seconds: float | None, ok: bool
    ) -> None:
        self.offloads.append((up_bytes, down_bytes, ok))

    def gauges(self) -> dict[str, float]:
        return {"link_rtt_ms": self.now.rtt_ms}


class FakeLog:
    """Records in a list."""

    def __init__(self) -> None:
        self.records: list[OffloadRecord] = []
        self.error: Exception | None = None

    def append(self, record: OffloadRecord) -> int | None:
        if self.error is not None:
            raise self.error
        self.records.append(record)
        return len(self.records) - 1

    def gauges(self) -> dict[str, float]:
        return {"log_seq": float(len(self.records) - 1), "log_durable_seq": float(len(self.records) - 1)}


class FixedRule:
    """The same threshold whatever the snapshot."""

    kind = "fixed"

    def __init__(self, threshold: float) -> None:
        self._policy = FixedThreshold(threshold)

    def __call__(self, snapshot: Snapshot) -> FixedThreshold:
        return self._policy


class NodeKit:
    """A node and the fakes it is made of."""

    def __init__(
        self,
        edge: FakeEngine | None = None,
        cloud: FakeEngine | None = None,
        *,
        threshold: float = 0.5,
        link: LinkState = GOOD,
        options: NodeOptions | None = None,
        edge_only: bool = False,
        verify: Callable[[Path, str], None] = lambda path, sha256: None,
        limits: Limits | None = None,
    ) -> None:
        self.edge = edge or FakeEngine()
        self.cloud = cloud or FakeEngine(SOUTH, version="cloud-1")
        self.link, self.log = FakeLink(link), FakeLog()
        self.rules = SiteRules(FixedRule(threshold), SNAPSHOT)
        self.weights = Weights(self.edge.version, Path("/models/first"))
        self.node = EdgeNode(
            engine=self.edge,
            weights=self.weights,
            scorers=Scorers(self.edge.version, Scorer(Calibrator.guess())),
            cloud=None if edge_only else self.cloud,
            rules=self.rules,
            link=self.link,
            log=self.log,
            verify=verify,
            limits=limits,
            options=options or NodeOptions(audit_rate=0.0),
            rng=random.Random(0),
        )


def ask(**fields: Any) -> ChatRequest:
    """A request that offers MOVE and ALARM."""
    given: dict[str, Any] = {
        "messages": [{"role": "user", "content": "move the slice north"}],
        "tools": [MOVE, ALARM],
        "request_id": "r1",
    }
    return ChatRequest(**{**given, **fields})


def write_calibrator(directory: Path) -> Path:
    """A version's directory that holds nothing but a calibrator."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "calibrator.json").write_text(Calibrator.guess().to_json())
    return directory


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for ``condition`` without naming a time it takes."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def an_engine(engine: FakeEngine) -> Engine:
    """Checked by mypy: the fake fits the protocol."""
    return engine
