"""One edge site in this process: the real node, engine, log, triggers and learner, without HTTP, Ray and canary.

The link is good and does not change, and the threshold is one number: what changes from version to version is the
model and its scorer. The cloud is the bundled cloud model. Its answers are the only labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.chat import ChatRequest, closed
from actors.edge_node import EdgeNode
from actors.engine import Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.log_record import OffloadRecord
from actors.model_store import ModelStore, verify
from actors.offload_log import OffloadLog
from actors.scorer import Scorer, first_scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from actors.training import TrainingJob, TrainingOutcome, run_job
from actors.vllm_engine import VllmEngine
from benchmarks.learning.remembered import RememberedCloud
from orchestrator.bundled.evaluate import Answered, answer
from orchestrator.bundled.train import MODELS
from orchestrator.config import Config, default_config
from orchestrator.learner import Learner, RoundReport
from orchestrator.loop import trigger_rules
from orchestrator.rules import default_snapshot, limits, node_options
from orchestrator.tasks.generator import Task
from orchestrator.verdict import Answered as AnsweredTwice
from orchestrator.versions import first_version
from orchestrator.watching import LogTail, labelled
from policies.control import Snapshot
from policies.threshold import FixedThreshold
from policies.triggers import Triggers
from policies.types import LinkState, Route

CLOUD_ACCURACY = 0.96
THRESHOLD = 0.85  # the closed form where a call to the cloud costs .11 of a right answer's worth
AT_ONCE = 32
CHUNK = 50  # requests between two looks at the triggers
SECONDS = 20.0  # of the triggers' clock that a request takes: three a minute
LABELS = 150
CLOUD = MODELS / "cloud"


class SteadyLink:
    """A link that is always the same."""

    def state(self) -> LinkState:
        return LinkState(30.0, 20e6, 50e6)

    def observe_offload(
        self, up_bytes: int, down_bytes: int, seconds: float, server_seconds: float | None, ok: bool
    ) -> None:
        """Nothing to learn."""

    def gauges(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True, slots=True)
class Published:
    """A version that went live after ``requests`` requests and ``offloads`` calls to the cloud."""

    version: str
    requests: int
    offloads: int
    report: RoundReport


class Site:
    """Serves, logs, learns when it is due, and swaps.

    Args:
        var: where its log and versions go; empty.
        watchful: whether suspected drift raises the threshold and makes a round due.
        learns: whether rounds run.
        answers: file of the cloud's answers.
    """

    def __init__(self, var: Path, seed: int, watchful: bool, answers: Path, learns: bool = True) -> None:
        self.config, self._learns = _config(var, seed, watchful), learns
        self.store = ModelStore(self.config.store_dir, self.config.store.keep)
        self.cloud = RememberedCloud(CLOUD, answers)
        self.rounds: list[RoundReport] = []
        self.published: list[Published] = []
        self.requests = 0
        self._asked = 0
        self._now_s = 0.0
        self._triggers = Triggers(trigger_rules(self.config.learner), self._now_s)
        self._tail = LogTail(self.config.log_dir)

    async def start(self) -> None:
        """Load the edge model."""
        self._loop = asyncio.get_running_loop()
        first = first_version(self.store, str(MODELS / "edge"))
        self._weights = Weights(first.version, first.path)
        self._engine = VllmEngine(first.path, first.version, LocalSettings(threads=1))
        await self._engine.setup()
        self._log = OffloadLog(self.config.log_dir, "site", sync=False)
        self._learner = Learner(
            self.config.log_dir, self.store, self.config.learner, self.config.work_dir, _train, _nothing_else,
            ask=self.ask,
            cloud_accuracy=CLOUD_ACCURACY,
        )  # fmt: skip
        self.node = EdgeNode(
            engine=self._engine,
            weights=self._weights,
            scorers=Scorers(first.version, first_scorer(first.path)),
            cloud=self.cloud,
            rules=SiteRules(Constant(), default_snapshot(self.config)),
            link=SteadyLink(),
            log=self._log,
            verify=verify,
            limits=limits(self.config),
            load_scorer=first_scorer,
            options=replace(node_options(self.config, "cloud"), audit_limit=AT_ONCE),
        )

    async def close(self) -> None:
        """Free both models."""
        await self.node.close()
        self._log.close()
        await self._engine.close()
        await self.cloud.close()

    async def play(self, tasks: Sequence[Task]) -> None:
        """Serve ``tasks`` in order, with a round whenever one is due."""
        for start in range(0, len(tasks), CHUNK):
            await self._serve(tasks[start : start + CHUNK])
            self._now_s += SECONDS * CHUNK
            self._triggers = self._triggers.seen(labelled(self._tail.read()))
            if self._learns and self._triggers.due(self.node.gauges()["drift_alarm"] > 0, self._now_s):
                await self._learn()

    async def drafts(self, tasks: Sequence[Task]) -> list[Answered]:
        """What the live weights answer, without a grammar."""
        return await answer(self._engine, tasks)

    async def cloud_texts(self, prompts: Sequence[Prompt]) -> list[str]:
        """What the cloud answers."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(prompt: Prompt) -> str:
            async with room:
                return (await self.cloud.generate(prompt, Sampling(max_tokens=160))).completions[0].text

        return list(await asyncio.gather(*map(one, prompts)))

    async def strict(self, tasks: Sequence[Task]) -> list[str]:
        """What the live weights answer under the grammar of the tools."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(task: Task) -> str:
            async with room:
                asked = ChatRequest(task.messages, task.tools, "required").strict_prompt("")
                assert asked is not None
                return closed((await self._engine.generate(asked, Sampling(max_tokens=160))).completions[0].text)

        return list(await asyncio.gather(*map(one, tasks)))

    def scorer(self) -> Scorer:
        """What scores the live version's drafts."""
        return first_scorer(self.store.read(self.node.version).path)

    async def try_out(self, path: Path, name: str) -> None:
        """Load other weights, to look at; what the node serves from then on are theirs."""
        await self._engine.load(path, name)

    def ask(self, requests: Sequence[ChatRequest]) -> list[str]:
        """The cloud's answers to a round's questions; from another thread than the site's."""
        self._asked += len(requests)
        prompts = [request.cloud_prompt for request in requests]
        return asyncio.run_coroutine_threadsafe(self.cloud_texts(prompts), self._loop).result()

    @property
    def calls(self) -> int:
        """Calls to the cloud so far: offloads, audits, and what rounds asked."""
        return self.node.counts.requests[Route.CLOUD] + self.node.counts.audits + self._asked

    async def _serve(self, tasks: Sequence[Task]) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, task: Task) -> None:
            async with room:
                sampling = Sampling(max_tokens=160)
                await self.node.answer(ChatRequest(task.messages, task.tools, "auto", sampling, request_id=str(number)))

        await asyncio.gather(*(one(self.requests + n, task) for n, task in enumerate(tasks)))
        self.requests += len(tasks)
        await self.node.close(grace_s=120.0)  # audits; the node goes on afterwards
        await asyncio.to_thread(self._log.flush)

    async def _learn(self) -> None:
        self._triggers = self._triggers.begun()
        report = await asyncio.to_thread(self._learner.round, self.store.read(self.node.version))
        self.rounds.append(report)
        if report.version is not None:
            swapped = await self.node.swap(report.version.version, report.version.path, report.version.sha256)
            assert swapped.outcome == "live", swapped
            self.published.append(Published(report.version.version, self.requests, self.calls, report))
        self._triggers = self._triggers.done(report.version is not None, self._now_s)


def _train(job: TrainingJob, _name: str) -> TrainingOutcome:
    return run_job(job)


def _nothing_else(
    _directory: Path, _rows: Sequence[AnsweredTwice], _records: Sequence[OffloadRecord]
) -> Mapping[str, str]:
    return {}


class Constant:
    """The site's threshold, whatever the snapshot."""

    kind = "fixed"

    def __call__(self, snapshot: Snapshot) -> FixedThreshold:  # noqa: ARG002
        return FixedThreshold(THRESHOLD)


def best_threshold(scorer: Scorer, rows: Sequence[AnsweredTwice]) -> float:
    """The least score from which on keeping drafts earns more than sending them, on a round's held-out questions."""
    judged = [(_score(scorer, row), row.right, row.weight) for row in rows]
    kept = [sum(w * (right - THRESHOLD) for s, right, w in judged if s >= tau) for tau, _, _ in judged]
    return judged[kept.index(max(kept))][0]


def _score(scorer: Scorer, row: AnsweredTwice) -> float:
    asked = ChatRequest(row.case.messages, row.case.tools)
    valid = row.case.valid(row.candidate.text)
    return scorer.judge(asked.question, len(asked.tools), row.candidate.logprobs, valid)


def _config(var: Path, seed: int, watchful: bool) -> Config:
    drift = {} if watchful else {"safe_threshold": 0.0}
    return default_config(
        var=var,
        site={"name": "site", "audit_rate": 0.1},
        policy={"kind": "fixed", "during": False, **drift},
        learner={"after_labels": LABELS, "pause_minutes": 1.0, "seed": seed, "timeout_s": 3600.0},
    )
