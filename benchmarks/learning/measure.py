"""What a version is worth: its drafts and the cloud's answers to fresh requests, judged by the tasks' own truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat import question
from actors.engine import Prompt
from actors.scorer import Scorer
from benchmarks.learning.site import Site
from orchestrator.bundled.evaluate import Answered
from orchestrator.tasks.generator import Task
from orchestrator.tasks.verify import is_correct, is_schema_valid
from policies.calibration import auroc, ece
from policies.fitting import BoolArray
from policies.score import FloatArray
from policies.toolcalls import parse

STEPS = 100  # of the frontier
STRICT = 500  # requests asked again under a grammar, which takes twice as long


@dataclass(frozen=True, slots=True)
class Worth:
    """Shares in [0, 1] over the same requests for every version.

    ``offload`` and ``success`` are those of edge and cloud together at a threshold; ``frontier`` is their success at
    offload shares of 0, .01, .02, ... 1, the drafts with the lowest scores going to the cloud. ``strict_valid`` is the
    share of schema-valid answers under a grammar, over the first ``STRICT`` requests.
    """

    edge_success: float
    schema_valid: float
    auroc: float
    ece: float
    offload: float
    success: float
    frontier: tuple[float, ...]
    strict_valid: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A version's scores and what was right, each [n]."""

    score: FloatArray
    edge: BoolArray
    cloud: BoolArray
    valid: BoolArray
    strict_valid: float

    @property
    def frontier(self) -> tuple[float, ...]:
        """Success at offload shares of 0, .01, ... 1."""
        order = np.argsort(self.score, kind="stable")
        gained = np.concatenate([[0.0], np.cumsum(self.cloud[order].astype(float) - self.edge[order])])
        shares = np.round(np.linspace(0.0, len(order), STEPS + 1)).astype(int)
        return tuple(((gained[shares] + self.edge.sum()) / len(order)).round(4).tolist())

    def worth(self, threshold: float) -> Worth:
        """Where drafts are kept that score ``threshold`` or more."""
        kept = self.score >= threshold
        right = np.where(kept, self.edge, self.cloud)
        edge, valid = float(self.edge.mean()), float(self.valid.mean())
        quality = auroc(self.score, self.edge), ece(self.score, self.edge)
        offload, success = float(1 - kept.mean()), float(right.mean())
        return Worth(edge, valid, *quality, offload, success, self.frontier, self.strict_valid)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a version and the cloud answered to the same requests."""

    answered: Sequence[Answered]
    cloud: Sequence[str]
    strict: Sequence[str]

    def seen(self, scorer: Scorer) -> Seen:
        """Judged by ``scorer`` and by the tasks' own truth."""
        tasks = [one.task for one in self.answered]
        return Seen(
            np.array([_score(scorer, one) for one in self.answered]),
            np.array([one.correct for one in self.answered]),
            np.array([is_correct(task, parse(text).calls) for task, text in zip(tasks, self.cloud, strict=True)]),
            np.array([one.is_valid for one in self.answered]),
            float(np.mean([is_schema_valid(task, text) for task, text in zip(tasks, self.strict, strict=False)])),
        )


async def look(site: Site, tasks: Sequence[Task]) -> Looked:
    """The live version of ``site`` on ``tasks``."""
    answered = await site.drafts(tasks)
    cloud = await site.cloud_texts([Prompt(task.messages, task.tools) for task in tasks])
    return Looked(answered, cloud, await site.strict(tasks[:STRICT]))


def _score(scorer: Scorer, one: Answered) -> float:
    return scorer.judge(question(one.task.messages), len(one.task.tools), one.completion.logprobs, one.is_valid)
