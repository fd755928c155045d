"""The cloud's own latency, fitted online from the offloads that came back.

What the link explains (round trips and bytes over its bandwidth, ``policies.cost``) is taken off; the rest is
``ttft + per_token * output + per_input * fresh input + per_byte * bytes``, all coefficients >= 0: recursive least
squares with exponential forgetting towards the configured ``CloudSpeed``. The prior is forgotten like a measurement,
but never quite, so a coefficient that the traffic does not show stays where it was configured (no wind-up). A residual
counts up to ``CLIP`` times the usual one (Huber, 1964), so a stalled call moves little; ``RUN`` clipped ones in a row
on one side are a new cloud: the old is forgotten fast and the usual residual widens until the new one is found. The
cost is a bias: of a heavy tail, the fit sees a clipped mean.

Round trips stay as configured: on one site the RTT varies too little to tell them from the time to the first token.
Calls that waited in a queue must be kept from the fit: ``policies.cloud_estimates.QueueDelay`` says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from policies.checks import nonnegative
from policies.cost import cloud_latency_s
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, LinkState

FORGET = 0.99  # memory of about 100 offloads: minutes at a busy site, a day at a quiet one
CLIP = 3.0  # times the mean absolute residual: for normal noise, beyond 2.4 standard deviations
RUN = 4  # clipped residuals in a row on one side: by chance once in a million offloads
FORGET_FAST = 0.8  # memory of about 5 offloads
GAIN = 0.1  # of the average of residuals: it remembers some ten offloads
FIRST_RESIDUAL_S = 0.5  # how far off a configured speed is thought to be before the first offload
LEAST_RESIDUAL_S = 0.005  # a clock and a scheduler err by as much; a smaller scale would take every change for a stall
LEAST_WEIGHT = 0.005  # observations' worth of prior that is never forgotten

_SUBSETS = [list(rows) for size in range(5) for rows in combinations(range(4), size)]


@dataclass(frozen=True, slots=True, eq=False)
class LatencyFit:
    """What is known of the cloud's latency; ``observe`` returns the next state.

    Args:
        prior: the configured speed; its round trips are kept.
        weight: how many observations the prior is worth at the start, >= LEAST_WEIGHT.
        coefficients: seconds at 1, per output token, fresh input token and byte; shape [4], >= 0.
        squares, products, means: forgetting sums of x x', x y, and the mean of x; shapes [4, 4], [4], [4].
        count: forgetting sum of 1, at most 1 / (1 - FORGET).
        run: clipped residuals in a row, negative where the cloud was faster than expected.
        residual_s: usual absolute residual, clipped.
    """

    prior: CloudSpeed
    weight: float
    coefficients: FloatArray
    squares: FloatArray
    products: FloatArray
    means: FloatArray
    count: float = 0.0
    run: int = 0
    residual_s: float = FIRST_RESIDUAL_S

    @classmethod
    def start(cls, prior: CloudSpeed, weight: float = 10.0) -> LatencyFit:
        """Before any offload.

        Raises:
            ValueError: a figure of the prior or its weight is negative or not finite.
        """
        nonnegative(round_trips=prior.round_trips, ttft_s=prior.ttft_s, per_token_s=prior.per_token_s, weight=weight)
        zero = np.zeros(4)
        return cls(prior, max(weight, LEAST_WEIGHT), _believed(prior), np.zeros((4, 4)), zero, zero)

    @property
    def speed(self) -> CloudSpeed:
        """The fit as decisions use it.

        ``CloudSpeed`` has no term for input tokens and bytes: what they cost at the recent mean request is part of
        its time to the first token.
        """
        first = self.coefficients[0] + self.coefficients[2:] @ self.means[2:]
        return CloudSpeed(self.prior.round_trips, float(first), float(self.coefficients[1]))

    @property
    def limit_s(self) -> float:
        """How far off a call may be and still count in full."""
        return CLIP * self.residual_s

    def predicted_s(self, work: CloudWork, link: LinkState) -> float:
        """L_c by the whole fit, input tokens and bytes included; rises with each of them and with RTT."""
        return self._link_s(work, link) + float(self.coefficients @ _row(work))

    def observe(self, work: CloudWork, link: LinkState, seconds: float) -> LatencyFit:
        """After an offload that did ``work`` over ``link`` took ``seconds`` from asking to the last byte.

        Raises:
            ValueError: a figure is negative, infinite or not a number; it is named.
        """
        nonnegative(seconds=seconds)
        x = _row(work)
        expected = float(self.coefficients @ x)
        residual = seconds - self._link_s(work, link) - expected
        limit = self.limit_s
        side = (residual > limit) - (residual < -limit)
        run = self.run + side if side * self.run >= 0 and side else side
        forget = FORGET if abs(run) < RUN else FORGET_FAST
        residual = min(max(residual, -limit), limit)
        count = forget * self.count + 1.0
        moved = replace(
            self,
            squares=forget * self.squares + np.outer(x, x),
            products=forget * self.products + x * (expected + residual),
            means=self.means + (x - self.means) / count,
            count=count,
            run=run,
            residual_s=max(self.residual_s + GAIN * (abs(residual) - self.residual_s), LEAST_RESIDUAL_S),
        )
        weight = max(self.weight * forget, LEAST_WEIGHT)
        return replace(moved, weight=weight, coefficients=_solve(moved))

    def gauges(self) -> dict[str, float]:
        """The fit, for the metrics."""
        speed = self.speed
        return {
            "cloud_ttft_s": speed.ttft_s,
            "cloud_per_token_s": speed.per_token_s,
        }

    def _link_s(self, work: CloudWork, link: LinkState) -> float:
        return cloud_latency_s(work, link, CloudSpeed(self.prior.round_trips, 0.0, 0.0))


def _row(work: CloudWork) -> FloatArray:
    fresh = max(work.input_tokens - work.cached_tokens, 0)
    return np.array([1.0, work.output_tokens, fresh, work.up_bytes + work.down_bytes])


def _believed(prior: CloudSpeed) -> FloatArray:
    return np.array([prior.ttft_s, prior.per_token_s, 0.0, 0.0])


def _solve(fit: LatencyFit) -> FloatArray:
    """The coefficients >= 0 of least squared error, the prior weighing as ``fit.weight`` usual observations; [4].

    Exact: of the solutions with some coefficients at 0, the best that has none below.
    """
    scale = fit.weight * np.maximum(np.diag(fit.squares) / fit.count, 1.0)
    matrix = fit.squares + np.diag(scale)
    target = fit.products + scale * _believed(fit.prior)
    best, most = np.zeros(4), -np.inf
    for rows in reversed(_SUBSETS):
        found = np.zeros(4)
        found[rows] = np.linalg.solve(matrix[np.ix_(rows, rows)], target[rows])
        if (found >= 0).all() and target @ found > most:
            best, most = found, float(target @ found)
            if len(rows) == 4:
                break
    return best
