"""What calls to the cloud teach besides its speed: cache hits, the queue, and how far off the predictions were.

Pure records: ``observe`` returns the next state, the clock is passed in. ``policies.latency`` is the slow part of what
is known of latency, ``QueueDelay`` the fast one; ``actors.cloud_knowledge`` puts them together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median_low

from policies.checks import nonnegative
from policies.types import CloudWork

GAIN = 0.05  # memory of twenty calls: for hits that come half of the time, a standard error of 0.08
MOST_WEIGHT = 3.0  # mean prompts that a longer one counts as: no single call moves the share by more than 0.15
ERROR_GAIN = 0.1  # averages of errors remember some ten calls
RECENT = 3  # the median then ignores one stall, and follows a jam at its second call
HALF_LIFE_S = 30.0  # replicas are added and rate windows reset within a minute; a jam of V is cheap after two
LASTING_S = 3600.0  # incidents are over within the hour


@dataclass(frozen=True, slots=True)
class CacheHitRate:
    """Share of prompt tokens that the provider finds in its cache, in [0, 1]; 0 before the first call.

    Long prompts weigh more, as they do on the bill, but no more than ``MOST_WEIGHT`` mean ones.
    """

    share: float = 0.0
    prompt_tokens: float = 0.0
    calls: int = 0

    def cached(self, work: CloudWork) -> int:
        """How many of the prompt tokens of ``work`` will be cached."""
        return round(self.share * work.input_tokens)

    def observe(self, done: CloudWork) -> CacheHitRate:
        """After a call; one that reports no prompt tokens says nothing.

        Raises:
            ValueError: a count is negative, or more tokens are cached than sent.
        """
        nonnegative(cached_tokens=done.cached_tokens, fresh_tokens=done.input_tokens - done.cached_tokens)
        if not done.input_tokens:
            return self
        calls, usual = self.calls + 1, self.prompt_tokens or done.input_tokens
        tokens = min(done.input_tokens, MOST_WEIGHT * usual)
        mean = usual + max(GAIN, 1.0 / calls) * (tokens - usual)
        gain = max(GAIN, 1.0 / (calls + 1)) * min(tokens / mean, MOST_WEIGHT)
        share = self.share + gain * (done.cached_tokens / done.input_tokens - self.share)
        return CacheHitRate(share, mean, calls)


@dataclass(frozen=True, slots=True)
class QueueDelay:
    """The wait expected at the cloud before a call begins: how much longer than fitted the last calls took.

    The median of the last ``RECENT``, positive part, each halved every ``HALF_LIFE_S``: without calls a jam is
    forgotten, so it cannot keep a site from asking again; two slow calls then bring it back.

    Nothing is explained twice. What lies within the latency fit's own clip limit is noise, left to the fit; a call
    beyond it while there is a queue ``waited``, and must not be shown to the fit: so no jam changes the cloud's speed,
    and when it is over the old fit is right at once. Subtracting the queue instead would leave the fit its lag, always
    on one side, which a fit that looks for new clouds takes for one. Two exceptions, in which the fit sees everything
    and the queue is what it has not learnt yet: at the start, until a call comes on time, since the configured speed
    may be wrong; and after ``LASTING_S``, since that is a slower cloud. A fit does not forget with time: after a longer
    jam only calls, audits among them, tell that it is over.

    Args:
        recent: seconds beyond the fit and when that was known, of the last calls; 0 where within the limit.
        since_s: since when calls wait: inf while they do not, -inf before the fit has explained one.
        waited: whether the last call's excess is the queue's.
    """

    recent: tuple[tuple[float, float], ...] = ()
    since_s: float = -math.inf
    waited: bool = False

    def wait_s(self, now_s: float) -> float:
        """The wait of a call that begins now, >= 0."""
        if not self.recent:
            return 0.0
        return median_low(excess_s * _left(now_s - at_s) for excess_s, at_s in self.recent)

    def observe(self, excess_s: float, limit_s: float, now_s: float) -> QueueDelay:
        """After a call that took ``excess_s`` longer than fitted, where up to ``limit_s`` is usual.

        Raises:
            ValueError: a number is not finite, or the limit is negative.
        """
        nonnegative(excess_s=abs(excess_s), limit_s=limit_s, now_s=abs(now_s))
        late = excess_s > limit_s
        moved = QueueDelay((*self.recent, (excess_s if late else 0.0, now_s))[-RECENT:])
        if moved.wait_s(now_s) <= limit_s:
            return QueueDelay(moved.recent, math.inf)
        since_s = min(self.since_s, now_s)
        return QueueDelay(moved.recent, since_s, late and now_s - since_s <= LASTING_S)


@dataclass(frozen=True, slots=True)
class PredictionError:
    """How far predictions were off lately: running means of |predicted - realised| and of what was realised."""

    error: float = 0.0
    realised: float = 0.0
    calls: int = 0

    @property
    def relative(self) -> float:
        """Error over realised, both means: no single tiny denominator counts (WAPE); 0 where nothing was realised."""
        return self.error / self.realised if self.realised else 0.0

    def observe(self, predicted: float, realised: float) -> PredictionError:
        """After one more outcome.

        Raises:
            ValueError: a number is negative or not finite.
        """
        nonnegative(predicted=predicted, realised=realised)
        gain = max(ERROR_GAIN, 1.0 / (self.calls + 1))
        error = self.error + gain * (abs(predicted - realised) - self.error)
        return PredictionError(error, self.realised + gain * (realised - self.realised), self.calls + 1)


def _left(age_s: float) -> float:
    return math.exp2(-max(age_s, 0.0) / HALF_LIFE_S)
