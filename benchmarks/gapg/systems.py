"""The systems that are compared: who decides what goes to the cloud, on top of which tuned model.

A system answers one exam. ``sent(ratio)`` says which requests go to the cloud where at most that share may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.gapg.answers import Answers
from benchmarks.gapg.capped import CAP, Accuracy, accuracy, first_come, lowest, topped_up
from benchmarks.gapg.runs import Result
from policies.fitting import BoolArray

TASK, NAIVE, ROUTER, AWARE = "task-tuning only", "naive offloading", "prompt router", "answer-aware"
COLLAB, GRPO, GAPG, BOTH = "collaboration-aware", "GRPO, same reward", "GAPG", "GAPG, answer-aware top-up"
BASELINES = (TASK, NAIVE, ROUTER, COLLAB, GRPO)
ABOUT = {
    TASK: "GRPO on solving alone; nothing is sent",
    NAIVE: "the same model, random requests are sent",
    ROUTER: "the same model, the requests with the lowest P(device solves x) by the prompt are sent",
    AWARE: "ours: the same model, the drafts with the lowest mean log-probability are sent",
    COLLAB: "Dr. GRPO with the hierarchical reward, no filtering",
    GRPO: "GRPO with the hierarchical reward, no filtering",
    GAPG: "the group estimator with the hierarchical reward and prompt filtering",
    BOTH: "ours: GAPG, and what it leaves of the cap goes to the drafts with the lowest mean log-probability",
}


@dataclass(frozen=True, slots=True)
class System:
    """One system on one seed's exam; ``own`` is the share of requests that its model asks help for."""

    answers: Answers
    cloud: BoolArray
    sent: Callable[[float], BoolArray]

    @property
    def own(self) -> float:
        """Share of requests whose answer asks for help, before any cap."""
        return float(self.answers.asked.mean())

    def at(self, ratio: float = CAP) -> Accuracy:
        """What it reaches where at most ``ratio`` of the requests may go to the cloud; a refused request is wrong."""
        return accuracy(self.sent(ratio), self.answers.right, self.cloud)

    def with_second(self, second: str) -> System:
        """The same, but a refused request gets the second attempt of that name (a field of ``Answers``)."""
        return replace(self, answers=replace(self.answers, right=getattr(self.answers, second)))


def systems(results: Mapping[str, Result], cloud: BoolArray, seed: int) -> dict[str, System]:
    """Every system of one seed, from its four runs."""
    found = _on_task(results["task"], cloud, seed)
    asking = {COLLAB: "dr_grpo", GRPO: "grpo", GAPG: "gapg"}
    found |= {name: by_itself(results[run].answers, cloud) for name, run in asking.items()}
    gapg = results["gapg"].answers
    return found | {BOTH: System(gapg, cloud, partial(topped_up, gapg.asked, gapg.confidence))}


def _on_task(task: Result, cloud: BoolArray, seed: int) -> dict[str, System]:
    """The task-tuned model, and who may send its requests."""
    scores = {
        NAIVE: np.random.default_rng(seed).random(len(cloud)),
        ROUTER: np.array(task.solves),
        AWARE: task.answers.confidence,
    }
    alone = System(task.answers, cloud, lambda _: np.zeros(len(cloud), dtype=bool))
    return {TASK: alone} | {name: System(task.answers, cloud, partial(lowest, score)) for name, score in scores.items()}


def by_itself(answers: Answers, cloud: BoolArray) -> System:
    """A model that decides itself, truncated by the cap. Where it asks for less, the rest of the cap stays unused."""
    return System(answers, cloud, partial(first_come, answers.asked))


def overall(seeds: Sequence[Mapping[str, System]], name: str, ratio: float = CAP) -> list[float]:
    """Overall accuracy of one system, by seed."""
    return [found[name].at(ratio).overall for found in seeds]
