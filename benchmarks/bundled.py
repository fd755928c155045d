"""The bundled models on both test sets: success, validity without a grammar, and the quality of the score.

Greedy answers of real vLLM; ``--quick`` asks 200 requests of each set instead of 2,000.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.figures import Figure, at_least, parser, publish
from orchestrator.bundled.evaluate import measure
from orchestrator.bundled.train import MODELS

SHARES = ("success", "schema_valid", "json_valid", "auroc", "ece")


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    count = 200 if options.quick else 2000
    report = {name: asyncio.run(measure(MODELS / name, count)) for name in ("edge", "cloud")}
    rest = [
        Figure(f"{model}, {split}: {key}", row[key], "share")
        for model, sets in report.items()
        for split, row in sets.items()
        for key in SHARES
    ]
    return publish("Bundled models", promised(report) + rest, options, {"requests": count})


def promised(report: dict[str, Any]) -> list[Figure]:
    """The figures with a target, on the held-out test set."""
    edge, cloud = report["edge"]["test"], report["cloud"]["test"]
    return [
        at_least("cloud success", cloud["success"], "share", 0.95),
        Figure("edge success", edge["success"], "share", "0.55 to 0.80", 0.55 <= edge["success"] <= 0.80),
        at_least("edge JSON validity without grammar", edge["json_valid"], "share", 0.99),
        at_least("edge score AUROC", edge["auroc"], "share", 0.88),
    ]


if __name__ == "__main__":
    sys.exit(main())
