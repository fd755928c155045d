"""The command line of ``benchmarks.routing``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.figures import parser, publish
from benchmarks.routing import __doc__ as about
from benchmarks.routing import coupled, early, frontier, pace, promises, thresholds
from benchmarks.routing.material import material


def main() -> int:
    """Measure, print, write."""
    arguments = parser(about)
    arguments.add_argument("--var", type=Path, default=Path("var"), help="where the models' answers are kept")
    arguments.add_argument("--traces", type=Path, help="directory of recorded link traces (NAME.up, NAME.down)")
    arguments.add_argument("--arrivals", type=Path, help="CSV with a column TIMESTAMP")
    options = arguments.parse_args()
    given = material(options.quick, options.var)
    seeds = 1 if options.quick else 3
    figures = [
        *thresholds.closed_gaps(given, seeds),
        *thresholds.violations(given),
        *frontier.against_prompt_only(given),
        *frontier.against_fixed(given, options.traces, options.arrivals),
        *promises.calibration(given),
        *promises.guarantee(given),
        *promises.budgets(given, 5),
        *coupled.coupled(given, seeds),
        *pace.decisions(given),
        *early.replayed(given),
        *early.on_the_real_system(given, 100 if options.quick else 400),
    ]
    told = {"requests": len(given.rows), "fitted on": len(given.fit_rows), "objective": str(given.objective)}
    return publish("Routing", figures, options, told)


if __name__ == "__main__":
    sys.exit(main())
