"""What a draft's own token log-probabilities say about it, as a fixed vector of features.

The features feed ``policies.calibration``, which turns them into s = P(draft correct). Except for the
length, each of them never falls when any token becomes more probable; the calibrator relies on it.
They need log-probabilities taken before any grammar mask: a forced token has log-probability 0 and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FEATURES = ("mean", "min", "second_min", "third_min", "sum", "log_count")
RISING = tuple(name != "log_count" for name in FEATURES)
"""Which features never fall when a token becomes more probable."""

LOWEST = -30.0  # below e^-30 a token is simply "impossible"; keeps -inf out of the averages
ROUNDING = 1e-3  # half-precision softmax may end this much above 0


def features(logprobs: Sequence[float]) -> FloatArray:
    """Features of one draft, shape [len(FEATURES)], always finite.

    Args:
        logprobs: natural-log probabilities of the draft's tokens, shape [tokens]; an empty draft is
            described by zeros (its validity gate, not its score, rejects it).

    Raises:
        ValueError: a log-probability is NaN or above 0.
    """
    tokens = np.asarray(logprobs, dtype=np.float64)
    bad = np.isnan(tokens) | (tokens > ROUNDING)
    if bad.any():
        raise ValueError(f"logprobs must be numbers <= 0, got {float(tokens[bad][0])!r}")
    if tokens.size == 0:
        return np.zeros(len(FEATURES))
    tokens = np.clip(tokens, LOWEST, 0.0)
    first, second, third = _lowest_three(tokens)
    return np.array([tokens.mean(), first, second, third, tokens.sum(), math.log(tokens.size)])


def _lowest_three(tokens: FloatArray) -> FloatArray:
    """The three lowest in rising order; a short draft is padded with 0 (a certain token)."""
    padded = np.concatenate([tokens, np.zeros(3)])
    return np.sort(np.partition(padded, 2)[:3])
