"""Whether the edge advantage rises in the score, so that one threshold is optimal (assumption A2 of DESIGN section 5).

Delta(s; z) = P(edge right | s) - P(cloud right | s) + kappa(s; z) / V. Where it falls from s = a to s = b, drafts of
the lower score may be the better ones to keep (hard prompts with long cloud answers: a low score and a dear
alternative), and no single threshold is optimal. ``check`` bins labelled requests by score into equal numbers and
compares every pair of bins with a simultaneous band; a trend over all bins is then enough to say "rises". Labels only:
the score's own promise would prove itself. The formulation is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from policies.outcomes import Outcomes
from policies.score import FloatArray

BINS = 12  # narrower bins see a shorter dip, but the band over all pairs widens
PER_BIN = 30  # a bin's mean is then near enough to normal for the band
MIN_BINS = 3  # fewer show no shape
FLAT = 1e-9  # what rounding may do to a mean where nothing varies, in units of V
DRAWS = 4000  # the 95 % quantile of the largest contrast then has an error of 0.3 % in level


class Verdict(StrEnum):
    """What the data say of Delta."""

    RISES = "rises"
    UNKNOWN = "unknown"
    FALLS = "falls"


@dataclass(frozen=True, slots=True)
class Rise:
    """The verdict and what it rests on.

    ``score``, ``advantage`` (in units of V) and ``error`` (standard errors) have shape [bins]; ``slope`` and its bounds
    are advantage per unit of score. Where it falls, it does so from ``falls_from`` to ``falls_to``, and ``lost_usd``
    a request is what the best single threshold earns less than the best two-sided rule (keep, or offload, only the
    drafts with a <= score < b), both chosen on these bins.
    """

    verdict: Verdict
    requests: int
    score: FloatArray
    advantage: FloatArray
    error: FloatArray
    slope: float = 0.0
    slope_low: float = -np.inf
    slope_high: float = np.inf
    falls_from: float | None = None
    falls_to: float | None = None
    lost_usd: float = 0.0

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        on = f"on {self.requests} labelled requests"
        slope = f"slope {self.slope:+.2f} [{self.slope_low:+.2f}, {self.slope_high:+.2f}] of V per unit of score"
        if self.verdict is Verdict.RISES:
            return f"The edge advantage rises in the score ({slope}, {on}): a single threshold is optimal."
        if self.verdict is Verdict.FALLS:
            return (
                f"The edge advantage falls between s = {self.falls_from:.2f} and s = {self.falls_to:.2f} ({on}), so a "
                f"single threshold is not optimal there: a two-sided rule would earn ${1e3 * self.lost_usd:.3f} more "
                f"per 1,000 requests."
            )
        why = "too few" if len(self.score) < MIN_BINS else slope
        return f"Whether the edge advantage rises in the score cannot be told ({why}, {on})."


def check(outcomes: Outcomes, kappa_usd: FloatArray, value_usd: float, confidence: float = 0.95, seed: int = 0) -> Rise:
    """Test whether the advantage rises.

    Args:
        outcomes: labelled requests with valid drafts; ``weights`` are 1 / propensity.
        kappa_usd: what asking the cloud costs each of them, in the state in question; [n].
        value_usd: V > 0.

    Raises:
        ValueError: lengths disagree or V is not above 0.
    """
    if len(kappa_usd) != len(outcomes) or not value_usd > 0:
        raise ValueError(f"need one kappa_usd a request and value_usd > 0, got {len(kappa_usd)} and {value_usd!r}")
    gain = outcomes.edge_right - outcomes.cloud_right + kappa_usd / value_usd
    rows = outcomes.weights > 0
    score, mean, error, mass = _bins(outcomes.score[rows], gain[rows], outcomes.weights[rows])
    if len(score) < MIN_BINS:
        return Rise(Verdict.UNKNOWN, len(outcomes), score, mean, error)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((DRAWS, len(score))) * error
    tail = (1.0 - confidence) / 2.0
    lever = mass * (score - mass @ score)
    lever /= lever @ score
    low, high = np.quantile(lever @ mean + noise @ lever, (tail, 1.0 - tail))
    worst = _largest_fall(mean, error, noise, confidence)
    facts = (len(outcomes), score, mean, error, float(lever @ mean), float(low), float(high))
    if worst is not None:
        first, last = worst
        lost = value_usd * _lost(mean * mass)
        return Rise(Verdict.FALLS, *facts, float(score[first]), float(score[last]), lost)
    return Rise(Verdict.RISES if low > 0 else Verdict.UNKNOWN, *facts)


def _bins(score: FloatArray, gain: FloatArray, weight: FloatArray) -> tuple[FloatArray, ...]:
    """Bins of equal numbers: weighted mean score, mean gain, its standard error and share of the weight; [bins] each.

    A score that would fill several bins makes them one; there are none where requests are too few.
    """
    count = min(BINS, len(score) // PER_BIN)
    if count < MIN_BINS:
        return (np.zeros(0),) * 4
    index = np.searchsorted(np.unique(np.quantile(score, np.arange(1, count) / count)), score, side="right")
    total = np.bincount(index, weight)
    used = total > 0
    mean = np.bincount(index, weight * gain)[used] / total[used]
    place = np.cumsum(used) - 1
    residual = weight * (gain - mean[place[index]])
    blur = (residual**2).mean()  # one more request of common spread: a bin whose requests all agree is not certain
    error = np.sqrt(np.bincount(index, residual**2)[used] + blur) / total[used] + FLAT
    return np.bincount(index, weight * score)[used] / total[used], mean, error, total[used] / total.sum()


def _largest_fall(mean: FloatArray, error: FloatArray, noise: FloatArray, confidence: float) -> tuple[int, int] | None:
    """The pair of bins, lower score first, whose fall stands out most; None when none leaves the simultaneous band."""
    first, last = np.triu_indices(len(mean), k=1)
    scale = np.hypot(error[first], error[last])
    largest = ((noise[:, first] - noise[:, last]) / scale).max(axis=1)
    fall = (mean[first] - mean[last]) / scale
    worst = int(fall.argmax())
    return (int(first[worst]), int(last[worst])) if fall[worst] > np.quantile(largest, confidence) else None


def _lost(gain: FloatArray) -> float:
    """How much more the best segment of bins (kept, or offloaded) earns than the best suffix kept; ``gain`` [bins]."""
    below = np.concatenate([[0.0], np.cumsum(gain)])
    segments = np.subtract.outer(below, below)[np.tril_indices(len(below))]  # [end >= start]
    return float(max(segments.max(), below[-1] - segments.min()) - (below[-1] - below).max())
