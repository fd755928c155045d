"""What a node counts: requests by route, failures, money, the last decision. Plain numbers, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policies.errors import BadRequest
from policies.types import Route

if TYPE_CHECKING:
    from actors.answer import Answer, CloudCall
    from actors.swap import SwapReport


@dataclass(slots=True)
class NodeCounts:
    """Counters since the start, and the figures of the last answer."""

    requests: dict[Route, int] = field(default_factory=lambda: dict.fromkeys(Route, 0))
    degraded: int = 0
    bad_requests: int = 0
    refused: int = 0
    cancelled: int = 0
    audits: int = 0
    log_failures: int = 0
    swaps_live: int = 0
    swaps_rolled_back: int = 0
    swap_gap_ms: float = 0.0
    cost_usd: float = 0.0
    audit_cost_usd: float = 0.0
    score: float = 0.0
    threshold: float = 0.0
    latency_ms: float = 0.0

    def answered(self, answer: Answer) -> None:
        """One more request has its answer."""
        self.requests[answer.route] += 1
        self.degraded += answer.degraded
        self.cost_usd += answer.cost_usd
        self.score, self.threshold = answer.decision.score, answer.decision.threshold
        self.latency_ms = answer.seconds * 1e3

    def failed(self, why: BaseException) -> None:
        """One request has none: the caller's mistake, nobody to answer, or a client that left."""
        if isinstance(why, BadRequest):
            self.bad_requests += 1
        elif isinstance(why, Exception):
            self.refused += 1
        else:
            self.cancelled += 1

    def audited(self, found: CloudCall) -> None:
        """The cloud was asked about a draft that had been served."""
        self.audits += 1
        self.audit_cost_usd += found.cost_usd

    def swapped(self, report: SwapReport) -> None:
        """A swap ended."""
        self.swaps_live += report.outcome == "live"
        self.swaps_rolled_back += report.outcome == "rolled_back"
        self.swap_gap_ms = report.gap_s * 1e3

    def gauges(self, version: str) -> dict[str, float]:
        """Everything as a flat dictionary; the version as its number (edge-0007-... is 7)."""
        plain = {name: float(getattr(self, name)) for name in self.__slots__ if name != "requests"}
        routes = {f"requests_{route}": float(count) for route, count in self.requests.items()}
        number = re.search(r"-(\d+)-", version)
        return {**routes, **plain, "version": float(number[1]) if number else 0.0}
