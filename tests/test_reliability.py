"""The reliability diagram: its bins add up to the calibration error, and its intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import ece
from policies.reliability import CONFIDENCE, reliability, wilson


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 15))
def test_the_gaps_of_the_bins_add_up_to_the_calibration_error(seed: int, n: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    scores, correct, weights = np.round(rng.random(n), 2), rng.random(n) < 0.5, rng.random(n) + 0.1
    diagram = reliability(scores, correct, bins, weights)
    assert sum(b.weight * abs(b.mean_score - b.frequency) for b in diagram) == pytest.approx(
        ece(scores, correct, bins, weights)
    )
    assert sum(b.count for b in diagram) == n
    assert sum(b.weight for b in diagram) == pytest.approx(1.0)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200))
def test_every_bin_holds_its_own_scores_and_its_frequency_lies_in_its_interval(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for b in reliability(rng.random(n), rng.random(n) < 0.3):
        assert b.low <= b.mean_score <= b.high
        assert 0.0 <= b.lower <= b.frequency <= b.upper <= 1.0
        assert b.count > 0


def test_a_score_of_one_belongs_to_the_last_bin() -> None:
    (only,) = reliability(np.array([1.0, 1.0]), np.array([True, False]), bins=4)
    assert (only.low, only.high, only.frequency, only.count) == (0.75, 1.0, 0.5, 2)


def test_no_drafts_give_no_bins() -> None:
    assert reliability(np.array([]), np.array([], dtype=bool)) == ()


def test_a_draft_of_weight_nought_is_not_seen() -> None:
    diagram = reliability(np.array([0.1, 0.9]), np.array([True, True]), weights=np.array([0.0, 2.0]))
    assert [b.low for b in diagram] == [0.9]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(share: float) -> None:
    rng = np.random.default_rng(7)
    seen = rng.binomial(80, share, 4000) / 80
    lower, upper = wilson(seen, np.full(4000, 80.0))
    assert np.mean((lower <= share) & (share <= upper)) == pytest.approx(CONFIDENCE, abs=0.03)


def test_unequal_weights_widen_the_interval() -> None:
    scores, correct = np.full(50, 0.55), np.arange(50) % 2 == 0
    (even,) = reliability(scores, correct)
    (uneven,) = reliability(scores, correct, weights=np.where(np.arange(50) < 10, 10.0, 0.1))
    assert uneven.upper - uneven.lower > 1.5 * (even.upper - even.lower)


@pytest.mark.parametrize(
    ("scores", "weights", "bins", "named"),
    [
        ([1.2, 0.0], [1.0, 1.0], 10, "scores"),
        ([math.nan, 0.0], [1.0, 1.0], 10, "scores"),
        ([0.5, 0.5], [-1.0, 1.0], 10, "weights"),
        ([0.5, 0.5], [math.inf, 1.0], 10, "weights"),
        ([0.5], [1.0, 1.0], 10, "rows"),
        ([0.5, 0.5], [1.0, 1.0], 0, "bins"),
    ],
)
def test_bad_numbers_are_refused_by_name(scores: list[float], weights: list[float], bins: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        reliability(np.array(scores), np.array([True, False]), bins, np.array(weights))
