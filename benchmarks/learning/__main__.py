"""Runs every variant and seed as a process of its own, keeps each result, and writes the tables.

A result that is there already is not made again, so an interrupted benchmark goes on. Everything takes some nine
hours on one core; ``--jobs 2`` halves that. What ships is followed twice as long as what it is compared with.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import parser
from benchmarks.learning.report import write
from benchmarks.learning.variants import DEFAULT, VARIANTS

KEPT = Path("var/benchmarks/learning")
REQUESTS, LONGER, JUDGED = {"rounds": 1200, "shift": 1500}, 2400, 1500
STRETCH = 400  # requests between two looks at what ships; the others are judged at the end
FIRST_SEED = 10  # earlier ones were looked at while the learner was made
LIMIT_S = 7200.0


@dataclass(frozen=True, slots=True)
class Run:
    """One process."""

    kind: str
    variant: str
    seed: int

    def path(self, quick: bool) -> Path:
        name = re.sub(r"[^a-z]+", "-", self.variant.lower()).strip("-")
        return KEPT / ("quick" if quick else "full") / f"{self.kind}-{name}-{self.seed}.json"

    def requests(self, quick: bool) -> int:
        """That the site serves."""
        if quick:
            return REQUESTS[self.kind] // 4
        return LONGER if (self.kind, self.variant) == ("rounds", DEFAULT.name) else REQUESTS[self.kind]

    def make(self, quick: bool) -> None:
        if self.path(quick).exists():
            return
        asked, judged = self.requests(quick), 100 if quick else JUDGED
        stretch = STRETCH if self.variant == DEFAULT.name else asked  # to judge takes as long as to learn
        options = ["--kind", self.kind, "--variant", self.variant, "--seed", str(self.seed), "--requests", str(asked)]
        options += ["--stretch", str(stretch), "--judged", str(judged)]
        options += ["--answers", str(KEPT / "cloud.jsonl"), "--out", str(self.path(quick))]
        subprocess.run([sys.executable, "-m", "benchmarks.learning.play", *options], check=True, timeout=LIMIT_S)


def main() -> int:
    """Run, read, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    arguments.add_argument("--jobs", type=int, default=1, help="runs at once; each takes one core")
    options = arguments.parse_args()
    made = list(planned(1 if options.quick else options.seeds, options.quick))
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: run.make(options.quick), made))
    return write([run.path(options.quick) for run in made], options)


def planned(seeds: int, quick: bool) -> Iterator[Run]:
    """The runs, the telling ones first."""
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    for kind in ("rounds", "shift"):
        for seed in drawn:
            yield Run(kind, DEFAULT.name, seed)
    for seed in drawn:
        for variant in VARIANTS[1:2] if quick else VARIANTS[1:]:
            yield Run("rounds", variant.name, seed)


if __name__ == "__main__":
    sys.exit(main())
