"""The command line of ``benchmarks.gapg``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actors.rollouts import ROLLOUT_SETTINGS, Rollouts
from benchmarks.figures import parser, publish
from benchmarks.gapg import __doc__ as about
from benchmarks.gapg import base, plots, report
from benchmarks.gapg.answers import Examiner
from benchmarks.gapg.cloud import cloud_right
from benchmarks.gapg.knowing import Knowing, knowing
from benchmarks.gapg.runs import METHODS, Result, Runner, Spec, exam_puzzles
from benchmarks.gapg.systems import System, by_itself, systems


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: the base, the seeds of all methods, those of the sweep, and what every run is."""

    plan: base.Plan
    seeds: Sequence[int]
    alphas: Sequence[float]
    swept: Sequence[int]
    spec: Spec


FULL = Size(base.Plan(), (0, 1, 2), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), (0,), Spec("gapg", 0))
QUICK = Size(
    base.Plan(hidden=32, layers=2, lessons=2000, steps=60, batch=32),
    (0,),
    (0.0, 1.0),
    (0,),
    Spec("gapg", 0, steps=4, pool=200, test=60, watch=30, exams=2),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was run: the base's exam and what it knows, every method by seed, and GAPG by alpha_c."""

    start: System
    known: Knowing
    results: Sequence[Mapping[str, Result]]
    swept: Mapping[float, Sequence[System]]


def main() -> int:
    """Measure, print, write."""
    arguments = parser(about)
    arguments.add_argument(
        "--var", type=Path, default=Path("var/benchmarks/gapg"), help="where models and runs are kept"
    )
    options = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    size = QUICK if options.quick else FULL
    directory = base.base_model(size.plan, options.var)
    sampler = Rollouts(directory, "base", replace(ROLLOUT_SETTINGS, threads=1))
    try:
        return _publish(options, size, measure(size, directory, options.var, sampler))
    finally:
        sampler.close()


def measure(size: Size, directory: Path, var: Path, sampler: Rollouts) -> Measured:
    """Run what is not there yet, the seeds first."""
    examiner, test = Examiner(directory, sampler), exam_puzzles(size.spec)
    start = by_itself(examiner.exam(test, may_ask=False), cloud_right(test))
    known = knowing(examiner, test[: size.spec.watch])
    runner = Runner(directory, var, sampler)
    results = [_runs(runner, replace(size.spec, seed=seed)) for seed in size.seeds]
    return Measured(start, known, results, {alpha: _swept(runner, size, alpha) for alpha in size.alphas})


def _runs(runner: Runner, spec: Spec) -> dict[str, Result]:
    return {method: runner.result(replace(spec, method=method)) for method in METHODS}


def _swept(runner: Runner, size: Size, alpha: float) -> list[System]:
    """GAPG with one alpha_c; where that is the main runs' own, they are read."""
    specs = [replace(size.spec, seed=seed, alpha_c=alpha) for seed in size.swept]
    return [by_itself(runner.result(spec).answers, cloud_right(exam_puzzles(spec))) for spec in specs]


def _publish(options: argparse.Namespace, size: Size, found: Measured) -> int:
    """Table and files; what a person wrote under the heading of the reading stays."""
    exams = [exam_puzzles(replace(size.spec, seed=seed)) for seed in size.seeds]
    clouds = [cloud_right(exam) for exam in exams]
    seeds = [systems(*each) for each in zip(found.results, clouds, size.seeds, strict=True)]
    written = options.out.with_suffix(".md") if options.out else None
    reading = report.kept_reading(written.read_text(encoding="utf-8")) if written and written.exists() else ""
    told = {"run": asdict(size.spec), "base": asdict(size.plan), "seeds": list(size.seeds), "swept": list(size.swept)}
    status = publish("GAPG on Countdown", report.figures(seeds, found.start), options, told)
    if written:
        curves = plots.draw(options.out.with_suffix(""), seeds, found.swept, found.results)
        page = report.page(seeds, found.swept, found.results, exams, found.start, found.known, size.spec)
        with written.open("a", encoding="utf-8") as lines:
            lines.write("\n" + "\n".join([page, curves, reading]).rstrip() + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
