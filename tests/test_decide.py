"""The decision: one rule, five reasons, honest propensities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decide import decide
from policies.types import Decision, Reason, Route

unit = st.floats(0, 1)


@given(unit, unit, unit, unit)
def test_a_better_draft_is_never_sent_away_when_a_worse_one_stays(a: float, b: float, tau: float, audit: float) -> None:
    low, high = sorted((a, b))
    if decide(low, True, tau, True, audit).route is Route.EDGE:
        assert decide(high, True, tau, True, audit).route is Route.EDGE


@given(unit, unit, unit)
def test_a_lower_threshold_never_sends_more_away(score: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if decide(score, True, high, True, 0.0).route is Route.EDGE:
        assert decide(score, True, low, True, 0.0).route is Route.EDGE


@given(unit, unit, unit)
def test_an_invalid_draft_always_asks_the_cloud_and_scores_zero(score: float, tau: float, audit: float) -> None:
    assert decide(score, False, tau, True, audit) == Decision(Route.CLOUD, Reason.DRAFT_INVALID, 0.0, tau, 1.0)


@given(unit, st.booleans(), unit, unit)
def test_no_cloud_is_attempted_while_the_link_is_down(score: float, valid: bool, tau: float, audit: float) -> None:
    made = decide(score, valid, tau, False, audit)
    assert (made.route, made.reason, made.propensity) == (Route.EDGE, Reason.LINK_DOWN, 0.0)


def test_the_propensity_is_the_audit_rate_of_what_stays_and_one_for_what_leaves() -> None:
    assert decide(0.8, True, 0.8, True, 0.05) == Decision(Route.EDGE, Reason.SCORE_PASSED, 0.8, 0.8, 0.05)
    assert decide(0.7, True, 0.8, True, 0.05) == Decision(Route.CLOUD, Reason.SCORE_BELOW, 0.7, 0.8, 1.0)


@pytest.mark.parametrize("name", ["score", "threshold", "audit_rate"])
@pytest.mark.parametrize("wrong", [math.nan, -0.01, 1.01])
def test_what_is_not_a_probability_is_refused_by_name(name: str, wrong: float) -> None:
    given_numbers = {"score": 0.5, "threshold": 0.5, "audit_rate": 0.5, name: wrong}
    with pytest.raises(ValueError, match=name):
        decide(given_numbers["score"], True, given_numbers["threshold"], True, given_numbers["audit_rate"])
