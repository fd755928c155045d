"""Group estimators: identities, unbiasedness and covariance on a policy small enough to know everything about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.group import ESTIMATORS, coefficients
from policies.score import FloatArray

PROBABILITIES = np.array([0.5, 0.3, 0.2])  # a softmax policy over three answers
REWARDS = np.array([1.0, 0.25, 0.0])
SCORES = np.eye(3) - PROBABILITIES  # row y: grad log pi(y) with respect to the logits
GRADIENT = PROBABILITIES @ (REWARDS[:, None] * SCORES)
GROUPS = 400_000

rewards = st.tuples(st.integers(1, 4), st.integers(2, 16)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-10, 10))
)


def estimates(estimator: str, size: int) -> FloatArray:
    """The estimator's gradient on many independent groups of answers: [groups, 3]."""
    answers = np.random.default_rng(size).choice(3, size=(GROUPS, size), p=PROBABILITIES)
    weights = coefficients(estimator, REWARDS[answers])
    return np.asarray(np.einsum("ng,nga->na", weights, SCORES[answers]))


def covariance(size: int) -> FloatArray:
    """Lemma F.1: A / G + var / (G (G - 1)) S - (G - 2) / (G (G - 1)) m m^T."""
    mean = PROBABILITIES @ REWARDS
    variance = PROBABILITIES @ (REWARDS - mean) ** 2
    outer = np.einsum("ya,yb->yab", SCORES, SCORES)
    weighted = np.einsum("y,yab->ab", PROBABILITIES * (REWARDS - mean) ** 2, outer)
    plain = np.einsum("y,yab->ab", PROBABILITIES, outer)
    pairs = size * (size - 1)
    return np.asarray(weighted / size + variance / pairs * plain - (size - 2) / pairs * np.outer(GRADIENT, GRADIENT))


@given(rewards)
def test_gapg_is_rloo(given: FloatArray) -> None:
    np.testing.assert_allclose(coefficients("gapg", given), coefficients("rloo", given), atol=1e-12)


@given(rewards)
def test_dr_grpo_is_gapg_up_to_a_constant(given: FloatArray) -> None:
    size = given.shape[1]
    np.testing.assert_allclose(coefficients("dr_grpo", given), coefficients("gapg", given) * (size - 1) / size)


@given(rewards, st.sampled_from(sorted(ESTIMATORS)), st.floats(-100, 100))
def test_coefficients_sum_to_zero_and_do_not_see_a_constant_bonus(given: FloatArray, name: str, bonus: float) -> None:
    np.testing.assert_allclose(coefficients(name, given).sum(axis=1), 0, atol=1e-9)
    if name != "grpo":  # whose division by a vanishing std makes rounding visible
        np.testing.assert_allclose(coefficients(name, given + bonus), coefficients(name, given), atol=1e-9)


@given(st.integers(2, 32), st.floats(-10, 10), st.sampled_from(sorted(ESTIMATORS)))
def test_equal_rewards_move_nothing(size: int, reward: float, name: str) -> None:
    np.testing.assert_allclose(coefficients(name, np.full((3, size), reward)), 0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_gapg_is_unbiased_with_the_covariance_of_the_lemma(size: int) -> None:
    sampled, expected = estimates("gapg", size), covariance(size)
    error = np.sqrt(np.diag(expected) / GROUPS)
    assert (np.abs(sampled.mean(axis=0) - GRADIENT) < 4 * error).all()
    assert np.abs(np.cov(sampled.T) - expected).max() < 0.01 * np.abs(expected).max()


def test_dr_grpo_is_biased_by_one_over_g() -> None:
    np.testing.assert_allclose(estimates("dr_grpo", 2).mean(axis=0), GRADIENT / 2, atol=1e-3)


def test_grpo_cannot_tell_a_helped_answer_from_a_right_one_and_gapg_can() -> None:
    alone, helped = 1.0, 0.25
    groups = np.array([[alone, *[0.0] * 7], [helped, *[0.0] * 7]])
    forgetful = coefficients("grpo", groups)[:, 0] * 8
    np.testing.assert_allclose(forgetful, [7**0.5, 7**0.5])  # 2.6458 for both
    np.testing.assert_allclose(coefficients("gapg", groups)[:, 0], [0.125 * alone, 0.125 * helped])


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("ppo", np.zeros((1, 2)), "gapg, rloo, dr_grpo, grpo"),
        ("gapg", np.zeros((4, 1)), "G >= 2"),
        ("gapg", np.zeros(4), "G >= 2"),
        ("gapg", np.array([[0.0, np.nan]]), "finite"),
    ],
)
def test_what_cannot_be_estimated_is_refused(name: str, given: FloatArray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        coefficients(name, given)
