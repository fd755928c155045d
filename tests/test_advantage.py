"""Whether the edge advantage rises in the score: right verdicts, few false alarms, the counter-example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.advantage import Rise, Verdict, check
from policies.outcomes import Outcomes
from policies.score import FloatArray

V = 0.02
seeds = st.integers(0, 2**32 - 1)


def requests(n: int, seed: int, weights: FloatArray | None = None) -> Outcomes:
    """Calibrated drafts, the cloud right in 97 of 100."""
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    right = (rng.random(n) < score).astype(float)
    return Outcomes(score, right, np.full(n, 0.97), np.ones((n, 6)), np.ones(n) if weights is None else weights)


def long_answers(score: FloatArray) -> FloatArray:
    """Hard prompts (low scores) with long cloud outputs: kappa falls steeply, Delta crosses zero twice."""
    return V * (0.4 + 1.2 * np.exp(-8.0 * score))


def delta(score: float) -> float:
    return score - 0.97 + float(long_answers(np.array(score))) / V


def test_a_calibrated_score_at_an_even_price_rises() -> None:
    found = check(requests(2000, 0), np.full(2000, 0.005), V)
    assert found.verdict is Verdict.RISES
    assert found.slope_low < 1.0 < found.slope_high
    assert "rises" in found.sentence and "single threshold is optimal" in found.sentence
    assert found.falls_from is None and found.lost_usd == 0.0


def test_hard_prompts_with_long_cloud_answers_make_a_single_threshold_suboptimal() -> None:
    assert delta(0.0) > 0 > delta(0.3) and delta(1.0) > 0
    given = requests(6000, 1)
    found = check(given, long_answers(given.score), V)
    assert found.verdict is Verdict.FALLS
    assert found.falls_from is not None and found.falls_to is not None
    assert found.falls_from < 0.1 and 0.15 < found.falls_to < 0.5
    assert delta(found.falls_from) > delta(found.falls_to)
    assert "falls between s = 0.0" in found.sentence and "not optimal there" in found.sentence


def test_the_loss_of_a_single_threshold_is_what_a_fine_search_finds() -> None:
    """Expected utilities on a grid of scores; bins resolve 1/12 of the scores, so to within a fifth."""
    given = requests(60_000, 2)
    found = check(given, long_answers(given.score), V)
    grid = np.linspace(0, 1, 2001)
    gain = (grid - 0.97 + long_answers(grid) / V) / len(grid)
    below = np.concatenate([[0.0], np.cumsum(gain)])
    single = (below[-1] - below).max()
    double = max(below[-1] - (below[j] - below[i]) for i in range(0, 2001, 5) for j in range(i, 2001, 5))
    assert double > single
    assert found.lost_usd == pytest.approx(V * (double - single), rel=0.2)


def test_overconfidence_at_the_top_is_found_too() -> None:
    rng = np.random.default_rng(3)
    score = rng.random(5000)
    right = (rng.random(5000) < np.where(score < 0.8, score, 0.3)).astype(float)
    given = Outcomes(score, right, np.full(5000, 0.97), np.ones((5000, 6)), np.ones(5000))
    found = check(given, np.full(5000, 0.01), V)
    assert found.verdict is Verdict.FALLS and found.falls_to is not None
    assert found.falls_to > 0.8 and found.lost_usd > 0


@pytest.mark.parametrize("n", [0, 1, 89])
def test_too_few_requests_tell_nothing(n: int) -> None:
    found = check(requests(n, 4), np.full(n, 0.005), V)
    assert found.verdict is Verdict.UNKNOWN
    assert f"cannot be told (too few, on {n} labelled requests)" in found.sentence


def test_a_score_that_says_nothing_cannot_be_told() -> None:
    rng = np.random.default_rng(5)
    given = Outcomes(rng.random(400), rng.integers(0, 2, 400) + 0.0, np.ones(400), np.ones((400, 6)), np.ones(400))
    found = check(given, np.zeros(400), V)
    assert found.verdict is Verdict.UNKNOWN and found.slope_low < 0 < found.slope_high


@pytest.mark.parametrize("score", [0.0, 0.5])
def test_one_score_for_all_or_nearly_all_is_too_few_bins(score: float) -> None:
    given = requests(500, 6)
    same = Outcomes(np.full(500, score), given.edge_right, given.cloud_right, given.amounts, given.weights)
    assert check(same, np.zeros(500), V).verdict is Verdict.UNKNOWN


def test_an_advantage_without_any_spread_is_not_a_fall() -> None:
    score = np.linspace(0, 1, 600)
    level = Outcomes(score, np.full(600, 0.3), np.full(600, 0.97), np.ones((600, 6)), np.ones(600))
    assert check(level, np.full(600, 0.0123), V).verdict is Verdict.UNKNOWN


def test_false_alarms_stay_within_the_level() -> None:
    """Flat advantage, the hardest case of "does not fall": 5 % of 300, binomial standard error 1.3 points."""
    alarms = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        right = (rng.random(600) < 0.7).astype(float)
        given = Outcomes(rng.random(600), right, np.full(600, 0.97), np.ones((600, 6)), np.ones(600))
        alarms += check(given, np.zeros(600), V, seed=seed).verdict is Verdict.FALLS
    assert alarms <= 27


def test_a_rising_advantage_is_hardly_ever_called_falling_and_mostly_recognised() -> None:
    verdicts = [check(requests(600, seed), np.full(600, 0.005), V).verdict for seed in range(100)]
    assert verdicts.count(Verdict.FALLS) <= 2 and verdicts.count(Verdict.RISES) >= 95


def test_weights_undo_the_selection_of_audits() -> None:
    """Right drafts labelled twice as often as wrong ones above 0.5: weighted, the advantage is the true one."""
    everyone = requests(40_000, 7)
    rng = np.random.default_rng(8)
    chance = np.where(everyone.score > 0.5, np.where(everyone.edge_right > 0, 0.8, 0.4), 1.0)
    seen = rng.random(40_000) < chance
    part = everyone.part(seen)
    weighted = Outcomes(part.score, part.edge_right, part.cloud_right, part.amounts, 1.0 / chance[seen])
    found = check(weighted, np.zeros(len(part)), V)
    assert np.abs(found.advantage - (found.score - 0.97)).max() < 0.04


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(90, 400), st.floats(0, 0.1))
def test_the_result_is_always_in_order(seed: int, n: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(n) < 0.2, 0.0, rng.choice([1.0, 20.0], n))
    given = requests(n, seed, weights)
    found: Rise = check(given, price * rng.random(n), V)
    assert (np.diff(found.score) > 0).all() and found.lost_usd >= -1e-15
    assert found.slope_low <= found.slope <= found.slope_high
    if found.falls_from is not None and found.falls_to is not None:
        assert found.falls_from < found.falls_to
    assert (found.falls_from is not None) == (found.verdict is Verdict.FALLS)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one kappa_usd a request"):
        check(requests(10, 9), np.zeros(9), V)
    with pytest.raises(ValueError, match="value_usd > 0"):
        check(requests(10, 9), np.zeros(10), 0.0)
