"""The three decisions: one rule, every reason, honest propensities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calibration import Calibrator
from policies.decide import Patience, decide, worth_making
from policies.early import Running, ScoreBound
from policies.types import Decision, Objective, Reason, Route

unit = st.floats(0, 1)


@given(unit, unit, unit, unit)
def test_a_better_draft_is_never_sent_away_when_a_worse_one_stays(a: float, b: float, tau: float, audit: float) -> None:
    low, high = sorted((a, b))
    if decide(low, None, tau, True, audit).route is Route.EDGE:
        assert decide(high, None, tau, True, audit).route is Route.EDGE


@given(unit, unit, unit)
def test_a_lower_threshold_never_sends_more_away(score: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if decide(score, None, high, True, 0.0).route is Route.EDGE:
        assert decide(score, None, low, True, 0.0).route is Route.EDGE


unusable = st.sampled_from([Reason.DRAFT_INVALID, Reason.DRAFT_SKIPPED, Reason.DRAFT_ABANDONED])


@given(unit, unusable, unit, unit)
def test_a_draft_that_cannot_stay_always_asks_the_cloud_and_scores_zero(
    score: float, why: Reason, tau: float, audit: float
) -> None:
    assert decide(score, why, tau, True, audit) == Decision(Route.CLOUD, why, 0.0, tau, 1.0)


@given(unit, unusable | st.none(), unit, unit)
def test_no_cloud_is_attempted_while_the_link_is_down(
    score: float, why: Reason | None, tau: float, audit: float
) -> None:
    made = decide(score, why, tau, False, audit)
    assert (made.route, made.reason, made.propensity) == (Route.EDGE, Reason.LINK_DOWN, 0.0)


def test_the_propensity_is_the_audit_rate_of_what_stays_and_one_for_what_leaves() -> None:
    assert decide(0.8, None, 0.8, True, 0.05) == Decision(Route.EDGE, Reason.SCORE_PASSED, 0.8, 0.8, 0.05)
    assert decide(0.7, None, 0.8, True, 0.05) == Decision(Route.CLOUD, Reason.SCORE_BELOW, 0.7, 0.8, 1.0)


@pytest.mark.parametrize("name", ["score", "threshold", "audit_rate"])
@pytest.mark.parametrize("wrong", [math.nan, -0.01, 1.01])
def test_what_is_not_a_probability_is_refused_by_name(name: str, wrong: float) -> None:
    given_numbers = {"score": 0.5, "threshold": 0.5, "audit_rate": 0.5, name: wrong}
    with pytest.raises(ValueError, match=name):
        decide(given_numbers["score"], None, given_numbers["threshold"], True, given_numbers["audit_rate"])


OBJECTIVE = Objective(value_usd=0.02, second_usd=0.002, cloud_accuracy=0.97)
PLAIN = Calibrator((0.0,) * 6, (1.0,) * 6, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 2.0, 100)


@given(unit, unit, st.floats(0, 100))
def test_what_could_win_more_is_worth_more_time(a: float, b: float, seconds: float) -> None:
    low, high = sorted((a, b))
    assert worth_making(high, seconds, OBJECTIVE) >= worth_making(low, seconds, OBJECTIVE)
    assert worth_making(low, seconds / 2, OBJECTIVE) >= worth_making(low, seconds, OBJECTIVE)


def test_a_draft_that_can_win_nothing_is_not_made_even_where_time_is_free() -> None:
    free = Objective(0.02, 0.0, 0.97)
    assert not worth_making(0.0, 0.0, free)
    assert worth_making(1e-9, 100.0, free)


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=40), unit)
def test_patience_never_gives_up_a_draft_that_would_have_been_kept(tokens: list[float], tau: float) -> None:
    bound, whole = ScoreBound(PLAIN), Running()
    watch = Patience(bound, tau, 64)
    gave_up = [watch(token) for token in tokens]
    assert all(map(whole.add, tokens))
    if bound.score(whole) >= tau:
        assert not any(gave_up)


def test_patience_ends_at_the_first_token_that_settles_it() -> None:
    watch = Patience(ScoreBound(PLAIN), 0.5, 64)
    assert [watch(token) for token in (-0.1, -0.2, -9.0)] == [False, False, True]
    assert watch.best < 0.01


def test_a_token_without_a_number_ends_patience() -> None:
    assert Patience(ScoreBound(PLAIN), 0.01, 64)(math.nan)
