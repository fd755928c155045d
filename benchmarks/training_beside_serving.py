"""What a training round does to the latency of what is served meanwhile, on the machine that serves.

A real system (`netgpt serve`'s, with the bundled models) first answers tasks, which fills its log and finds those whose
draft is kept. These are then asked at a steady rate, open loop: a request is sent when it is due, whatever became of
the one before, and its latency counts from then. First the system only serves; then the first round runs, with the
learner's defaults, and starts the Ray Train workers; then further rounds on these, one after another for as long as the
phase lasts; then rounds that go on with policy steps, which sample with vLLM. The client is a process of its own.
Requests that were not answered by the edge are counted, and left out.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.figures import Figure, at_most, parser, percentile, publish
from orchestrator.config import Config, default_config
from orchestrator.demo.play import Player
from orchestrator.demo.workload import traffic
from orchestrator.learner import RoundReport
from orchestrator.system import System
from orchestrator.tasks.generator import Task

TARGET = 2.0
RATE_HZ = 4.0
MAX_TOKENS = 160
SETTLE_S = 5.0  # the play's last audits and log writes end, and the client connects
POLICY_STEPS = 10
CLIENT = """
import asyncio, json, sys, time
import httpx

async def ask(client, url, body, due):
    try:
        reply = (await client.post(url, content=body)).json()
        route = reply["netgpt"]["route"]
    except (httpx.HTTPError, KeyError, ValueError) as why:
        route = f"failed: {why!r}"
    print(json.dumps([due, time.time() - due, route]), flush=True)

async def main(url, gap, bodies):
    running = set()
    async with httpx.AsyncClient(headers={"content-type": "application/json"}, timeout=60.0) as client:
        due = time.time()
        for number in range(10**9):
            due += gap
            await asyncio.sleep(max(due - time.time(), 0.0))
            running.add(task := asyncio.create_task(ask(client, url, bodies[number % len(bodies)], due)))
            task.add_done_callback(running.discard)

asyncio.run(main(sys.argv[1], float(sys.argv[2]), open(sys.argv[3]).read().splitlines()))
"""


@dataclass
class Client:
    """A process that asks at a steady rate, and what it saw: when each request was due (Unix s), its s, its route."""

    seen: list[tuple[float, float, str]] = field(default_factory=list)

    def since(self, begun: float, ended: float = float("inf")) -> list[tuple[float, float, str]]:
        """Requests that were due in that time."""
        return [one for one in self.seen if begun <= one[0] < ended]


@dataclass(frozen=True, slots=True)
class Phase:
    """Requests of one phase, and the rounds that ran meanwhile."""

    name: str
    requests: Sequence[tuple[float, float, str]]
    rounds: Sequence[RoundReport] = ()

    @property
    def edge_ms(self) -> list[float]:
        """Latencies of those that the edge answered."""
        return [1e3 * seconds for _, seconds, route in self.requests if route == "edge"]


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--var", type=Path, help="where the system keeps its files; a new directory without")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="netgpt-beside-") as scratch:
        phases = run(given.var or Path(scratch), given)
    told = {phase.name: [r.reason for r in phase.rounds] for phase in phases if phase.rounds}
    return publish("Serving while a round trains", figures(phases), given, {"rate_hz": RATE_HZ, "rounds": told})


def run(var: Path, given: Namespace) -> list[Phase]:
    """Start, warm up, measure the four phases, stop."""
    config = configured(var)
    system = System(config, lambda stage, words: print(f"  {stage}: {words}", file=sys.stderr))
    system.start()
    try:
        kept = asyncio.run(kept_by_the_edge(system, 150 if given.quick else 400))
        with asking(system, kept, var) as client:
            time.sleep(SETTLE_S)
            requests = 60 if given.quick else 300
            phases = [idle(client, requests)]
            phases.append(training("first round", system, client, 0))
            phases.append(training("further rounds", system, client, requests))
            system.rounds.config = with_policy_steps(config)
            phases.append(training("rounds with policy steps", system, client, requests))
        return phases
    finally:
        system.stop()


def configured(var: Path) -> Config:
    """The embedded default on free ports; rounds only when this program asks for one."""
    return default_config(
        var=str(var), site={"port": 0}, cloud={"port": 0}, ray={"dashboard_port": 0}, learner={"enabled": False}
    )


def with_policy_steps(config: Config) -> Config:
    """The same with reinforcement learning at the end of a round."""
    return config.model_copy(update={"learner": config.learner.model_copy(update={"policy_steps": POLICY_STEPS})})


async def kept_by_the_edge(system: System, count: int) -> list[Task]:
    """Play tasks; those whose draft was served."""
    player = Player(system.urls.endpoint, system.config.site.served_model, lambda _: None)
    try:
        outcomes = await player.play("warm-up", list(itertools.islice(traffic(0), count)))
    finally:
        await player.close()
    return [outcome.task for outcome in outcomes if outcome.info and outcome.info.route == "edge"]


def idle(client: Client, requests: int) -> Phase:
    """Nothing but the requests."""
    begun = time.time()
    time.sleep(requests / RATE_HZ)
    return _phase("idle", client, begun)


def training(name: str, system: System, client: Client, requests: int) -> Phase:
    """Rounds until enough requests were due."""
    begun, rounds = time.time(), list[RoundReport]()
    while not rounds or (time.time() - begun) * RATE_HZ < requests:
        rounds.append(in_a_thread(system.learn))
        print(f"  {name}: {rounds[-1].seconds:.1f} s, {rounds[-1].reason}", file=sys.stderr)
    return _phase(name, client, begun, rounds)


def in_a_thread(learn: Callable[[], RoundReport]) -> RoundReport:
    """As ``netgpt serve`` runs a round."""
    from orchestrator.loop import Round  # noqa: PLC0415

    round_ = Round(learn, threading.Event())
    round_.start()
    round_.join()
    assert round_.report is not None, "the round raised; its log says what"
    return round_.report


@contextmanager
def asking(system: System, kept: Sequence[Task], var: Path) -> Iterator[Client]:
    """The client, while the block runs."""
    file, client = var / "bodies.jsonl", Client()
    file.write_text("\n".join(json.dumps(_body(task)) for task in kept), encoding="utf-8")
    command = [sys.executable, "-c", CLIENT, f"{system.urls.endpoint}/chat/completions", str(1 / RATE_HZ), str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout

    def collect() -> None:
        for line in lines:
            client.seen.append(tuple(json.loads(line)))

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        process.terminate()
        process.wait()
        thread.join()


def figures(phases: Sequence[Phase]) -> list[Figure]:
    """Latencies of each phase, and the tail against the idle one's."""
    before = percentile(phases[0].edge_ms, 0.99)
    made = []
    for phase in phases:
        found = phase.edge_ms
        made += [
            Figure(f"{phase.name}: p50", percentile(found, 0.5), "ms"),
            Figure(f"{phase.name}: p99", percentile(found, 0.99), "ms"),
            Figure(f"{phase.name}: requests served by the edge", len(found), "count"),
            Figure(f"{phase.name}: other requests", len(phase.requests) - len(found), "count"),
        ]
        if phase.rounds:
            made.append(at_most(f"{phase.name}: p99 / idle p99", percentile(found, 0.99) / before, "ratio", TARGET))
            made.append(Figure(f"{phase.name}: mean of a round", mean(r.seconds for r in phase.rounds), "s"))
            made.append(Figure(f"{phase.name}: rounds", len(phase.rounds), "count"))
    return made


def _phase(name: str, client: Client, begun: float, rounds: Sequence[RoundReport] = ()) -> Phase:
    ended = time.time()
    time.sleep(SETTLE_S)  # the answers to the last of them come
    phase = Phase(name, client.since(begun, ended), rounds)
    p50, p99 = (percentile(phase.edge_ms, share) for share in (0.5, 0.99))
    print(f"  {name}: {len(phase.edge_ms)} requests, p50 {p50:.0f} ms, p99 {p99:.0f} ms", file=sys.stderr)
    return phase


def _body(task: Task) -> dict[str, Any]:
    fields = {"messages": list(task.messages), "tools": list(task.tools), "max_tokens": MAX_TOKENS, "temperature": 0}
    return {"model": "netgpt", **fields}


if __name__ == "__main__":
    sys.exit(main())
