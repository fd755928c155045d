"""Figures of a soak, from what was seen: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, at_most, percentile
from benchmarks.soak.faults import SITE, Fault
from benchmarks.soak.load import CUT, UNANSWERED, UNCONNECTED, Outcome
from benchmarks.soak.memory import Samples, growth, typical

REFUSALS = (429, 503, 504)  # too many, nothing to answer with now, too late: each says so in OpenAI's error shape
MARGIN_S = 0.5  # a kill and what clients notice of it, and how long an answer's record may be on its way to the disk
EARLY, LATE = (0.2, 0.3), (0.9, 1.0)  # of ten minutes: the third and the last
FLAT = 1.05


@dataclass(frozen=True, slots=True)
class Soak:
    """Everything that was seen.

    Args:
        sustained_per_s, per_s: the load that was measured to be carried, and that was played.
        began_s, over_s: of the play.
        logged: the request ids in the log afterwards.
        shed: records that the log says it has shed.
    """

    sustained_per_s: float
    per_s: float
    began_s: float
    over_s: float
    outcomes: Sequence[Outcome]
    faults: Sequence[Fault]
    logged: Sequence[str]
    shed: float
    memory: Samples

    @property
    def kills(self) -> Sequence[Fault]:
        """Of the site's process."""
        return [fault for fault in self.faults if fault.kind == SITE]

    def at(self, share: float) -> float:
        """The time at ``share`` of the play."""
        return self.began_s + share * (self.over_s - self.began_s)


def figures(soak: Soak) -> list[Figure]:
    """All of them, with their targets."""
    return [
        Figure("load sustained in the calibration", soak.sustained_per_s, "1/s"),
        Figure("load played", soak.per_s, "1/s"),
        Figure("faults caused", len(soak.faults), "count"),
        at_most("faults that did not end as they should", sum(not fault.well for fault in soak.faults), "count", 0),
        *_requests(soak),
        *_log(soak),
        *_latency(soak),
        *_away(soak),
        *_memory(soak),
    ]


def details(soak: Soak) -> dict[str, Any]:
    """What the reader may want besides: faults by kind, memory by role."""
    before, after = (typical(soak.memory, *map(soak.at, window)) for window in (EARLY, LATE))
    return {
        "faults": dict(Counter(fault.kind for fault in soak.faults)),
        "went wrong": [fault.kind for fault in soak.faults if not fault.well],
        "statuses": {str(status): count for status, count in Counter(o.status for o in soak.outcomes).items()},
        "memory_mb": {role: [round(before[role]), round(after[role])] for role, _ in growth(before, after)},
    }


def _requests(soak: Soak) -> list[Figure]:
    count = Counter(outcome.status for outcome in soak.outcomes)
    good = _good(soak)
    lost = [outcome for outcome in soak.outcomes if outcome.status in (CUT, UNCONNECTED)]
    down = [outcome for outcome in lost if _down(outcome, soak.kills)]
    stated = sum(count[status] for status in REFUSALS)
    named = stated + count[200] + len(lost) + count[UNANSWERED]
    return [
        Figure("requests", len(soak.outcomes), "count"),
        Figure("answered by the edge", sum(o.route == "edge" and not o.degraded for o in good), "count"),
        Figure("answered by the cloud", sum(o.route == "cloud" for o in good), "count"),
        Figure("answered by the edge, degraded", sum(o.degraded for o in good), "count"),
        Figure("refused with 429, 503 or 504", stated, "count"),
        Figure("connection closed by the kill of the site", sum(o.status == CUT for o in down), "count"),
        Figure("not connected while the site restarted", sum(o.status == UNCONNECTED for o in down), "count"),
        at_most("connections lost at any other time", len(lost) - len(down), "count", 0),
        at_most("answered with any other status", len(soak.outcomes) - named, "count", 0),
        at_most("without an answer for a minute", count[UNANSWERED], "count", 0),
    ]


def _log(soak: Soak) -> list[Figure]:
    logged = Counter(soak.logged)
    missing = [outcome for outcome in _good(soak) if outcome.request_id not in logged]
    on_its_way = [outcome for outcome in missing if _just_before(outcome, soak.kills)]
    return [
        Figure("answered just before a kill of the site, record not on disk yet", len(on_its_way), "count"),
        Figure("records the log says it has shed", soak.shed, "count"),
        at_most("other answers not in the log", len(missing) - len(on_its_way), "count", soak.shed),
        at_most("answers twice in the log", sum(times > 1 for times in logged.values()), "count", 0),
    ]


def _latency(soak: Soak) -> list[Figure]:
    taken_ms = [1e3 * (outcome.over_s - outcome.asked_s) for outcome in _good(soak)]
    return [
        Figure("latency of answers, p50", percentile(taken_ms, 0.5), "ms"),
        Figure("latency of answers, p99", percentile(taken_ms, 0.99), "ms"),
    ]


def _away(soak: Soak) -> list[Figure]:
    took = [fault.over_s - fault.began_s for fault in soak.kills]
    return [Figure("site away after a kill, longest", max(took), "s")] if took else []


def _memory(soak: Soak) -> list[Figure]:
    before, after = (typical(soak.memory, *map(soak.at, window)) for window in (EARLY, LATE))
    _, most_mb = growth(before, after)[0]
    common = before.keys() & after.keys()
    early, late = (sum(window[role] for role in common) for window in (before, after))
    return [
        Figure("memory of the process tree at 20-30 % of the time", early, "MB"),
        at_most("the same at 90-100 %, relative", late / early, "ratio", FLAT),
        Figure("growth of the role that grew most", most_mb, "MB"),
    ]


def _good(soak: Soak) -> list[Outcome]:
    return [outcome for outcome in soak.outcomes if outcome.status == 200]


def _down(outcome: Outcome, kills: Sequence[Fault]) -> bool:
    return any(kill.began_s <= outcome.over_s and outcome.asked_s <= kill.over_s + MARGIN_S for kill in kills)


def _just_before(outcome: Outcome, kills: Sequence[Fault]) -> bool:
    return any(kill.began_s - MARGIN_S <= outcome.over_s <= kill.began_s + MARGIN_S for kill in kills)
