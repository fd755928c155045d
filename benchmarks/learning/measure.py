"""What a version is worth: its drafts and the cloud's answers to fresh requests, judged by the tasks' own truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Worth:
    """Shares in [0, 1] over the same requests for every version.

    ``offload`` and ``success`` are those of edge and cloud together at the site's threshold; ``equal_offload`` is the
    least share of offloads, by the score, at which they are as often right as the first version's site was.
    """

    version: str
    edge_success: float
    schema_valid: float
    auroc: float
    ece: float
    offload: float
    success: float
    equal_offload: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A version's scores and what was right, each [n]."""

    score: FloatArray
    edge: BoolArray
    cloud: BoolArray
    valid: BoolArray

    def equal_offload(self, success: float) -> float:
        """Least share of offloads with at least ``success``; 1 where no share is enough."""
        order = np.argsort(self.score, kind="stable")
        gained = np.cumsum(self.cloud[order].astype(float) - self.edge[order])
        reached = np.concatenate([[0.0], gained]) + self.edge.sum() >= success * len(order) - 1e-9
        return float(np.argmax(reached) / len(order)) if reached.any() else 1.0

    def worth(self, site: Site) -> Worth:
        """At the threshold of ``site``."""
        kept = self.score >= site.threshold
        right = np.where(kept, self.edge, self.cloud)
        edge, valid = float(self.edge.mean()), float(self.valid.mean())
        quality = auroc(self.score, self.edge), ece(self.score, self.edge)
        return Worth(site.node.version, edge, valid, *quality, float(1 - kept.mean()), float(right.mean()))


async def look(site: Site, tasks: Sequence[Task]) -> Seen:
    """The live version of ``site`` on ``tasks``."""
    answered = await site.drafts(tasks)
    cloud = await site.cloud_texts([Prompt(task.messages, task.tools) for task in tasks])
    return Seen(
        np.array([_score(site.scorer(), one) for one in answered]),
        np.array([one.correct for one in answered]),
        np.array([is_correct(task, parse(text).calls) for task, text in zip(tasks, cloud, strict=True)]),
        np.array([one.is_valid for one in answered]),
    )


async def strict_validity(site: Site, tasks: Sequence[Task]) -> float:
    """Share of schema-valid answers of the live version under a grammar."""
    texts = await site.strict(tasks)
    return float(np.mean([is_schema_valid(task, text) for task, text in zip(tasks, texts, strict=True)]))


def as_json(worth: Worth) -> dict[str, Any]:
    """Plain data."""
    return asdict(worth)


def _score(scorer: Scorer, one: Answered) -> float:
    return scorer.judge(question(one.task.messages), len(one.task.tools), one.completion.logprobs, one.is_valid)
