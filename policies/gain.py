"""What the cloud adds to a draft, E[cloud right - draft right | s], as a function of its score that never rises.

For a calibrated score and a cloud that is right equally often whatever the score, it is the line m_c - s. A real cloud
is wrong more often where the edge is (hard requests are hard for both), and a score may be off; ``GainCurve`` is then
fitted on requests whose two answers are known, by isotonic regression: single answers are too noisy. A draft is worth
keeping when kappa / V, the price of the cloud in units of V, is at least the gain: ``tau`` is the least such score
(ours; m_c = P(cloud correct | s)). Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import neg
from typing import Self

import numpy as np

from policies.fitting import IntArray, as_tuple
from policies.outcomes import Outcomes
from policies.score import FloatArray


@dataclass(frozen=True, slots=True)
class GainCurve:
    """Piecewise linear: ``gains`` at ``scores``, constant outside; both of one length above 0.

    Raises:
        ValueError: ``scores`` do not rise within [0, 1], or ``gains`` do not fall within [-1, 1].
    """

    scores: tuple[float, ...]
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        s, g = np.array(self.scores, dtype=np.float64), np.array(self.gains, dtype=np.float64)
        if not (len(s) == len(g) > 0 and s[0] >= 0 and s[-1] <= 1 and (np.diff(s) > 0).all()):
            raise ValueError(f"scores must rise within [0, 1] and be as many as gains, got {self.scores}")
        if not ((np.abs(g) <= 1).all() and (np.diff(g) < 0).all()):
            raise ValueError(f"gains must fall within [-1, 1], got {self.gains}")

    @classmethod
    def fit(cls, drafts: Outcomes) -> Self:
        """Fit on requests with valid drafts; those with score 0 are left out.

        Raises:
            ValueError: there is no draft with a score and a weight above 0.
        """
        drafts = drafts.part((drafts.score > 0) & (drafts.weights > 0))
        if not len(drafts):
            raise ValueError("a gain curve needs drafts with scores above 0")
        drafts = drafts.part(np.argsort(drafts.score, kind="stable"))
        gains, blocks = falling_gains(drafts)
        starts = blocks[:-1]
        mass = np.add.reduceat(drafts.weights, starts)
        middle = np.add.reduceat(drafts.weights * drafts.score, starts) / mass
        rising = np.diff(middle, prepend=-1.0) > 0  # equal scores in two blocks differ by rounding alone
        return cls(as_tuple(middle[rising]), as_tuple(gains[starts][rising]))

    def tau(self, price: float) -> float:
        """The least score from which a draft is worth keeping when the cloud costs ``price``, in units of V."""
        gains, scores = self.gains, self.scores
        if price > gains[0] or price < gains[-1]:
            return 0.0 if price > gains[0] else 1.0
        below = bisect_left(gains, -price, key=neg)
        if gains[below] == price:
            return scores[below]
        share = (gains[below - 1] - price) / (gains[below - 1] - gains[below])
        return scores[below - 1] + share * (scores[below] - scores[below - 1])

    def taus(self, price: FloatArray) -> FloatArray:
        """``tau`` of many prices, any shape."""
        gains, scores = self.gains[::-1], self.scores[::-1]
        return np.asarray(np.interp(price, gains, scores, left=1.0, right=0.0), dtype=np.float64)


def falling_gains(drafts: Outcomes) -> tuple[FloatArray, IntArray]:
    """E[cloud right - edge right | score] of drafts in the order of their scores, by isotonic regression.

    Returns:
        The gain of each draft, never rising, [n]; and where each run of equal ones begins, n at the end.
    """
    from scipy.optimize import isotonic_regression  # noqa: PLC0415  (fitting is rare; serving needs no scipy)

    found = isotonic_regression(drafts.cloud_right - drafts.edge_right, weights=drafts.weights, increasing=False)
    return np.asarray(found.x, dtype=np.float64), np.asarray(found.blocks, dtype=np.int64)
