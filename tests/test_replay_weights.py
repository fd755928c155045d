"""Recency and difficulty: what they do to the weights of a round's records, and what they never do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.replay_weights import ReplayRules, bounded, replay_weights

RULES = st.builds(
    ReplayRules,
    half_life=st.one_of(st.just(math.inf), st.floats(1.0, 1e4)),
    known=st.floats(0.01, 1.0),
    most=st.floats(1.0, 50.0),
)


@settings(deadline=None)
@given(stands_for=st.lists(st.floats(1.0, 20.0), min_size=1, max_size=200), rules=RULES, seed=st.integers(0, 99))
def test_the_mean_is_1_and_no_record_has_more_than_the_stated_multiple(
    stands_for: list[float], rules: ReplayRules, seed: int
) -> None:
    right = np.random.default_rng(seed).random(len(stands_for)) < 0.5
    weights = replay_weights(np.array(stands_for), right, rules)
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert weights.min() >= 0.0 and weights.max() <= rules.most


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=100), st.floats(1.0, 10.0))
def test_the_bound_keeps_the_order_and_does_not_depend_on_the_scale(values: list[float], most: float) -> None:
    found = bounded(np.array(values), most)
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= -1e-12).all()
    assert bounded(np.array(values) * 7.0, most) == pytest.approx(found, rel=1e-6)


def test_a_record_counts_half_after_a_half_life_of_labelled_records() -> None:
    weights = replay_weights(np.ones(31), np.zeros(31, dtype=bool), ReplayRules(half_life=10.0))
    assert weights[20] / weights[30] == pytest.approx(0.5) and weights[0] / weights[30] == pytest.approx(0.125)


def test_a_draft_that_was_right_counts_its_share_of_one_that_was_wrong() -> None:
    weights = replay_weights(np.ones(4), np.array([True, False, True, False]), ReplayRules(known=0.25))
    assert weights == pytest.approx([0.4, 1.6, 0.4, 1.6])


def test_one_audit_among_offloads_is_held_at_the_bound() -> None:
    weights = replay_weights(np.array([1.0, 1.0, 1.0, 1000.0]), np.zeros(4, dtype=bool), ReplayRules(most=2.0))
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])


def test_without_rules_a_record_counts_what_it_stands_for() -> None:
    weights = replay_weights(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), ReplayRules())
    assert weights == pytest.approx([0.5, 1.0, 1.5])
    assert len(replay_weights(np.empty(0), np.empty(0, dtype=bool), ReplayRules())) == 0


def test_a_short_half_life_over_a_long_log_leaves_finite_weights() -> None:
    weights = replay_weights(np.ones(5000), np.zeros(5000, dtype=bool), ReplayRules(half_life=1.0))
    assert np.isfinite(weights).all() and weights.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong", [{"half_life": 0.0}, {"half_life": math.nan}, {"known": 0.0}, {"known": 1.5}, {"most": 0.5}]
)
def test_nonsense_is_refused_with_the_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="half_life > 0"):
        ReplayRules(**wrong)
