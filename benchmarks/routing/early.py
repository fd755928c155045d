"""What deciding before and during a draft saves of the draft time that ends in the cloud, and that it costs nothing.

In replay over the grid, token by token, and on the real system: an edge node with the real engine under concurrent
load. There the cloud's answers are played back after a fixed time, right where the real cloud was right: two models on
two cores would slow each other down, and the edge is what is measured.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np

from actors.answer import Answer
from actors.build import build_engine
from actors.chat import ChatRequest
from actors.drafting import DraftOptions
from actors.edge_node import EdgeNode, NodeOptions
from actors.engine import Completion, Engine, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.model_store import verify
from actors.offload_log import OffloadLog
from actors.scorer import first_scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from benchmarks.both_answers import SEED, Both
from benchmarks.figures import Figure, at_least
from benchmarks.overhead import StillLink
from benchmarks.routing.drafts import MAX_TOKENS, TOKEN_S, Drafts
from benchmarks.routing.material import Material, grid
from orchestrator.bundled.train import MODELS
from orchestrator.config import default_config
from orchestrator.rules import PolicyBuilder, default_snapshot
from orchestrator.tasks.generator import Split, Task, tasks
from orchestrator.tasks.verify import is_correct
from policies.gain import GainCurve
from policies.outcomes import kappas
from policies.score import FloatArray
from policies.threshold import OptimalThreshold
from policies.types import Route

AT_ONCE, WARM_UP, CLOUD_S = 8, 16, 0.3
Asked = tuple[Task, Both]


def replayed(given: Material) -> list[Figure]:
    """Draft time and utility with all three decisions, against deciding after alone."""
    states = grid(given.prices)
    kappa = kappas(given.held, states, given.speed, given.objective)
    drafts = Drafts.of(given.rows, first_scorer(MODELS / "edge"))
    policy = OptimalThreshold(given.objective, given.speed, curve=GainCurve.fit(given.fit))
    plain, early = (np.mean([_play(given, row, policy, drafts, on) for row in kappa], axis=0) for on in (False, True))
    gain = 1e3 * (early[1] - plain[1]) / given.objective.value_usd
    return [
        at_least("replay: draft time recovered", 1.0 - float(early[0] / plain[0]), "share", 0.6),
        at_least("replay: utility, three decisions - after only", float(gain), "V per 1,000", 0.0),
    ]


def on_the_real_system(given: Material, count: int) -> list[Figure]:
    """The same with the real engine: draft seconds of requests that ended in the cloud, right answers, utility."""
    plain, early = asyncio.run(_both(given, count))
    second, value = given.objective.second_usd, given.objective.value_usd
    spent = [sum(a.draft.seconds for a, _ in run if a.route is Route.CLOUD) for run in (plain, early)]
    right = [mean(ok for _, ok in run) for run in (plain, early)]
    waited = [mean(a.seconds for a, _ in run) for run in (plain, early)]
    paid = [mean(a.cost_usd for a, _ in run) for run in (plain, early)]
    worth = [r - (p + second * s) / value for r, p, s in zip(right, paid, waited, strict=True)]
    return [
        at_least("real engine under load: draft time recovered", 1.0 - spent[1] / spent[0], "share", 0.6),
        Figure("real engine: success, after only", right[0], "share"),
        Figure("real engine: success, three decisions", right[1], "share"),
        Figure("real engine: offloads, after only", mean(a.route is Route.CLOUD for a, _ in plain), "share"),
        Figure("real engine: offloads, three decisions", mean(a.route is Route.CLOUD for a, _ in early), "share"),
        Figure("real engine: mean latency, after only", 1e3 * waited[0], "ms"),
        Figure("real engine: mean latency, three decisions", 1e3 * waited[1], "ms"),
        at_least("real engine: utility, three decisions - after only", 1e3 * (worth[1] - worth[0]), "V per 1,000", 0.0),
    ]


def _play(
    given: Material, kappa: FloatArray, policy: OptimalThreshold, drafts: Drafts, early: bool
) -> tuple[float, float]:
    """Seconds of drafts that ended in the cloud, and mean utility in dollars, per request; ``kappa`` [n]."""
    held, objective, taus = given.held, given.objective, policy.taus(kappa)
    begun = drafts.begun(taus, objective.value_usd, objective.second_usd) if early else np.full(len(taus), True)
    seconds = TOKEN_S * (drafts.made(taus, begun) if early else drafts.length)
    kept = begun & (held.score >= taus) & (held.score > 0)
    value = objective.value_usd * np.where(kept, held.edge_right, held.cloud_right) - np.where(kept, 0.0, kappa)
    return float((~kept * seconds).mean()), float((value - objective.second_usd * seconds).mean())


class PlayedBack:
    """A cloud that answers after ``CLOUD_S`` seconds with as many tokens as the real one needed.

    It always says what is right, which passes every gate; whether the real one was right is in its row.
    """

    def __init__(self, batch: Sequence[Asked]) -> None:
        self._answers = {str(list(task.messages)): (task.text, row) for task, row in batch}

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:  # noqa: ARG002
        """See ``Engine``."""
        await asyncio.sleep(CLOUD_S)
        text, row = self._answers[str(list(prompt.messages))]
        answer, work = Completion(text, (), "stop", row.cloud_tokens), row.work
        return Generation((answer,), row.prompt_tokens, "cloud", CLOUD_S, work.up_bytes, work.down_bytes)

    async def load(self, path: Path, version: str) -> LoadReport:
        """Never asked for."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to free."""


async def _both(given: Material, count: int) -> list[list[tuple[Answer, bool]]]:
    path = MODELS / "edge"
    engine = await build_engine("vllm", path, "edge-0000-00000000", LocalSettings())
    drawn = zip(tasks(SEED, Split.TEST), [*given.fit_rows, *given.rows], strict=False)
    batch = list(islice(drawn, len(given.fit_rows), len(given.fit_rows) + count))
    try:
        runs = []
        for on in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                runs.append(await _load(given, engine, path, batch, on, Path(directory)))
    finally:
        await engine.close()
    return runs


async def _load(
    given: Material, engine: Engine, path: Path, batch: Sequence[Asked], early: bool, directory: Path
) -> list[tuple[Answer, bool]]:
    weights, log = Weights("edge-0000-00000000", path), OffloadLog(directory, "benchmark")
    config = default_config()
    config = config.model_copy(
        update={"policy": config.policy.model_copy(update={"objective": given.objective}), "prices": given.prices}
    )
    node = EdgeNode(
        engine=engine,
        weights=weights,
        scorers=Scorers(weights.version, first_scorer(path)),
        cloud=PlayedBack(batch),
        rules=SiteRules(PolicyBuilder(config, weights), default_snapshot(config)),
        link=StillLink(),
        log=log,
        verify=verify,
        options=NodeOptions(audit_rate=0.0, drafting=DraftOptions(before=early, during=early)),
    )
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(asked: Asked) -> tuple[Answer, bool]:
        task, row = asked
        async with room:
            answer = await node.answer(
                ChatRequest(task.messages, task.tools, sampling=Sampling(max_tokens=MAX_TOKENS), request_id="r")
            )
        return answer, row.cloud_right if answer.route is Route.CLOUD else is_correct(task, answer.served.parsed.calls)

    try:
        return (await asyncio.gather(*map(ask, batch)))[WARM_UP:]
    finally:
        await node.close()
        log.close()
