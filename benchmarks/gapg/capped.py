"""What a method reaches when at most a share of requests may go to the cloud. Pure counting, no models.

Requests come one after the other. Who asks by itself is served first come, first served, and refused beyond the cap;
who is scored sends the lowest scores. A refused request is wrong, unless a second local attempt is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.fitting import BoolArray
from policies.score import FloatArray

CAP = 0.3
RATIOS = tuple(round(0.05 * step, 2) for step in range(21))
_ROUNDING = 1e-9  # 0.3 * 1,000 must be 300


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares: of all that are right, of the retained that are right, of all that are right alone; and of sent ones."""

    overall: float
    conditional: float
    local: float
    sent: float


def allowed(count: int, ratio: float) -> int:
    """How many of ``count`` requests may go to the cloud."""
    return math.floor(ratio * count + _ROUNDING)


def first_come(asked: BoolArray, ratio: float) -> BoolArray:
    """The requests for help that are served, [n]: the first ones that fit under the cap."""
    return asked & (np.cumsum(asked) <= allowed(len(asked), ratio))


def lowest(score: FloatArray, ratio: float) -> BoolArray:
    """As many requests as may go, those of the lowest score: [n]."""
    sent = np.zeros(len(score), dtype=bool)
    sent[np.argsort(score, kind="stable")[: allowed(len(score), ratio)]] = True
    return sent


def topped_up(asked: BoolArray, score: FloatArray, ratio: float) -> BoolArray:
    """``first_come``, and what is left of the cap goes to the lowest scores among those that did not ask: [n]."""
    served = first_come(asked, ratio)
    left = allowed(len(asked), ratio) - int(served.sum())
    others = np.flatnonzero(~asked)
    served[others[np.argsort(score[others], kind="stable")[:left]]] = True
    return served


def accuracy(sent: BoolArray, right: BoolArray, cloud: BoolArray) -> Accuracy:
    """Count, where ``sent`` [n] went to the cloud and ``right`` [n] says what the device alone gets right."""
    kept = right & ~sent
    conditional = kept.sum() / max(int((~sent).sum()), 1)
    overall = np.where(sent, cloud, right).mean()
    return Accuracy(float(overall), float(conditional), float(kept.mean()), float(sent.mean()))
