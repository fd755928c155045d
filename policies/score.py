"""What a draft's own token log-probabilities say about it, as a fixed vector of features.

A confidence is the log-odds of a probability: of the three least probable tokens, and of the whole sequence. A model
that knew itself would have P(correct) equal to the probability of its sequence; what it does not know of itself,
``policies.calibration`` learns: it turns the features into s = P(draft correct). Except for the length, each of them
never falls when any token becomes more probable; the calibrator relies on it. They need log-probabilities taken
before any grammar mask: a forced token has log-probability 0 and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FEATURES = ("weakest", "second_weakest", "third_weakest", "sequence", "log_count")
RISING = tuple(name != "log_count" for name in FEATURES)
"""Which features never fall when a token becomes more probable."""

LOWEST, SUREST = -30.0, -1e-4  # log-probabilities beyond are alike: "impossible", and as sure as rounding allows
ROUNDING = 1e-3  # half-precision softmax may end this much above 0


def features(logprobs: Sequence[float]) -> FloatArray:
    """Features of one draft, shape [len(FEATURES)], always finite.

    Args:
        logprobs: natural-log probabilities of the draft's tokens, shape [tokens]; an empty draft is
            described by zeros (its validity gate, not its score, rejects it).

    Raises:
        ValueError: a log-probability is NaN or above 0.
    """
    bad = next((value for value in logprobs if not value <= ROUNDING), None)
    if bad is not None:
        raise ValueError(f"logprobs must be numbers <= 0, got {bad!r}")
    if not len(logprobs):
        return np.zeros(len(FEATURES))
    tokens = [min(value, 0.0) for value in logprobs]
    weakest = sorted([*tokens, 0.0, 0.0, 0.0])[:3]  # a short draft is padded with certain tokens
    return np.array([*map(log_odds, weakest), log_odds(math.fsum(tokens)), math.log(len(tokens))])


def log_odds(logprob: float) -> float:
    """ln(p / (1 - p)) of a natural-log probability; rises with it, from -30 to 9.2."""
    value = min(max(logprob, LOWEST), SUREST)
    return value - math.log(-math.expm1(value))
