"""Runs every kind and seed as a process of its own, keeps each result, and writes the tables.

A result that is there already is not made again, so an interrupted benchmark goes on. Everything takes some five
hours on one core; ``--jobs 2`` halves that.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import parser
from benchmarks.learning.report import write
from benchmarks.learning.ways import WAYS

KEPT = Path("var/benchmarks/learning")
REQUESTS, JUDGED = {"rounds": 2400, "shift": 1500, "ways": 800}, 1500
QUICKER = 4  # times fewer requests
FIRST_SEED = 10  # earlier ones were looked at while the learner was made
LIMIT_S = 7200.0


@dataclass(frozen=True, slots=True)
class Run:
    """One process."""

    kind: str
    seed: int

    def path(self, quick: bool) -> Path:
        return KEPT / ("quick" if quick else "full") / f"{self.kind}-{self.seed}.json"

    def make(self, quick: bool) -> None:
        if self.path(quick).exists():
            return
        asked, judged = REQUESTS[self.kind] // (QUICKER if quick else 1), 100 if quick else JUDGED
        options = ["--kind", self.kind, "--seed", str(self.seed), "--requests", str(asked), "--judged", str(judged)]
        options += ["--ways", str(2 if quick else len(WAYS))]
        options += ["--answers", str(KEPT / "cloud.jsonl"), "--out", str(self.path(quick))]
        subprocess.run([sys.executable, "-m", "benchmarks.learning.play", *options], check=True, timeout=LIMIT_S)


def main() -> int:
    """Run, read, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    arguments.add_argument("--jobs", type=int, default=1, help="runs at once; each takes one core")
    options = arguments.parse_args()
    made = list(planned(1 if options.quick else options.seeds))
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: run.make(options.quick), made))
    return write([run.path(options.quick) for run in made], options)


def planned(seeds: int) -> Iterator[Run]:
    """The runs, the telling ones first."""
    for kind in REQUESTS:
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            yield Run(kind, seed)


if __name__ == "__main__":
    sys.exit(main())
