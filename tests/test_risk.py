"""Risk control: the promise holds as often as it says, and it is not kept by serving nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.risk import GRID, Audits, SafeThreshold, _betting_e, bounded_risk, expected_risk
from policies.score import FloatArray

ALPHA, DELTA, RESAMPLES = 0.05, 0.1, 200
MOST = RESAMPLES * DELTA + 3 * math.sqrt(RESAMPLES * DELTA * (1 - DELTA))  # 3 standard deviations of chance
A, B = 4.0, 1.5  # scores are Beta(4, 1.5) and calibrated


@dataclass(frozen=True)
class Plan:
    """How a log of ``requests`` was audited: drafts below ``tau`` were offloaded, others labelled at ``rate``."""

    requests: int
    rate: float
    tau: float


PLANS = {
    "every draft audited": Plan(2_000, 1.0, 0.0),
    "one in ten audited": Plan(20_000, 0.1, 0.0),
    "offloads and audits": Plan(4_500, 0.2, 0.6),
}


def log(plan: Plan, rng: np.random.Generator) -> Audits:
    score = rng.beta(A, B, plan.requests)
    propensity = np.where(score < plan.tau, 1.0, plan.rate)
    labelled = rng.random(plan.requests) < propensity
    wrong = (rng.random(plan.requests) > score) & labelled  # what was not seen is not told
    return Audits(score, wrong, labelled, propensity)


def population() -> tuple[FloatArray, FloatArray]:
    """P(kept) and P(kept and wrong) at each threshold of the grid, by integration."""
    s = (np.arange(200_000) + 0.5) / 200_000
    mass = s ** (A - 1) * (1 - s) ** (B - 1)
    mass /= mass.sum()
    first = np.searchsorted(s, GRID)
    kept = np.append(np.cumsum(mass[::-1])[::-1], 0.0)[first]
    wrong = np.append(np.cumsum((mass * (1 - s))[::-1])[::-1], 0.0)[first]
    return kept, wrong


KEPT, RISK = population()
ORACLE = float(KEPT[RISK <= ALPHA].max())


def at(found: SafeThreshold) -> int:
    return int(np.argmin(np.abs(GRID - found.tau)))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_the_realised_risk_exceeds_alpha_no_more_often_than_delta_and_the_edge_still_serves(plan: Plan) -> None:
    rng = np.random.default_rng(1)
    found = [at(bounded_risk(log(plan, rng), ALPHA, DELTA)) for _ in range(RESAMPLES)]
    assert sum(RISK[index] > ALPHA for index in found) <= MOST
    assert log(plan, rng).labelled.sum() == pytest.approx(2_000, rel=0.2)
    assert np.mean([KEPT[index] >= ORACLE / 2 for index in found]) >= 0.95


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_conformal_risk_control_keeps_the_risk_below_alpha_on_average(plan: Plan) -> None:
    rng = np.random.default_rng(2)
    risks = [RISK[at(expected_risk(log(plan, rng), ALPHA))] for _ in range(RESAMPLES)]
    assert np.mean(risks) <= ALPHA + 3 * np.std(risks) / math.sqrt(RESAMPLES)
    assert np.mean(risks) >= 0.8 * ALPHA


def test_a_promise_right_at_the_border_is_broken_by_chance_only() -> None:
    """Drafts whose risk is just above alpha from the first test on: the worst case for the test."""
    rng = np.random.default_rng(3)
    broken = 0
    for rate in (1.0, 0.2):
        for _ in range(RESAMPLES):
            score, wrong = np.full(3_000, 0.999), rng.random(3_000) < ALPHA * 1.001
            propensity = np.where(np.arange(3_000) % 50, rate, 1.0)
            broken += (
                bounded_risk(Audits(score, wrong, rng.random(3_000) < propensity, propensity), ALPHA, DELTA).tau < 1
            )
    assert broken <= 2 * RESAMPLES * DELTA + 3 * math.sqrt(2 * RESAMPLES * DELTA * (1 - DELTA))


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(0.001, 0.9))
def test_the_bets_against_a_risk_of_exactly_alpha_are_fair(propensity: float, alpha: float) -> None:
    """One request of each kind, weighed by how often it comes: the mean of the evidence is 1."""
    common = np.array([propensity])
    right, wrong = (
        _betting_e(Audits(np.array([0.5]), np.array([label]), np.array([True]), common), alpha)[-1]
        for label in (False, True)
    )
    assert (1 - alpha * propensity) * right + alpha * propensity * wrong == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(PLANS)), st.floats(0.01, 0.3), st.floats(0.01, 0.3))
def test_a_stricter_promise_never_lowers_the_threshold(seed: int, plan: str, alpha: float, delta: float) -> None:
    audits = log(PLANS[plan], np.random.default_rng(seed))
    assert bounded_risk(audits, alpha / 2, delta).tau >= bounded_risk(audits, alpha, delta).tau
    assert bounded_risk(audits, alpha, delta / 2).tau >= bounded_risk(audits, alpha, delta).tau
    assert expected_risk(audits, alpha / 2).tau >= expected_risk(audits, alpha).tau


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(PLANS)))
def test_one_more_wrong_draft_never_lowers_the_threshold(seed: int, plan: str) -> None:
    rng = np.random.default_rng(seed)
    audits = log(PLANS[plan], rng)
    wrong = audits.wrong.copy()
    wrong[rng.integers(len(wrong), size=20)] = True
    worse = Audits(audits.score, wrong, audits.labelled, audits.propensity)
    assert bounded_risk(worse, ALPHA, DELTA).tau >= bounded_risk(audits, ALPHA, DELTA).tau
    assert expected_risk(worse, ALPHA).tau >= expected_risk(audits, ALPHA).tau
    assert (worse.risks() >= audits.risks() - 1e-12).all()


def test_the_estimate_is_unbiased_though_most_drafts_were_never_seen() -> None:
    rng = np.random.default_rng(4)
    estimates = np.array([log(PLANS["offloads and audits"], rng).risks() for _ in range(RESAMPLES)])
    error = estimates.std(axis=0) / math.sqrt(RESAMPLES)
    assert (np.abs(estimates.mean(axis=0) - RISK) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_too_few_audits_keep_nothing_and_say_so(mixed: bool) -> None:
    for n in (0, 1, 40):
        propensity = np.ones(n)
        propensity[: n // 2 if mixed else 0] = 0.1
        audits = Audits(np.full(n, 0.9), np.zeros(n, bool), np.ones(n, bool), propensity)
        found = bounded_risk(audits, ALPHA, DELTA)
        assert found.tau == 1.0
        assert "too few audits" in found.reason and f"{n} labels" in found.reason


def test_forty_five_flawless_audits_are_what_clopper_and_pearson_ask_for() -> None:
    for n, tau in ((44, 1.0), (45, 0.0)):  # 0.95 ** 45 < 0.1
        found = bounded_risk(Audits(np.full(n, 0.5), np.zeros(n, bool), np.ones(n, bool), np.ones(n)), ALPHA, DELTA)
        assert found.tau == tau
        assert tau == 0 or "about 45 requests are needed" in found.reason


def test_nineteen_flawless_requests_are_what_conformal_risk_control_asks_for() -> None:
    for n, tau in ((18, 1.0), (19, 0.0)):  # 1 / (n + 1) <= 0.05
        found = expected_risk(Audits(np.full(n, 0.5), np.zeros(n, bool), np.ones(n, bool), np.ones(n)), ALPHA)
        assert found.tau == tau


def test_drafts_that_are_wrong_at_every_score_keep_nothing_and_say_so() -> None:
    ones = np.ones(500)
    found = bounded_risk(Audits(0.999 * ones, ones > 0, ones > 0, ones), ALPHA, DELTA)
    assert found.tau == 1.0 and "wrong too often" in found.reason


def test_a_log_whose_kept_drafts_could_not_be_seen_is_refused() -> None:
    score = np.array([0.2, 0.9])
    with pytest.raises(ValueError, match="propensity"):
        Audits(score, score > 1, score < 0.5, np.array([1.0, 0.0]))


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1])
def test_numbers_out_of_range_are_refused_by_name(wrong: float) -> None:
    one, yes = np.ones(1), np.ones(1, bool)
    with pytest.raises(ValueError, match="score"):
        Audits(np.array([wrong]), yes, yes, one)
    with pytest.raises(ValueError, match="propensity"):
        Audits(one, yes, yes, np.array([wrong]))
    with pytest.raises(ValueError, match="same number of rows"):
        Audits(one, yes, yes, np.ones(2))
    good = Audits(one, yes, yes, one)
    with pytest.raises(ValueError, match="alpha"):
        expected_risk(good, wrong)
    with pytest.raises(ValueError, match="delta"):
        bounded_risk(good, 0.1, wrong)
