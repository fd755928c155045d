"""The tuning runs: one model, one seed, one way to learn; each kept as JSON as soon as it is done.

A run samples with the library's own rollouts, judges with its collaborative judge and learns with its policy trainer.
On the way it sits short exams, at the end a long one. The task-tuned model also labels puzzles for the router.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.judges import CollaborativeJudge
from actors.policy_trainer import PolicyConfig, PolicyTrainer, Work
from actors.rollouts import Rollouts
from benchmarks.figures import keep
from benchmarks.gapg.answers import MAX_NEW_TOKENS, Answers, Examiner
from benchmarks.gapg.base import LEVELS
from benchmarks.gapg.capped import CAP, accuracy, first_come
from benchmarks.gapg.cloud import ask_cloud, cloud_right
from benchmarks.gapg.router import route
from orchestrator.tasks.countdown import Puzzle, is_solved, puzzles
from orchestrator.tasks.generator import Split
from policies.reward import Hierarchy

log = logging.getLogger(__name__)
_POOL, _TEST = 20_000, 10_000  # seeds of puzzles: no two purposes and no two seeds share a stream


@dataclass(frozen=True, slots=True)
class Method:
    """How a run learns: its estimator, what the prompts are filtered to, and whether the prompt permits asking."""

    estimator: str
    cloud_share: float | None = None
    may_ask: bool = True


METHODS: Mapping[str, Method] = {
    "task": Method("grpo", may_ask=False),
    "dr_grpo": Method("dr_grpo"),
    "grpo": Method("grpo"),
    "gapg": Method("gapg", cloud_share=CAP),
}


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that decides a run but the base model.

    Args:
        pool: training puzzles; ``test`` and ``watch`` are the puzzles of the long and of the short exams.
        judged_on: the split of the exams. The learning rate and alpha_c were found on train, with a seed that is not
            reported.
    """

    method: str
    seed: int
    alpha_c: float = 0.4
    steps: int = 120
    lr: float = 2e-4
    pool: int = 3000
    test: int = 1000
    watch: int = 300
    exams: int = 5
    judged_on: Split = Split.TEST

    @property
    def hierarchy(self) -> Hierarchy:
        """Asking without permission earns nothing: else the task-tuned model would learn to do it."""
        return Hierarchy(alpha_c=self.alpha_c if METHODS[self.method].may_ask else 0.0)

    def file(self, base: Path, var: Path) -> Path:
        """Where the result lies: another spec or another base is another file."""
        digest = hashlib.blake2s(f"{base.name} {asdict(self)}".encode()).hexdigest()[:8]
        return var / "runs" / f"{self.method}-{self.seed}-{digest}.json"


@dataclass
class Result:
    """What a run left: ``steps`` and ``curve`` as records, the long exam, and the router's scores [n] if it has one."""

    spec: dict[str, Any]
    answers: Answers
    steps: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    cloud_calls: int = 0
    seconds: float = 0.0
    solves: list[float] = field(default_factory=list)
    router: dict[str, float] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        """``load`` reads it again."""
        keep(file, {**vars(self), "answers": self.answers.to_json()})

    @classmethod
    def load(cls, file: Path) -> Result:
        """Read what ``save`` wrote."""
        data = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**data, "answers": Answers.from_json(data["answers"])})


def exam_puzzles(spec: Spec) -> list[Puzzle]:
    """The long exam; the short one is its head. Methods of one seed sit the same exam, other seeds another."""
    return list(itertools.islice(puzzles(_TEST + spec.seed, spec.judged_on, LEVELS), spec.test))


class Runner:
    """Runs specs on one base model, with one engine for all of them."""

    def __init__(self, base: Path, var: Path, sampler: Rollouts) -> None:
        self._base, self._var, self._sampler = base, var, sampler
        self._examiner = Examiner(base, sampler)

    def result(self, spec: Spec) -> Result:
        """The result of ``spec``: read where it is there, else run."""
        file = spec.file(self._base, self._var)
        if not file.exists():
            log.info("running %s", spec)
            self._run(spec).save(file)
        return Result.load(file)

    def _run(self, spec: Spec) -> Result:
        method, began = METHODS[spec.method], time.perf_counter()
        pool = list(itertools.islice(puzzles(_POOL + spec.seed, Split.TRAIN, LEVELS), spec.pool))
        test, prompts = exam_puzzles(spec), self._examiner.prompts(pool, method.may_ask)
        judge = CollaborativeJudge(pool, is_solved, ask_cloud, spec.hierarchy)
        taken: list[dict[str, float]] = []
        curve: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as scratch:
            trainer = PolicyTrainer(self._base, Path(scratch), _config(spec, method), self._sampler)

            def watch() -> None:
                self._sampler.sync(trainer.model.named_parameters(), f"exam {trainer.step}")
                found = self._examiner.exam(test[: spec.watch], method.may_ask)
                curve.append({"step": trainer.step, **_short(found, test[: spec.watch])})
                log.info("%s %d: %s", spec.method, spec.seed, curve[-1])

            def progress(figures: dict[str, float]) -> None:
                taken.append({name: round(value, 5) for name, value in figures.items()})
                if trainer.step % max(spec.steps // spec.exams, 1) == 0 and trainer.step < spec.steps:
                    watch()

            watch()
            trainer.run(Work(prompts, judge), progress)
            self._sampler.sync(trainer.model.named_parameters(), "tuned")
        answers = self._examiner.exam(test, method.may_ask)
        curve.append({"step": trainer.step, **_short(answers, test)})
        found = Result(asdict(spec), answers, taken, curve, judge.cloud_calls)
        if not method.may_ask:
            self._add_router(found, spec, pool, prompts, test)
        found.seconds = round(time.perf_counter() - began, 1)
        log.info("%s %d done in %.0f s: %s", spec.method, spec.seed, found.seconds, curve[-1])
        return found

    def _add_router(
        self, found: Result, spec: Spec, pool: list[Puzzle], prompts: list[list[int]], test: list[Puzzle]
    ) -> None:
        """Label the training puzzles with the tuned model's answers; learn and score."""
        texts = [answer.text for answer in self._examiner.greedy(prompts)]
        solved = np.array([is_solved(puzzle, text) for puzzle, text in zip(pool, texts, strict=True)])
        routed = route(self._base, prompts, solved, self._examiner.prompts(test, may_ask=False), spec.seed)
        found.solves = [round(float(p), 5) for p in routed.solves]
        found.router = {"held_accuracy": routed.held_accuracy, "epochs": routed.epochs, "solved": float(solved.mean())}


def _short(answers: Answers, puzzles: Sequence[Puzzle]) -> dict[str, float]:
    """An exam in a few numbers."""
    capped = accuracy(first_come(answers.asked, CAP), answers.right, cloud_right(puzzles))
    return {
        "capped": capped.overall,
        "right": float(answers.right.mean()),
        "asked": float(answers.asked.mean()),
        "tokens": float(answers.tokens.mean()),
    }


def _config(spec: Spec, method: Method) -> PolicyConfig:
    return PolicyConfig(
        estimator=method.estimator,
        steps=spec.steps,
        cloud_share=method.cloud_share,
        max_new_tokens=MAX_NEW_TOKENS,
        lr=spec.lr,
        checkpoint_every=spec.steps,
        seed=spec.seed,
    )
