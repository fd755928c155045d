"""What a draft's own token log-probabilities and its prompt say about it, as a fixed vector of features.

A confidence is the log-odds of a probability: of the three least probable tokens, and of the whole sequence. A model
that knew itself would have P(correct) equal to the probability of its sequence; what it does not know of itself,
``policies.calibration`` learns: it turns the features into s = P(draft correct). The last feature is what the prompt
alone promised, p(x) of ``policies.prompt_score``: a model may be sure of itself where it has always been wrong. Except
for the length, none falls when a token becomes more probable; the calibrator relies on it. They need log-probabilities
taken before any grammar mask: a forced token has log-probability 0 and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FEATURES = ("weakest", "second_weakest", "third_weakest", "sequence", "log_count", "prompt")
RISING = tuple(name != "log_count" for name in FEATURES)
"""Which features never fall when a token becomes more probable, or a prompt more promising."""

LOWEST, SUREST = -30.0, -1e-4  # log-probabilities beyond are alike: "impossible", and as sure as rounding allows
ROUNDING = 1e-3  # half-precision softmax may end this much above 0


def features(logprobs: Sequence[float], expected: float | None = None) -> FloatArray:
    """Features of one draft, shape [len(FEATURES)], always finite.

    Args:
        logprobs: natural-log probabilities of the draft's tokens, shape [tokens]; an empty draft is
            described by zeros (its validity gate, not its score, rejects it).
        expected: p(x), the probability that a draft for this prompt is right; None where nothing is forecast.

    Raises:
        ValueError: a log-probability is NaN or above 0, or ``expected`` is no probability.
    """
    bad = next((value for value in logprobs if not value <= ROUNDING), None)
    if bad is not None:
        raise ValueError(f"logprobs must be numbers <= 0, got {bad!r}")
    promise = prompt_odds(expected)
    if not len(logprobs):
        return np.array([*[0.0] * (len(FEATURES) - 1), promise])
    tokens = [min(value, 0.0) for value in logprobs]
    weakest = sorted([*tokens, 0.0, 0.0, 0.0])[:3]  # a short draft is padded with certain tokens
    return np.array([*map(log_odds, weakest), log_odds(math.fsum(tokens)), math.log(len(tokens)), promise])


def log_odds(logprob: float) -> float:
    """ln(p / (1 - p)) of a natural-log probability; rises with it, from -30 to 9.2."""
    value = min(max(logprob, LOWEST), SUREST)
    return value - math.log(-math.expm1(value))


def prompt_odds(expected: float | None) -> float:
    """The log-odds of p(x); 0, even odds, where nothing is forecast.

    Raises:
        ValueError: ``expected`` lies outside (0, 1).
    """
    if expected is None:
        return 0.0
    if not 0.0 < expected < 1.0:
        raise ValueError(f"expected must lie inside (0, 1), got {expected!r}")
    return math.log(expected / (1.0 - expected))
