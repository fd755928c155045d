"""Figures of a play: what ``var/demo/summary.json`` and the tables show. Pure functions of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from orchestrator.demo.play import Outcome


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One play of the workload with one version of the edge model."""

    name: str
    version: str
    outcomes: tuple[Outcome, ...]


def phase_summary(result: PhaseResult) -> dict[str, Any]:
    """The figures of one phase, overall and by link; shares in [0, 1]."""
    by_link = {stage: figures(part) for stage, part in _by_stage(result.outcomes).items()}
    return {"name": result.name, "edge_version": result.version, **figures(result.outcomes), "by_link": by_link}


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Success counts failed requests as wrong; ``edge_success`` is over answers served by the edge."""
    answered = [o for o in outcomes if o.info]
    edge = [o for o in answered if o.info and o.info.route == "edge"]
    latencies = [o.latency_ms for o in answered]
    return {
        "requests": len(outcomes),
        "failed": len(outcomes) - len(answered),
        "offload_rate": _share(len(answered) - len(edge), len(answered)),
        "success": _share(sum(o.correct for o in outcomes), len(outcomes)),
        "edge_success": _share(sum(o.correct for o in edge), len(edge)),
        "schema_valid": _share(sum(o.schema_valid for o in outcomes), len(outcomes)),
        "threshold": float(np.mean([o.info.threshold for o in answered if o.info])) if answered else None,
        "latency_ms": {"p50": percentile(latencies, 50), "p95": percentile(latencies, 95)},
        "cost_usd": sum(o.info.cost_usd for o in answered if o.info),
    }


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-th percentile, or None of nothing."""
    return float(np.percentile(values, q)) if values else None


def longest_gap_ms(outcomes: Sequence[Outcome]) -> float:
    """Longest time without a finished answer, in milliseconds."""
    ends = sorted(o.at_s + o.latency_ms / 1e3 for o in outcomes if o.info)
    return 1e3 * max((late - early for early, late in pairwise(ends)), default=0.0)


def _by_stage(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    stages: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        stages.setdefault(outcome.stage, []).append(outcome)
    return stages


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
