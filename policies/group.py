"""From the rewards of a prompt's G answers to what each answer weighs in a policy step.

Every estimator maps rewards [prompts, G] to coefficients c [prompts, G], so that sum_i c_i grad log pi(y_i | x) is its
estimate of grad E[r] for one prompt; log pi is the sum over an answer's tokens. ``gapg`` and ``rloo`` are unbiased and
the same number; ``dr_grpo`` is (G - 1) / G times that; ``grpo`` forgets how large a reward was, so that a group with
one helped answer pushes as hard as a group with one right answer. A group of equal rewards moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from policies.score import FloatArray

_FLAT = 1e-9  # rounding gives equal rewards a spread of 1e-17, which must not be divided by

Estimator = Callable[[FloatArray], FloatArray]


def gapg(rewards: FloatArray) -> FloatArray:
    """(r_i - mean) / (G - 1), unbiased (arXiv 2509.24050, proposition 3.1): [prompts, G] -> [prompts, G]."""
    return _centred(rewards) / (_size(rewards) - 1)


def rloo(rewards: FloatArray) -> FloatArray:
    """(r_i - mean of the others) / G, unbiased (leave-one-out baseline): [prompts, G] -> [prompts, G]."""
    size = _size(rewards)
    total: FloatArray = np.sum(rewards, axis=1, keepdims=True)
    others = (total - rewards) / (size - 1)
    return (rewards - others) / size


def dr_grpo(rewards: FloatArray) -> FloatArray:
    """(r_i - mean) / G (GRPO without its two divisions): [prompts, G] -> [prompts, G]."""
    return _centred(rewards) / _size(rewards)


def grpo(rewards: FloatArray) -> FloatArray:
    """(r_i - mean) / (std * G), std over the group: [prompts, G] -> [prompts, G].

    GRPO also divides by the length of each answer; that belongs to its mean over tokens and is not done here.
    """
    spread: FloatArray = np.std(rewards, axis=1, keepdims=True)
    divisor: FloatArray = np.where(spread > _FLAT, spread, np.inf) * _size(rewards)
    return _centred(rewards) / divisor


ESTIMATORS: Mapping[str, Estimator] = {"gapg": gapg, "rloo": rloo, "dr_grpo": dr_grpo, "grpo": grpo}


def coefficients(estimator: str, rewards: FloatArray) -> FloatArray:
    """Apply the estimator of that name to rewards [prompts, G].

    Raises:
        ValueError: no such estimator, fewer than two answers a prompt, or a reward that is not finite.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [prompts, G] with G >= 2, got shape {list(rewards.shape)}")
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    return ESTIMATORS[estimator](rewards.astype(np.float64))


def _size(rewards: FloatArray) -> int:
    return int(rewards.shape[1])


def _centred(rewards: FloatArray) -> FloatArray:
    """Rewards less their group's mean."""
    mean: FloatArray = np.mean(rewards, axis=1, keepdims=True)
    return rewards - mean
