"""From systems to figures and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.figures import Figure, at_least, interval
from benchmarks.gapg.base import ASKS_AFTER_HIT, ASKS_AFTER_MISS, GO_ON, LEVELS, MOST_ATTEMPTS, RIGHT
from benchmarks.gapg.capped import CAP
from benchmarks.gapg.cloud import WRONG
from benchmarks.gapg.form import LARGEST
from benchmarks.gapg.knowing import Knowing
from benchmarks.gapg.runs import Result, Spec
from benchmarks.gapg.systems import ABOUT, AWARE, BASELINES, COLLAB, GAPG, GRPO, System, overall
from orchestrator.tasks.countdown import Level, Puzzle

Seeds = Sequence[Mapping[str, System]]
_SECOND = {"forced": "an answer in place of the request", "retried": "asked again without the permission to ask"}
KEEP = "## Reading"


def figures(seeds: Seeds, base: System) -> list[Figure]:
    """Means over the seeds, and the differences that are promised something."""
    found = [Figure("base model: solved alone", base.at(0.0).overall, "share")]
    for name in ABOUT:
        points = [systems[name].at() for systems in seeds]
        found += [
            Figure(f"{name}: overall accuracy", interval([p.overall for p in points])[0], "share"),
            Figure(f"{name}: accuracy of what it keeps", interval([p.conditional for p in points])[0], "share"),
            Figure(f"{name}: solved alone, of all", interval([p.local for p in points])[0], "share"),
            Figure(f"{name}: sent to the cloud", interval([p.sent for p in points])[0], "share"),
        ]
    for name in (COLLAB, GRPO, GAPG):
        own = interval([systems[name].own for systems in seeds])[0]
        found.append(Figure(f"{name}: asks for help without a cap", own, "share"))
        found += [
            Figure(f"{name}: overall, refused get {said}", interval(second)[0], "share")
            for field, said in _SECOND.items()
            for second in ([systems[name].with_second(field).at().overall for systems in seeds],)
        ]
    return [*found, *_differences(seeds)]


def _differences(seeds: Seeds) -> Iterator[Figure]:
    """GAPG less the others, paired by seed: the same exam, the same puzzles."""
    ours = overall(seeds, GAPG)
    for name in (*BASELINES, AWARE):
        mean, low, high = interval([a - b for a, b in zip(ours, overall(seeds, name), strict=True)])
        yield Figure(f"GAPG - {name}", mean, "share")
        if not math.isnan(low):
            told = f"GAPG - {name}, 95 % low"
            yield at_least(told, low, "share", 0.0) if name in BASELINES else Figure(told, low, "share")
            yield Figure(f"GAPG - {name}, 95 % high", high, "share")


def page(
    seeds: Seeds,
    sweep: Mapping[float, Sequence[System]],
    results: Sequence[Mapping[str, Result]],
    exams: Sequence[Sequence[Puzzle]],
    base: System,
    known: Knowing,
    spec: Spec,
) -> str:
    """The sections behind the list of figures, as Markdown; ``exams`` are the puzzles of each seed."""
    parts = [
        _method(base, spec),
        _table(seeds),
        _by_level(results, exams),
        _knowing(known),
        _second(seeds),
        _training(results),
        _swept(sweep),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts)


def kept_reading(text: str) -> str:
    """What a person wrote on an earlier page: from ``KEEP`` to its end, or nothing."""
    _, found, reading = text.partition(KEEP)
    return f"{found}{reading}"


def _method(base: System, spec: Spec) -> Iterator[str]:
    """What a reader must know before the numbers."""
    yield "## What was measured\n"
    yield "A Qwen3 of half a million parameters, trained here from nothing on Countdown, then tuned for"
    yield f"{spec.steps} steps of 32 puzzles x 8 answers at temperature 1 (AdamW, peak rate {spec.lr:g}, alpha_a = 1,"
    yield f"alpha_c = {spec.alpha_c:g}). The base has seen right attempts ({RIGHT:.0%}) and random ones, goes on"
    yield f"after a wrong one with probability {GO_ON:g} (at most {MOST_ATTEMPTS} attempts), and asks for help after"
    yield f"{ASKS_AFTER_MISS:.0%} of its misses and {ASKS_AFTER_HIT:.0%} of its hits."
    yield f"Alone it solves {base.at(0.0).overall:.1%}, greedily."
    yield f"Puzzles, in equal parts: {'; '.join(map(_level, LEVELS))}."
    yield f"**The cloud is the exact solver, made to fail on a fixed {WRONG:.0%} of puzzles**, chosen by a hash; the"
    yield f"paper's cloud solves 94.6 %. Every whole number up to {LARGEST} is one token: that makes answers short."
    yield f"Each seed has its own {spec.test} test puzzles, the same for all methods, so an interval over seeds"
    yield "holds the puzzles' chance too. Requests for help come in the order of the exam; first come, first served."
    yield "The learning rate and alpha_c were found on another seed and on puzzles of the training split."


def _level(level: Level) -> str:
    return f"{level.numbers} numbers up to {level.highest}, targets up to {level.limit}"


def _table(seeds: Seeds) -> Iterator[str]:
    yield f"## At a cap of {CAP:.0%}\n"
    yield f"Means over {len(seeds)} seeds and 95 % intervals (Student's t over the seeds), in per cent.\n"
    yield "| system | overall | of what it keeps | alone, of all | sent | asks without a cap | |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for name, about in ABOUT.items():
        points = [systems[name].at() for systems in seeds]
        columns = [[getattr(p, field) for p in points] for field in ("overall", "conditional", "local", "sent")]
        columns.append([systems[name].own for systems in seeds])
        yield f"| {name} | {' | '.join(map(_percent, columns))} | {about} |"
    cloud = [float(next(iter(systems.values())).cloud.mean()) for systems in seeds]
    yield f"| the cloud alone | {_percent(cloud)} | | | 100 | | the exact solver, made to fail on 5 % of puzzles |"


def _knowing(found: Knowing) -> Iterator[str]:
    yield "## What the base knows of its own failure\n"
    yield "Sampled at temperature 1 with the permission to ask, before any tuning, in per cent.\n"
    yield "| | |\n|---|---:|"
    for name, value in asdict(found).items():
        yield f"| {name.replace('_', ' ')} | {100 * value:.1f} |"


def _by_level(results: Sequence[Mapping[str, Result]], exams: Sequence[Sequence[Puzzle]]) -> Iterator[str]:
    yield "## By kind of puzzle\n"
    yield "Solved alone | asks for help, in per cent, without a cap.\n"
    yield f"| run | {' | '.join(map(_level, LEVELS))} |"
    yield f"|---|{'---:|' * len(LEVELS)}"
    for method in results[0]:
        cells = []
        for level in LEVELS:
            here = [np.array([puzzle.level == level for puzzle in exam]) for exam in exams]
            found = [run[method].answers for run in results]
            right, asked = (
                100 * _mean([getattr(answers, field)[of].mean() for answers, of in zip(found, here, strict=True)])
                for field in ("right", "asked")
            )
            cells.append(f"{right:.1f} \\| {asked:.1f}")
        yield f"| {method} | {' | '.join(cells)} |"


def _second(seeds: Seeds) -> Iterator[str]:
    yield "## Refused requests\n"
    yield "Overall accuracy under the cap, in per cent, by what a refused request gets.\n"
    yield f"| system | nothing: it is wrong | {' | '.join(_SECOND.values())} |"
    yield "|---|---:|---:|---:|"
    for name in (COLLAB, GRPO, GAPG):
        seconds = [[systems[name].with_second(field).at().overall for systems in seeds] for field in _SECOND]
        yield f"| {name} | {' | '.join(map(_percent, [overall(seeds, name), *seconds]))} |"


def _training(results: Sequence[Mapping[str, Result]]) -> Iterator[str]:
    yield "## Training\n"
    yield "Means over seeds of the last tenth of the steps, at temperature 1.\n"
    yield "| run | reward | solved alone | asked | prompts learnt from | puzzles the cloud was asked | seconds |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for method in results[0]:
        runs = [found[method] for found in results]
        last = [run.steps[-max(len(run.steps) // 10, 1) :] for run in runs]
        means = [
            _mean([step[name] for steps in last for step in steps]) for name in ("reward", "right", "asked", "kept")
        ]
        spent = [_mean([run.cloud_calls for run in runs]), _mean([run.seconds for run in runs])]
        yield f"| {method} | {' | '.join(f'{mean:.3f}' for mean in means)} | {spent[0]:.0f} | {spent[1]:.0f} |"
    router = [run["task"].router for run in results]
    yield f"\nThe router tells {_mean([r['held_accuracy'] for r in router]):.3f} of held-out training puzzles right, "
    solved = _mean([max(r["solved"], 1 - r["solved"]) for r in router])
    yield f"where the more frequent answer for all would be right on {solved:.3f}."


def _swept(sweep: Mapping[float, Sequence[System]]) -> Iterator[str]:
    yield "## GAPG by alpha_c\n"
    yield "| alpha_c | overall at the cap | of what it keeps | alone, of all | asks without a cap |"
    yield "|---:|---:|---:|---:|---:|"
    for alpha, found in sweep.items():
        points = [system.at() for system in found]
        columns = [[getattr(p, field) for p in points] for field in ("overall", "conditional", "local")]
        yield f"| {alpha:g} | {' | '.join(map(_percent, [*columns, [system.own for system in found]]))} |"


def _percent(values: Sequence[float]) -> str:
    mean, low, high = interval([100 * value for value in values])
    return f"{mean:.1f}" if math.isnan(low) else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _mean(values: Sequence[Any]) -> float:
    return float(sum(values) / len(values))
