"""The model everything starts from: supervised, on puzzles of the training split.

It has seen good work and bad: an attempt is right with probability ``RIGHT`` and another random one otherwise, after a
wrong one it goes on with probability ``GO_ON``, and where it may ask for help it does so now and then, more often after
a miss, as a model does that was told when to ask. So it says whether it failed, can try again and can ask, but always
answers where its likeliest word counts; how often to ask is what reinforcement learning has to find.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from actors.trainer import Trainer
from actors.training import Sample, TrainConfig
from benchmarks.gapg.form import answer, build_tokenizer, is_simple, random_attempt, reaches
from orchestrator.bundled.recipes import Recipe
from orchestrator.bundled.train import build_model, export
from orchestrator.tasks.countdown import SHORT, Level, Puzzle, messages, puzzles
from orchestrator.tasks.generator import Split

log = logging.getLogger(__name__)

LEVELS = (Level(3, 9, 100), Level(3, 25, 100), Level(4, 9, 100))
MOST_ATTEMPTS = 3
RIGHT, GO_ON = 0.8, 0.3  # above a half its likeliest word after a miss would be another attempt, for ever
ASKS_AFTER_HIT, ASKS_AFTER_MISS = 0.03, 0.3
NEVER = 10**9  # seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the base's weights. ``lessons`` are fresh; each is seen ``steps * batch / lessons`` times."""

    hidden: int = 96
    layers: int = 4
    lessons: int = 200_000
    steps: int = 1600
    batch: int = 128
    lr: float = 3e-3
    seed: int = 1

    @property
    def name(self) -> str:
        """Differs when anything differs that decides the weights."""
        told = f"{asdict(self)} {LEVELS} {MOST_ATTEMPTS} {RIGHT} {GO_ON} {ASKS_AFTER_HIT} {ASKS_AFTER_MISS}"
        return f"base-{hashlib.blake2s(told.encode()).hexdigest()[:8]}"


def base_model(plan: Plan, var: Path) -> Path:
    """The base's directory; trained where it is not there yet."""
    directory, aside = var / plan.name, var / f"{plan.name}.part"
    if directory.exists():
        return directory
    tokenizer = build_tokenizer()
    heads = plan.hidden // 32
    recipe = Recipe(
        "countdown", plan.hidden, plan.layers, heads, 32, 8 * plan.hidden // 3, plan.steps, {}, seed=plan.seed
    )
    export(build_model(recipe, tokenizer), tokenizer, aside)
    lessons = list(itertools.islice(teach(plan.seed), plan.lessons))
    config = TrainConfig(
        steps=plan.steps, batch_size=plan.batch, anchor_batch=0, anchor_weight=0.0, lr=plan.lr, seed=plan.seed,
        device="cpu", threads=1, time_limit_s=NEVER,
    )  # fmt: skip
    trainer = Trainer(aside, config)
    trainer.fit(lessons, (), lambda figures: log.info("base %s", {k: round(v, 4) for k, v in figures.items()}))
    trainer.save(aside)
    aside.rename(directory)
    return directory


def teach(seed: int) -> Iterator[Sample]:
    """Endless lessons; half of them without the permission to ask."""
    rng = Random(f"lessons/{seed}")
    for puzzle in puzzles(seed, Split.TRAIN, LEVELS):
        if is_simple(puzzle.solution):
            yield lesson(rng, puzzle, may_ask=rng.random() < 0.5)


def lesson(rng: Random, puzzle: Puzzle, may_ask: bool) -> Sample:
    """One puzzle as the base is to answer it."""
    attempts: list[str] = []
    while True:
        attempts.append(puzzle.solution if rng.random() < RIGHT else random_attempt(rng, puzzle.numbers, attempts))
        hit = reaches(attempts[-1], puzzle.target)
        if hit or len(attempts) == MOST_ATTEMPTS or rng.random() >= GO_ON:
            break
    ask = may_ask and rng.random() < (ASKS_AFTER_HIT if hit else ASKS_AFTER_MISS)
    return Sample(messages(puzzle, SHORT, may_ask), (), answer(attempts, puzzle.target, ask))
