"""What one site knows of the cloud it calls: speed, queue, cached share of the prompts, and how far that was off.

Learnt from every call that came back, audits too. ``speed``, ``queue_s`` and ``expected`` are what a call that was not
made yet is priced with. The rules are ``policies.latency`` and ``policies.cloud_estimates``; here is their state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from policies.cloud_estimates import CacheHitRate, PredictionError, QueueDelay
from policies.cost import cloud_cost_usd, cloud_latency_s
from policies.latency import LatencyFit
from policies.types import CloudSpeed, CloudWork, RoutingState


class CloudKnowledge:
    """What is known of the cloud.

    Args:
        speed: the cloud's speed before anything was learnt.
        clock: monotonic seconds.
    """

    def __init__(self, speed: CloudSpeed, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latency, self._queue, self._cache = LatencyFit.start(speed), QueueDelay(), CacheHitRate()
        self._seconds, self._dollars = PredictionError(), PredictionError()

    @property
    def speed(self) -> CloudSpeed:
        """How fast the cloud answers once it has begun."""
        return self._latency.speed

    @property
    def queue_s(self) -> float:
        """The wait expected before it begins."""
        return self._queue.wait_s(self._clock())

    def expected(self, work: CloudWork) -> CloudWork:
        """``work`` with as many of its prompt tokens cached as is usual."""
        return replace(work, cached_tokens=self._cache.cached(work))

    def called(self, expected: CloudWork, done: CloudWork, state: RoutingState, seconds: float) -> None:
        """A call came back.

        Args:
            expected: the work it was priced with when it was decided on.
            done: what it turned out to be.
            state: link, prices and queue of that decision.
            seconds: from asking to the last byte.
        """
        predicted_s = cloud_latency_s(done, state.link, self.speed, state.queue_s)
        predicted_usd, billed_usd = cloud_cost_usd(expected, state.prices), cloud_cost_usd(done, state.prices)
        self._seconds = self._seconds.observe(predicted_s, seconds)
        self._dollars = self._dollars.observe(predicted_usd, billed_usd)
        excess_s = seconds - self._latency.predicted_s(done, state.link)
        self._queue = self._queue.observe(excess_s, self._latency.limit_s, self._clock())
        if not self._queue.waited:
            self._latency = self._latency.observe(done, state.link, seconds)
        self._cache = self._cache.observe(done)

    def gauges(self) -> dict[str, float]:
        """What is known, and how far predictions were off: of money at the decision, of latency for the work done."""
        return {
            **self._latency.gauges(),
            "cloud_queue_s": self.queue_s,
            "cloud_cache_hit_rate": self._cache.share,
            "cloud_latency_error_s": self._seconds.error,
            "cloud_latency_relative_error": self._seconds.relative,
            "cloud_cost_error_usd": self._dollars.error,
            "cloud_cost_relative_error": self._dollars.relative,
        }
