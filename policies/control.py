"""What a site and the router tell each other: reports up, directives down.

A ``Snapshot`` is what a site decides with until ``ttl_s`` after it arrived; a ``Swap`` says which
weights to run; a ``LinkReport`` is what a site measured. ``in_force`` is the one rule about time, with
the clock passed in: a site that loses the router keeps its last snapshot until it expires, then
falls back to its own default. The wire form of these records is in ``cluster.telemetry``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from policies.checks import amount, probability
from policies.types import CloudSpeed, LinkState, Objective, Prices


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What every decision at a site is made with, besides the site's own link.

    ``seq`` grows with every change at one router and starts again with a new router;
    ``threshold_floor`` bounds the threshold from below, in [0, 1].

    Raises:
        ValueError: a figure is none that a site may decide with; it is named.
    """

    seq: int
    ttl_s: float
    prices: Prices
    objective: Objective
    speed: CloudSpeed
    threshold_floor: float = 0.0

    def __post_init__(self) -> None:
        for owner in ("prices", "objective", "speed"):
            amount(**{f"{owner}.{name}": figure for name, figure in asdict(getattr(self, owner)).items()})
        amount(ttl_s=self.ttl_s)
        probability(threshold_floor=self.threshold_floor, **{"objective.cloud_accuracy": self.objective.cloud_accuracy})
        for name, figure in (("ttl_s", self.ttl_s), ("objective.value_usd", self.objective.value_usd)):
            if figure == 0:
                raise ValueError(f"{name} must be > 0, got {figure!r}")


@dataclass(frozen=True, slots=True)
class Swap:
    """Run this version of the edge model: fetch from ``path``, verify ``sha256``, load, report live."""

    version: str
    path: str
    sha256: str


Directive = Snapshot | Swap


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One site's link as it measured it, the weights it runs and how far its log has come.

    ``seq`` counts the site's reports; ``log_seq`` is the last record its offload log acknowledged.
    """

    site: str
    seq: int
    link: LinkState
    version: str = ""
    log_seq: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot and when it arrived, in seconds of the site's own monotonic clock."""

    snapshot: Snapshot
    arrived_s: float

    def expired(self, now_s: float) -> bool:
        """Whether the snapshot may no longer be decided with."""
        return now_s - self.arrived_s > self.snapshot.ttl_s


def in_force(held: Held | None, default: Snapshot, now_s: float) -> Snapshot:
    """The snapshot to decide with now: the last one while it is fresh, else the site's default."""
    if held is None or held.expired(now_s):
        return default
    return held.snapshot
