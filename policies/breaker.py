"""A circuit breaker as a pure state machine: the clock is passed in, nothing is owned.

Closed, every call goes out. After ``failures`` failures in a row it opens and refuses every call for a
cool-down; then one call is let through as a probe: its success closes the circuit, its failure opens it again
for twice as long, up to a cap. Results of calls that set out before it opened change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Admission(StrEnum):
    """What the breaker says to a call that wants to go out."""

    CALL = "call"
    PROBE = "probe"
    REFUSED = "refused"


class Circuit(StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long.

    Args:
        failures: failures in a row that open the circuit, at least 1.
        cool_down_s: seconds it then stays open; doubled by every failed probe.
        cool_down_max_s: where the doubling ends.
    """

    failures: int = 5
    cool_down_s: float = 2.0
    cool_down_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker at one moment; each step returns the next one.

    Args:
        policy: when to open and for how long.
        failed: failures in a row.
        opened_s: when it last opened, or None while closed.
        trips: times it opened since it was last closed.
        probing: whether a probe is on its way.
    """

    policy: BreakerPolicy
    failed: int = 0
    opened_s: float | None = None
    trips: int = 0
    probing: bool = False

    def circuit(self, now_s: float) -> Circuit:
        """Where it stands at ``now_s``."""
        if self.opened_s is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self.wait_s(now_s) > 0 else Circuit.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """Seconds until a probe may go out (0 when one may)."""
        if self.opened_s is None:
            return 0.0
        return max(0.0, self.opened_s + self._cool_down_s - now_s)

    def admit(self, now_s: float) -> tuple[Breaker, Admission]:
        """Whether a call may go out at ``now_s``."""
        circuit = self.circuit(now_s)
        if circuit is Circuit.CLOSED:
            return self, Admission.CALL
        if circuit is Circuit.OPEN or self.probing:
            return self, Admission.REFUSED
        return replace(self, probing=True), Admission.PROBE

    def succeeded(self, admission: Admission) -> Breaker:
        """After an admitted call got its answer."""
        if self._counts(admission):
            return Breaker(self.policy)
        return self

    def failed_at(self, admission: Admission, now_s: float) -> Breaker:
        """After an admitted call failed at ``now_s``."""
        if not self._counts(admission):
            return self
        failed = self.failed + 1
        if admission is Admission.PROBE or failed >= self.policy.failures:
            return Breaker(self.policy, failed, opened_s=now_s, trips=self.trips + 1)
        return replace(self, failed=failed)

    def abandoned(self, admission: Admission) -> Breaker:
        """After an admitted call was given up by its caller: it says nothing about the far end."""
        return replace(self, probing=False) if admission is Admission.PROBE else self

    @property
    def _cool_down_s(self) -> float:
        doublings = min(self.trips - 1, 32)  # 2**32 cool-downs are past any cap, and a float still holds them
        return min(self.policy.cool_down_s * 2.0**doublings, self.policy.cool_down_max_s)

    def _counts(self, admission: Admission) -> bool:
        return admission is Admission.PROBE or (admission is Admission.CALL and self.opened_s is None)
