"""Budgets: soft ones as prices that rise until they are met, hard ones as a bucket that runs dry.

``DualAscent`` holds one multiplier for each budget and moves it by projected online gradient, ``beta <- [beta + eta *
(spent - allowed)]`` clipped to [0, MOST]. ``penalty_usd`` is what a threshold adds to kappa: one multiplier unit is the
worth of one correct answer, V, because a penalty of V already forbids every offload (tau* <= m_c - 1). Hence the bound
just above 1: beyond, nothing changes but the time it takes to come down.

Gain and overshoot. Excess is counted in offloads (dollars in typical offloads, latency in late requests), so ``STEP``
has no unit, and since beta is bounded no stretch of requests overspends by more than MOST / STEP = 21 of them, as far
as the threshold decides: drafts that are invalid go to the cloud at any price. A relative excess, (spent - target) /
target, is the same at gain STEP * target; counted in offloads, one gain fits every target.

Wind-up. While no offload is possible (outage, hard cap), nothing is learnt of demand and the multipliers stand still;
free to move, they would fall to 0 and flood the link when it returns. What the offload rate left unused meanwhile is
owed, up to ``OWED`` offloads, and paid back by at most half the target again. Dollars and lateness are not owed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from policies.checks import nonnegative, probability

STEP = 0.05  # of the threshold's whole range for one offload too many: follows a new link within some 10 offloads
MOST = 1.0 + STEP  # V, and room to count in full the last offload before V
LATE = 0.05  # share of requests that may take longer than the 95th percentile's target
SHARPNESS = 6.0  # realised latencies stray from predicted ones by some 30 %
OWED = 100.0  # offloads: a long outage is not paid back for hours
PAY_BACK = 0.5  # of the target rate, on top of it: no flood after an outage
TYPICAL_GAIN = 0.02  # the typical offload's cost is the unit of money: it must move slower than the multiplier
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """What is to be kept to on average; None is no such budget.

    Args:
        offload_rate: share of requests that may go to the cloud, in [0, 1].
        usd_per_hour: money the cloud may cost.
        p95_s: seconds that 95 % of requests may take.

    Raises:
        ValueError: a budget is negative, not finite, a rate above 1 or a latency of 0.
    """

    offload_rate: float | None = None
    usd_per_hour: float | None = None
    p95_s: float | None = None

    def __post_init__(self) -> None:
        if self.offload_rate is not None:
            probability(offload_rate=self.offload_rate)
        nonnegative(usd_per_hour=self.usd_per_hour or 0.0, p95_s=self.p95_s or 0.0)
        if self.p95_s == 0:
            raise ValueError("p95_s must be > 0: no answer takes no time")


@dataclass(frozen=True, slots=True)
class Spent:
    """What one request took.

    Args:
        offloaded: whether the cloud was asked.
        cost_usd: what it charged.
        seconds: from the request to its answer.
        possible: whether it could have been asked: false in an outage, with an open circuit or at a hard cap.
    """

    offloaded: bool
    cost_usd: float
    seconds: float
    possible: bool = True


@dataclass(frozen=True, slots=True)
class DualAscent:
    """The multipliers at one moment, each in [0, MOST]; ``observe`` returns the next ones.

    Args:
        budgets: what they enforce.
        value_usd: V, the worth of a correct answer.
        rate, money, late: multipliers of offloads, dollars and requests later than ``p95_s``.
        owed: offloads that outages left unused, in [0, OWED].
        typical_usd: average cost of an offload; 0 before the first.
        last_s: when the last request was counted.
    """

    budgets: Budgets
    value_usd: float
    rate: float = 0.0
    money: float = 0.0
    late: float = 0.0
    owed: float = 0.0
    typical_usd: float = 0.0
    last_s: float | None = None

    def __post_init__(self) -> None:
        nonnegative(value_usd=self.value_usd)

    def penalty_usd(self, cost_usd: float, seconds: float) -> float:
        """What the budgets add to kappa of an offload that would cost ``cost_usd`` and answer after ``seconds``.

        A fee for the offload, a factor on its money, and a fee for being late times the chance of that; V at most, and
        never falling in cost or seconds.

        Raises:
            ValueError: a number is negative or not finite.
        """
        nonnegative(cost_usd=cost_usd, seconds=seconds)
        share = self.rate
        if self.typical_usd > 0:
            share += self.money * cost_usd / self.typical_usd
        if self.budgets.p95_s is not None:
            share += self.late * _late(seconds / self.budgets.p95_s)
        return self.value_usd * min(share, 1.0)

    def observe(self, spent: Spent, now_s: float) -> DualAscent:
        """After a request, at ``now_s`` on a monotonic clock; a clock that goes back counts as standing still.

        Raises:
            ValueError: a number is negative or not finite.
        """
        nonnegative(cost_usd=spent.cost_usd, seconds=spent.seconds)
        _finite(now_s=now_s)
        elapsed_s = 0.0 if self.last_s is None else max(now_s - self.last_s, 0.0)
        last_s = now_s if self.last_s is None else self.last_s + elapsed_s
        target = self.budgets.offload_rate or 0.0
        if not spent.possible:
            return replace(self, owed=min(self.owed + target, OWED), last_s=last_s)
        back = min(self.owed, PAY_BACK * target)
        typical_usd = self._typical_usd(spent)
        allowed_usd = (self.budgets.usd_per_hour or 0.0) * elapsed_s / HOUR_S
        overspent = (spent.cost_usd - allowed_usd) / typical_usd if typical_usd > 0 else 0.0
        late = self.budgets.p95_s is not None and spent.seconds > self.budgets.p95_s
        return replace(
            self,
            rate=_step(self.rate, spent.offloaded - (target + back), self.budgets.offload_rate),
            money=_step(self.money, overspent, self.budgets.usd_per_hour),
            late=_step(self.late, late - LATE, self.budgets.p95_s),
            owed=self.owed - back,
            typical_usd=typical_usd,
            last_s=last_s,
        )

    def gauges(self) -> dict[str, float]:
        """The multipliers, for the metrics."""
        return {
            "budget_rate_multiplier": self.rate,
            "budget_money_multiplier": self.money,
            "budget_late_multiplier": self.late,
            "budget_offloads_owed": self.owed,
        }

    def _typical_usd(self, spent: Spent) -> float:
        if not spent.offloaded:
            return self.typical_usd
        gain = TYPICAL_GAIN if self.typical_usd > 0 else 1.0
        return self.typical_usd + gain * (spent.cost_usd - self.typical_usd)


class TokenBucket:
    """A hard cap: never more than ``limit * elapsed / window_s + burst`` is taken, whatever is asked and when.

    Elapsed is the time from the first call to the latest time seen, on a monotonic clock: one that goes back refills
    nothing until it has caught up. For dollars, take the most a request may cost and put the rest back.

    Args:
        limit: what may be taken in each window: offloads or dollars.
        window_s: length of the window in seconds, > 0.
        burst: what may be taken at once, and what the bucket holds at first; the whole limit by default.

    Raises:
        ValueError: a number is negative or not finite, or the window is 0.
    """

    def __init__(self, limit: float, window_s: float, burst: float | None = None) -> None:
        self._burst = limit if burst is None else burst
        nonnegative(limit=limit, window_s=window_s, burst=self._burst)
        if window_s == 0:
            raise ValueError("window_s must be > 0: a cap needs a window")
        self._per_s = limit / window_s
        self._tokens = self._burst
        self._last_s: float | None = None

    def take(self, amount: float, now_s: float) -> bool:
        """Take ``amount`` if the bucket holds it; what exceeds the burst is never given.

        Raises:
            ValueError: the amount is negative, or a number is not finite.
        """
        nonnegative(amount=amount)
        self._refill(now_s)
        if amount > self._tokens:
            return False
        self._tokens -= amount
        return True

    def spend(self, amount: float, now_s: float) -> None:
        """Take ``amount`` whether it is there or not: it was spent already, and the time to come pays for it.

        Raises:
            ValueError: the amount is negative, or a number is not finite.
        """
        nonnegative(amount=amount)
        self._refill(now_s)
        self._tokens -= amount

    def wait_s(self, amount: float) -> float:
        """Seconds until ``amount`` can be taken if nobody else takes any; infinite where it never can."""
        missing = amount - self._tokens
        if missing <= 0:
            return 0.0
        return missing / self._per_s if self._per_s and amount <= self._burst else math.inf

    def put_back(self, amount: float) -> None:
        """Give back what was taken and not used.

        Raises:
            ValueError: the amount is negative or not finite.
        """
        nonnegative(amount=amount)
        self._tokens = min(self._tokens + amount, self._burst)

    def left(self, now_s: float) -> float:
        """Share of the burst that is there, in [0, 1] (``RoutingState.budget_left``)."""
        self._refill(now_s)
        return max(self._tokens / self._burst, 0.0) if self._burst else 0.0

    def _refill(self, now_s: float) -> None:
        _finite(now_s=now_s)
        if self._last_s is None:
            self._last_s = now_s
        if now_s > self._last_s:
            self._tokens = min(self._tokens + self._per_s * (now_s - self._last_s), self._burst)
            self._last_s = now_s


def _step(multiplier: float, excess: float, budget: float | None) -> float:
    """One projected step; a multiplier without a budget stays 0."""
    return 0.0 if budget is None else min(max(multiplier + STEP * excess, 0.0), MOST)


def _late(ratio: float) -> float:
    """The chance that an answer predicted at ``ratio`` times the target is later than it; log-logistic in time."""
    odds = math.pow(min(ratio, 1e6), SHARPNESS)
    return odds / (1.0 + odds)


def _finite(now_s: float) -> None:
    if not math.isfinite(now_s):
        raise ValueError(f"now_s must be a finite number, got {now_s!r}")
