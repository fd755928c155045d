"""Measure the bundled models: ``python -m orchestrator.bundled.evaluate [--json] [--calibrate]``.

Greedy answers through the engine that serves (vLLM), by model, difficulty and test set: task success (exact match after
canonicalisation), schema validity and JSON validity without a grammar, and for the score (P(draft correct) of the
model's calibrator) its AUROC and calibration error. ``--calibrate`` first fits the edge model's scorer, on
requests of the training split, and writes it beside the weights.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.chat import question
from actors.engine import Completion, Engine, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.scorer import JudgedDraft, Scorer, first_scorer
from actors.vllm_engine import VllmEngine
from orchestrator.bundled.recipes import RECIPES, SELDOM
from orchestrator.bundled.train import MODELS
from orchestrator.tasks.generator import Split, Task, tasks
from orchestrator.tasks.verify import is_correct, is_schema_valid
from policies.calibration import auroc, ece
from policies.toolcalls import parse

_AT_ONCE = 32
_SEED = 11


@dataclass(frozen=True, slots=True)
class Answered:
    """A task and what the model said."""

    task: Task
    completion: Completion

    @property
    def correct(self) -> bool:
        """Whether the calls mean what was asked."""
        return is_correct(self.task, parse(self.completion.text).calls)

    @property
    def is_json(self) -> bool:
        """Whether the tool-call syntax and the JSON in it can be read."""
        parsed = parse(self.completion.text)
        return parsed.error is None and bool(parsed.calls)

    @property
    def is_valid(self) -> bool:
        """Whether every call also names an offered tool and passes its schema."""
        return self.is_json and is_schema_valid(self.task, self.completion.text)


def main() -> None:
    """Evaluate what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="directory that holds edge/ and cloud/")
    parser.add_argument("--only", choices=list(RECIPES), help="one model")
    parser.add_argument("--count", type=int, default=1000, help="requests of each test set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibrate", action="store_true", help="fit and write the edge model's scorer first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if options.calibrate:
        asyncio.run(calibrate(options.models / "edge", options.count, options.threads))
    names = [options.only] if options.only else list(RECIPES)
    report = {name: asyncio.run(measure(options.models / name, options.count, options.threads)) for name in names}
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)


async def measure(path: Path, count: int, threads: int = 2) -> dict[str, Any]:
    """``summarise`` of the model in ``path`` on ``count`` requests of each test set."""
    scorer = first_scorer(path)
    async with _engine(path, threads) as engine:
        answered = {split.value: await answer(engine, _draw(split, count)) for split in (Split.TEST, Split.OPEN)}
    return {name: summarise(part, scorer) for name, part in answered.items()}


async def calibrate(path: Path, count: int, threads: int = 2) -> None:
    """Fit the model's scorer on ``count`` requests of the training split and write it beside the weights."""
    async with _engine(path, threads) as engine:
        answered = await answer(engine, _draw(Split.TRAIN, count))
    fit_scorer(answered).save(path)


@asynccontextmanager
async def _engine(path: Path, threads: int) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(path, path.name, LocalSettings(threads=threads))
    await engine.setup()
    try:
        yield engine
    finally:
        await engine.close()


def _draw(split: Split, count: int) -> list[Task]:
    return list(itertools.islice(tasks(_SEED, split), count))


async def answer(engine: Engine, batch: Sequence[Task]) -> list[Answered]:
    """Greedy answers, many at once."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(task: Task) -> Answered:
        async with room:
            generation = await engine.generate(Prompt(task.messages, task.tools), Sampling(max_tokens=160))
        return Answered(task, generation.completions[0])

    return list(await asyncio.gather(*map(one, batch)))


def fit_scorer(answered: Sequence[Answered]) -> Scorer:
    """P(draft correct), and what can be forecast of it from the prompt alone."""
    return Scorer.fit([JudgedDraft(*_asked(a), a.completion.logprobs, a.is_valid, a.correct) for a in answered])


def summarise(answered: Sequence[Answered], scorer: Scorer) -> dict[str, Any]:
    """Success, validity and the score's quality, overall and by difficulty; shares in [0, 1]."""
    correct = np.array([a.correct for a in answered])
    valid = np.array([a.is_valid for a in answered])
    scores = np.array([scorer.judge(*_asked(a), a.completion.logprobs, a.is_valid) for a in answered])
    seldom = np.array([a.task.kind in SELDOM for a in answered])
    levels = np.array([a.task.difficulty for a in answered])
    return {
        "requests": len(answered),
        "success": float(correct.mean()),
        "schema_valid": float(valid.mean()),
        "json_valid": float(np.mean([a.is_json for a in answered])),
        "auroc": auroc(scores, correct),
        "auroc_min_logprob": auroc(np.array([min(a.completion.logprobs, default=0.0) for a in answered]), correct),
        "ece": ece(scores, correct),
        "success_by_difficulty": {str(n): float(correct[levels == n].mean()) for n in (1, 2, 3, 4)},
        "success_seldom_tools": float(correct[seldom].mean()),
        "success_other_tools": float(correct[~seldom].mean()),
    }


def _asked(answered: Answered) -> tuple[str, int]:
    return question(answered.task.messages), len(answered.task.tools)


def _print(report: dict[str, Any]) -> None:
    table = Table("model", "test set", "success", "1 / 2 / 3 / 4", "seldom", "schema", "JSON", "AUROC", "ECE")
    for model, sets in report.items():
        for name, row in sets.items():
            levels = " / ".join(f"{row['success_by_difficulty'][n]:.2f}" for n in "1234")
            shares = (row[k] for k in ("success_seldom_tools", "schema_valid", "json_valid", "auroc", "ece"))
            table.add_row(model, name, f"{row['success']:.3f}", levels, *(f"{share:.3f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
