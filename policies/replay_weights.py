"""How much each labelled record counts in a round: a newer one more than an older, a lesson more than a confirmation.

Recency is 0.5 ^ (age / half-life), and a record's age is the number of labelled records after it: a quiet site forgets
nothing overnight. Difficulty is what is known before training: a draft that said what the cloud says teaches little, so
it counts only a share of one that was wrong or invalid. Both multiply what a record stands for (1 / propensity). The
products have mean 1, and none is above a stated multiple of it: one record must not be a round. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.fitting import BoolArray
from policies.score import FloatArray

ROUNDING = 1e-9
LEAST = 1e-12  # share that even the oldest record keeps: sums stay within the range of a float


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """What makes one record count more than another.

    Args:
        half_life: labelled records after which one counts half; infinity forgets nothing.
        known: what a record counts whose draft was right, as a share of one whose draft was wrong.
        most: the largest weight, as a multiple of the mean.

    Raises:
        ValueError: a number makes no sense.
    """

    half_life: float = math.inf
    known: float = 1.0
    most: float = 4.0

    def __post_init__(self) -> None:
        if not self.half_life > 0.0 or not 0.0 < self.known <= 1.0 or not 1.0 <= self.most < math.inf:
            raise ValueError(
                f"half_life > 0, known in (0, 1] and most >= 1 are needed, "
                f"got {self.half_life!r}, {self.known!r}, {self.most!r}"
            )


def replay_weights(stands_for: FloatArray, right: BoolArray, rules: ReplayRules) -> FloatArray:
    """Weights of labelled records in [0, ``most``] with mean 1, shape [n].

    Args:
        stands_for: requests that each stands for, > 0, oldest record first; [n].
        right: whether its draft said what the cloud says; [n].
    """
    age = np.arange(len(right), dtype=np.float64)[::-1]
    recency = np.maximum(0.5 ** (age / rules.half_life), LEAST)
    return bounded(stands_for * recency * np.where(right, rules.known, 1.0), rules.most)


def bounded(weights: FloatArray, most: float) -> FloatArray:
    """``weights`` > 0 scaled to mean 1, those that would be above ``most`` >= 1 held there; [n]."""
    largest_first = np.sort(weights)[::-1]
    held = np.arange(len(weights))
    below = np.cumsum(largest_first[::-1])[::-1]  # the sum of those that are not held
    scale = (len(weights) - held * most) / below
    fits = np.flatnonzero(scale * largest_first <= most * (1.0 + ROUNDING))
    return np.minimum(weights * scale[fits[0]], most) if len(fits) else weights
