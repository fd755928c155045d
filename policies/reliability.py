"""The reliability diagram as data: in each bin of scores, how often the drafts were right, with an interval.

A calibrated score lies on the diagonal: ``mean_score`` within [``lower``, ``upper``] in about ``CONFIDENCE`` of the
bins. The intervals are Wilson's, which hold for shares near 0 and 1 and for few drafts; importance weights enter
through Kish's effective count. One number for the same thing is ``policies.calibration.ece``. No drawing here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.fitting import BoolArray
from policies.score import FloatArray

CONFIDENCE = 0.95
Z = 1.959964  # the normal quantile that leaves 2.5 % on each side


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores in [``low``, ``high``); the last bin includes 1.

    ``mean_score`` and ``frequency`` (share correct) are weighted means, ``lower`` and ``upper`` the frequency's
    interval, ``count`` the drafts and ``weight`` their share of all weight.
    """

    low: float
    high: float
    mean_score: float
    frequency: float
    lower: float
    upper: float
    count: int
    weight: float


def reliability(
    scores: FloatArray, correct: BoolArray, bins: int = 10, weights: FloatArray | None = None
) -> tuple[Bin, ...]:
    """The bins of equal width that hold any weight, by rising score.

    Args:
        scores: P(correct) of each draft, [n]; n may be 0.
        weights: importance weights [n], 1 by default.

    Raises:
        ValueError: rows disagree, a score lies outside [0, 1], a weight is negative or not finite, or ``bins`` < 1.
    """
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(p, y, w, bins)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    mass, squares = np.bincount(place, w, bins), np.bincount(place, w * w, bins)
    held = np.flatnonzero(mass > 0)
    mean = np.bincount(place, w * p, bins)[held] / mass[held]
    share = np.bincount(place, w * y, bins)[held] / mass[held]
    lower, upper = wilson(share, mass[held] ** 2 / squares[held])
    count = np.bincount(place, minlength=bins)[held]
    columns = (held / bins, (held + 1) / bins, mean, share, lower, upper, count, mass[held] / max(mass.sum(), 1e-300))
    return tuple(Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def wilson(share: FloatArray, count: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Wilson's interval of a share seen over ``count`` trials: (lower, upper), inside [0, 1]."""
    spread = Z * np.sqrt(share * (1.0 - share) / count + (Z / (2.0 * count)) ** 2)
    middle, scale = share + Z**2 / (2.0 * count), 1.0 + Z**2 / count
    return np.clip((middle - spread) / scale, 0.0, share), np.clip((middle + spread) / scale, share, 1.0)


def _check(p: FloatArray, y: FloatArray, w: FloatArray, bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    if not len(p) == len(y) == len(w):
        raise ValueError(f"rows disagree: {len(p)} scores, {len(y)} labels, {len(w)} weights")
    if not (((p >= 0) & (p <= 1)).all() and ((y >= 0) & (y <= 1)).all()):
        raise ValueError("scores and labels must lie in [0, 1]")
    if not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError("weights must be finite and >= 0")
