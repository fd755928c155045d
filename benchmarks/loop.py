"""The whole loop over several seeds: what one round of learning and one hot swap do to a site's traffic.

Runs ``netgpt demo`` once for each seed, each from the bundled models and an empty log, and reads its summary.json. A
phase is 520 requests over five link states; the tasks of the two phases are different ones of the test split.
Figures are means over the seeds, except for the swap, where the worst seed counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.figures import Figure, at_least, at_most, parser, publish

LIMIT_S = 900.0
FRESH = 10  # seeds below were looked at while the defaults were chosen


def main() -> int:
    """Run, print, write."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3, help="number of runs")
    arguments.add_argument("--first", type=int, default=FRESH, help="the first of them")
    options = arguments.parse_args()
    seeds = range(options.first, options.first + (1 if options.quick else options.seeds))
    runs = [{"seed": seed, **play(seed)} for seed in seeds]
    return publish("One round of the loop", figures(runs), options, {"runs": runs})


def play(seed: int) -> dict[str, Any]:
    """One demo; its summary and how long it took."""
    with tempfile.TemporaryDirectory(prefix="netgpt-loop-") as var:
        command = [sys.executable, "-m", "orchestrator.cli", "demo", "--seed", str(seed), "--var", var]
        began = time.monotonic()
        subprocess.run(command, check=True, timeout=LIMIT_S, stdout=sys.stderr)
        summary: dict[str, Any] = json.loads((Path(var) / "summary.json").read_text(encoding="utf-8"))
    return {**summary, "demo_seconds": time.monotonic() - began}


def figures(runs: list[dict[str, Any]]) -> list[Figure]:
    """The acceptance figures of the loop."""
    before, after = ([run["phases"][n] for run in runs] for n in (0, 1))
    swaps = [run["swap"] for run in runs if run["swap"]]
    ratio = mean(b["offload_rate"] for b in after) / mean(b["offload_rate"] for b in before)
    made = [
        Figure("offload rate before", mean(p["offload_rate"] for p in before), "share"),
        Figure("offload rate after", mean(p["offload_rate"] for p in after), "share"),
        at_most("offload rate, after / before", ratio, "ratio", 0.7),
        Figure("success before", mean(p["success"] for p in before), "share"),
        at_least("success, after - before", _change(before, after, "success"), "share", -0.01),
        Figure("edge answers right, before", mean(p["edge_success"] for p in before), "share"),
        Figure("edge answers right, after", mean(p["edge_success"] for p in after), "share"),
        at_least("schema validity, after - before", _change(before, after, "schema_valid"), "share", 0.0),
        at_least("rounds whose candidate passed the gate", len(swaps) / len(runs), "share", 1.0),
        at_most("whole demo, slowest", max(run["demo_seconds"] for run in runs), "s", 480.0),
        Figure("training round, mean", mean(run["learner"]["seconds"] for run in runs), "s"),
    ]
    if swaps:
        made += [
            at_most("requests failed by the swap, worst", max(s["failed_requests"] for s in swaps), "requests", 0),
            at_most("no engine step could run for, worst", max(s["gap_ms"] for s in swaps), "ms", 250.0),
        ]
    return made


def _change(before: list[dict[str, Any]], after: list[dict[str, Any]], key: str) -> float:
    return float(mean(p[key] for p in after) - mean(p[key] for p in before))


if __name__ == "__main__":
    sys.exit(main())
