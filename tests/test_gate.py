"""The gate and the recalibration: what they let through, and that their estimates are honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import Calibrator, ece
from policies.gate import Answers, GateRules, Trial, gains, interval, judge
from policies.recalibrate import recalibrate
from policies.score import FEATURES, FloatArray, features

RULES = GateRules()


def answers(meaning: np.ndarray, valid: float = 1.0, help: float = 0.0, flaw: str = "") -> Answers:
    n = len(meaning)
    return Answers(np.arange(n) < valid * n, np.arange(n) < help * n, meaning.astype(np.int64), flaw)


def trial(
    gain: float = 0.3, n: int = 100, drift: float = 0.1, base: Answers | None = None, candidate: Answers | None = None
) -> Trial:
    """``n`` labelled offloads of which a share ``gain`` turned from wrong to right."""
    ones, cloud = np.ones(n), np.arange(n)
    return Trial(
        difference=(np.arange(n) < abs(gain) * n) * np.sign(gain),
        imputed=np.zeros(n),
        labelled=ones.astype(bool),
        propensity=ones,
        base=base or answers(cloud + n),
        candidate=candidate or answers(cloud),
        cloud=cloud,
        drift_nats=drift,
    )


SAME, OWN = np.zeros(100), np.arange(100)


def test_a_clear_win_passes_with_its_figures() -> None:
    result = judge(trial(), RULES)
    assert result.passed and result.figures["gain"] == pytest.approx(0.3)
    assert 0.2 < result.figures["gain_low"] < 0.3 < result.figures["gain_high"] < 0.4


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (trial(gain=0.0), "not surely above 0"),
        (trial(gain=-0.2), "not surely above 0"),
        (trial(gain=0.02, n=50), "not surely above 0"),
        (trial(candidate=answers(OWN, valid=0.98, flaw="no JSON")), "falls from 1.000 to 0.980, mostly: no JSON"),
        (trial(candidate=answers(OWN + 100)), "nothing was learnt: it answers all 100"),
        (trial(candidate=answers(OWN, help=0.93)), "asks for help in 93% of requests, its parent in 0%; 10% are"),
        (trial(candidate=answers(SAME)), "collapsed: 100% of its answers are one and the same"),
        (trial(drift=2.5), "drift of 2.500"),
        (trial(drift=float("nan")), "drift of nan"),
        (trial(n=9), "only 9 labelled"),
    ],
)
def test_a_candidate_that_fails_one_condition_is_refused_with_the_reason(candidate: Trial, why: str) -> None:
    result = judge(candidate, RULES)
    assert not result.passed and why in result.reason


@pytest.mark.parametrize(
    ("given", "first"),
    [
        (trial(0.0, drift=9.0, candidate=answers(SAME, valid=0.5, help=1.0)), "it asks for help in 100%"),
        (trial(0.0, drift=9.0, candidate=answers(SAME, valid=0.5)), "collapsed"),
        (trial(0.0, drift=9.0, candidate=answers(OWN, valid=0.5)), "validity"),
        (trial(0.0, drift=9.0), "drift"),
    ],
)
def test_of_several_reasons_the_most_telling_is_given(given: Trial, first: str) -> None:
    assert judge(given, RULES).reason.startswith(first)


def test_what_the_parent_and_the_cloud_do_too_is_no_fault_of_the_candidate() -> None:
    asking = replace(trial(), base=answers(OWN + 100, help=0.9), candidate=answers(OWN, help=0.95))
    one_question = replace(trial(), cloud=SAME.astype(np.int64), candidate=answers(SAME))
    invalid = replace(trial(), base=answers(OWN + 100, valid=0.9), candidate=answers(OWN, valid=0.9))
    assert all(judge(one, RULES).passed for one in (asking, one_question, invalid))


def test_answers_that_cannot_be_read_are_no_common_answer() -> None:
    result = judge(trial(candidate=answers(SAME - 1, valid=0.0, flaw="it is not closed")), RULES)
    assert result.reason == "validity falls from 1.000 to 0.000, mostly: it is not closed"


def test_an_audit_weighs_as_much_as_the_records_it_stands_for_up_to_the_cap() -> None:
    one = replace(trial(n=2), difference=np.array([1.0, -1.0]), propensity=np.array([1.0, 0.1]))
    assert gains(one, weight_cap=20).tolist() == [1.0, -10.0]
    assert gains(one, weight_cap=4).tolist() == [1.0, -4.0]


def test_a_label_without_a_propensity_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity"):
        gains(replace(trial(n=2), propensity=np.zeros(2)), 20)
    with pytest.raises(ValueError, match="one length"):
        gains(replace(trial(n=2), propensity=np.zeros(3)), 20)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), bias=st.floats(-1, 1))
def test_the_gain_is_unbiased_whatever_is_imputed(seed: int, bias: float) -> None:
    draw = np.random.default_rng(seed)
    n = 40_000
    difference = draw.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.6, 0.3])
    propensity = np.where(draw.random(n) < 0.5, 1.0, 0.25)
    labelled = draw.random(n) < propensity
    given = replace(trial(), difference=difference, imputed=np.full(n, bias), labelled=labelled, propensity=propensity)
    estimate = gains(given, weight_cap=20).mean()
    assert estimate == pytest.approx(difference.mean(), abs=0.04)


def test_knowing_that_most_answers_agree_narrows_the_interval() -> None:
    draw = np.random.default_rng(0)
    n = 400
    difference = np.where(draw.random(n) < 0.05, -1.0, 0.0)
    labelled = draw.random(n) < 0.05
    seldom = np.full(n, 0.05)
    known = replace(trial(), difference=difference, imputed=difference * 0.9, labelled=labelled, propensity=seldom)
    blind = replace(known, imputed=np.zeros(n))
    spread = [np.ptp(interval(gains(t, 20), 0.9, 0)) for t in (known, blind)]
    assert spread[0] < spread[1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        low, high = interval(draw.normal(0.2, 1.0, 80), 0.9, seed)
        covered += low <= 0.2 <= high
    assert 82 <= covered <= 98


def test_the_same_seed_gives_the_same_verdict() -> None:
    assert judge(trial(), RULES) == judge(trial(), RULES)


def drafts(n: int, seed: int = 0) -> FloatArray:
    draw = np.random.default_rng(seed)
    return np.array([features((-draw.exponential(draw.random(), 12)).tolist()) for _ in range(n)])


OLD = Calibrator((0.0,) * len(FEATURES), (1.0,) * len(FEATURES), (1.0, *(0.0,) * (len(FEATURES) - 1)), 2.0, samples=500)


def truth(x: FloatArray, shift: float, stretch: float) -> FloatArray:
    p = np.asarray(OLD.predict(x))
    return 1 / (1 + np.exp(-(shift + stretch * (np.log(p) - np.log1p(-p)))))  # type: ignore[no-any-return]


def test_recalibration_finds_a_shift_and_a_stretch() -> None:
    x, fresh = drafts(4000), drafts(4000, seed=1)
    p = truth(x, 1.0, 0.6)
    correct = np.random.default_rng(2).random(4000) < p
    new = recalibrate(OLD, x, correct.astype(float), np.ones(4000))
    assert np.abs(np.asarray(new.predict(fresh)) - truth(fresh, 1.0, 0.6)).max() < 0.05
    assert ece(np.asarray(new.predict(x)), correct) < ece(np.asarray(OLD.predict(x)), correct) / 3


def test_with_few_labels_it_stays_near_the_old_one() -> None:
    assert recalibrate(OLD, drafts(0).reshape(0, len(FEATURES)), np.zeros(0), np.zeros(0)) == OLD
    x = drafts(3)
    moved = np.asarray(recalibrate(OLD, x, np.ones(3), np.ones(3)).predict(drafts(50)))
    assert np.abs(moved - np.asarray(OLD.predict(drafts(50)))).mean() < 0.25


def test_sixty_labels_beat_the_old_calibrator() -> None:
    better = 0
    for seed in range(10):
        x, fresh = drafts(60, seed), drafts(300, 1000 + seed)
        target = (np.random.default_rng(seed).random(60) < truth(x, 1.0, 1.0)).astype(float)
        new = recalibrate(OLD, x, target, np.ones(60))
        errors = [np.abs(np.asarray(c.predict(fresh)) - truth(fresh, 1.0, 1.0)).mean() for c in (new, OLD)]
        better += errors[0] < errors[1]
    assert better >= 9


def test_beliefs_and_weights_count_as_partial_records() -> None:
    x = drafts(200)
    twice = recalibrate(OLD, np.concatenate([x, x]), np.repeat([1.0, 0.0], 200), np.ones(400))
    half = recalibrate(OLD, x, np.full(200, 0.5), np.full(200, 2.0))
    assert np.allclose(twice.weights, half.weights, atol=1e-3)


def test_a_guess_is_replaced_by_a_fit() -> None:
    x = drafts(300)
    correct = np.random.default_rng(0).random(300) < truth(x, 0.0, 1.0)
    new = recalibrate(Calibrator.guess(), x, correct.astype(float), np.ones(300))
    assert new.samples > 0 and ece(np.asarray(new.predict(x)), correct) < 0.1


def test_a_surer_draft_never_scores_lower_even_when_labels_say_so() -> None:
    x = drafts(300)
    perverse = (np.asarray(OLD.predict(x)) < 0.5).astype(float)
    new = recalibrate(OLD, x, perverse, np.ones(300))
    assert all(after * before >= 0 for after, before in zip(new.weights, OLD.weights, strict=True))


@pytest.mark.parametrize(
    ("target", "weights"), [(np.full(3, 1.5), np.ones(3)), (np.ones(3), -np.ones(3)), (np.ones(2), np.ones(3))]
)
def test_nonsense_is_refused(target: FloatArray, weights: FloatArray) -> None:
    with pytest.raises(ValueError, match=r"must be|disagree|probabilities"):
        recalibrate(OLD, drafts(3), target, weights)
