"""The calibrator: calibrated on what it was fitted on, monotone where it says so, exact through JSON."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import Calibrator, auroc, brier, ece
from policies.score import FEATURES, FloatArray, features
from policies.score_maps import Isotonic, Platt, ScoreMap, map_from_json


def drafts(n: int, seed: int) -> tuple[FloatArray, np.ndarray]:
    """Random drafts whose chance to be correct is the product of their tokens' probabilities."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(n):
        logprobs = -rng.exponential(rng.choice([0.005, 0.05, 0.3]), size=rng.integers(5, 40))
        rows.append(features(logprobs))
        labels.append(rng.random() < math.exp(logprobs.sum()))
    return np.array(rows), np.array(labels)


@pytest.fixture(scope="module")
def fitted() -> Calibrator:
    return Calibrator.fit(*drafts(1500, seed=1))


def test_fresh_drafts_find_the_score_calibrated_and_telling(fitted: Calibrator) -> None:
    x, y = drafts(3000, seed=2)
    scores = fitted.predict(x)
    assert ece(scores, y) < 0.06
    assert auroc(scores, y) > 0.85
    assert brier(scores, y) < np.var(y) * 0.7


@settings(deadline=None)
@given(st.lists(st.floats(-20, 0), min_size=1, max_size=30), st.data())
def test_a_more_probable_token_never_lowers_the_score(
    fitted: Calibrator, logprobs: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(logprobs) - 1))
    raised = list(logprobs)
    raised[index] = data.draw(st.floats(logprobs[index], 0.0))
    assert fitted.predict(features(raised)) >= fitted.predict(features(logprobs)) - 1e-9


@settings(deadline=None)
@given(st.lists(st.floats(-30, 0), max_size=30))
def test_scores_stay_strictly_between_zero_and_one(fitted: Calibrator, logprobs: list[float]) -> None:
    assert 0.0 < float(fitted.predict(features(logprobs))) < 1.0


def test_json_gives_the_same_calibrator_back(fitted: Calibrator) -> None:
    assert Calibrator.from_json(fitted.to_json()) == fitted


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"features": ["mean"]}', "{"])
def test_what_is_not_a_calibrator_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a calibrator"):
        Calibrator.from_json(text)


def test_a_calibrator_for_other_features_is_refused_by_their_names(fitted: Calibrator) -> None:
    data = json.loads(fitted.to_json())
    data["features"][0] = "median"
    with pytest.raises(ValueError, match="median"):
        Calibrator.from_json(json.dumps(data))


def test_a_calibrator_with_a_nan_is_refused(fitted: Calibrator) -> None:
    data = json.loads(fitted.to_json())
    data["intercept"] = math.nan
    with pytest.raises(ValueError, match="not a calibrator"):
        Calibrator.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "wrong", "says"),
    [
        ("intercept", 1e308, "intercept must be a number of at most 1e+30 in size, got 1e+308"),
        ("intercept", "3", "intercept must be a number"),
        ("intercept", 10**400, "intercept must be a number"),
        ("weights", [0.0] * 5 + [1e308], "weights[5] must be a number of at most"),
        ("weights", 3, "weights must be a list of numbers, got 3"),
        ("center", [math.inf] * 6, "center[0] must be a number"),
        ("scale", [1.0] * 5 + [1e-320], "scales >= 1e-30"),
        ("samples", math.inf, "samples must be a whole number >= 0, got inf"),
        ("samples", -1, "samples must be a whole number >= 0, got -1"),
        ("samples", True, "samples must be a whole number"),
    ],
)
def test_a_number_that_cannot_be_computed_with_is_refused_by_name(
    fitted: Calibrator, key: str, wrong: object, says: str
) -> None:
    data = {**json.loads(fitted.to_json()), key: wrong}
    with pytest.raises(ValueError, match=re.escape(says)):
        Calibrator.from_json(json.dumps(data))


@pytest.mark.parametrize("key", ["features", "center", "scale", "weights", "intercept", "samples"])
def test_a_key_that_is_missing_is_named(fitted: Calibrator, key: str) -> None:
    data = json.loads(fitted.to_json())
    del data[key]
    with pytest.raises(ValueError, match=f"not a calibrator: {key} is missing"):
        Calibrator.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"features": ' * 10_000])
def test_brackets_without_end_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a calibrator"):
        Calibrator.from_json(text)


@pytest.mark.parametrize("outcome", [True, False])
def test_one_class_only_gives_the_stated_constant(outcome: bool) -> None:
    x, _ = drafts(18, seed=3)
    constant = Calibrator.fit(x, np.full(18, outcome))
    expected = 19 / 20 if outcome else 1 / 20
    assert constant.predict(features([-5.0])) == pytest.approx(expected)
    assert constant.predict(x) == pytest.approx(expected)


def test_weights_count_like_repetitions() -> None:
    x, y = drafts(200, seed=4)
    often = np.where(np.arange(200) % 2, 3.0, 1.0)
    repeated = np.repeat(np.arange(200), often.astype(int))
    weighted, doubled = Calibrator.fit(x, y, often), Calibrator.fit(x[repeated], y[repeated])
    probe = drafts(50, seed=5)[0]
    # The ridge weighs against the number of rows, so the two agree only up to that.
    assert np.abs(weighted.predict(probe) - doubled.predict(probe)).max() < 0.05


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [0.0, 0.0], [math.nan, 1.0], [1.0]])
def test_bad_importance_weights_are_refused_by_name(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Calibrator.fit(drafts(2, seed=6)[0], np.array([True, False]), np.array(weights))


@pytest.mark.parametrize("logprob", [-0.01, -0.1, -0.5])
def test_the_guess_of_an_uncalibrated_model_says_so_and_is_what_the_model_thinks(logprob: float) -> None:
    guess = Calibrator.guess()
    assert guess.samples == 0
    assert float(guess.predict(features([logprob] * 9))) == pytest.approx(math.exp(9 * logprob))


def test_a_wrong_number_of_features_is_refused(fitted: Calibrator) -> None:
    with pytest.raises(ValueError, match="features"):
        fitted.predict(np.zeros(len(FEATURES) + 1))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_auroc_and_brier_are_what_their_definitions_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([[True, False], rng.random(30) < 0.5])
    p = np.round(rng.random(32), 1)
    w = rng.random(32) + 0.1
    pairs = [(i, j) for i in np.flatnonzero(y) for j in np.flatnonzero(~y)]
    won = sum(w[i] * w[j] * ((p[i] > p[j]) + 0.5 * (p[i] == p[j])) for i, j in pairs)
    assert auroc(p, y, w) == pytest.approx(won / sum(w[i] * w[j] for i, j in pairs))
    assert brier(p, y, w) == pytest.approx(sum(w * (p - y) ** 2) / sum(w))


def test_ece_of_perfect_certainty_is_zero_and_of_perfect_error_one() -> None:
    y = np.array([True, False, True])
    assert ece(y.astype(float), y) == 0.0
    assert ece(1.0 - y.astype(float), y) == 1.0


def raw_scores(n: int, seed: int) -> tuple[FloatArray, np.ndarray]:
    """Raw scores on no scale, right with probability sigmoid(3 raw - 1)."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=n)
    return raw, rng.random(n) < 1 / (1 + np.exp(1 - 3 * raw))


MAPS = [Platt, Isotonic]


@pytest.mark.parametrize("kind", MAPS)
def test_a_map_makes_probabilities_of_raw_scores_it_has_not_seen(kind: type[Platt | Isotonic]) -> None:
    fresh, right = raw_scores(4000, seed=2)
    made = kind.fit(*raw_scores(4000, seed=1))
    assert ece(made.predict(fresh), right) < 0.03
    assert made.samples == 4000


def test_platt_finds_the_two_numbers() -> None:
    made = Platt.fit(*raw_scores(20_000, seed=3))
    assert (made.intercept, made.slope) == pytest.approx((-1.0, 3.0), abs=0.15)


@pytest.mark.parametrize("kind", MAPS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), rate=st.floats(0, 1))
def test_a_map_never_falls_and_stays_strictly_between_zero_and_one(
    kind: type[Platt | Isotonic], seed: int, n: int, rate: float
) -> None:
    rng = np.random.default_rng(seed)
    made = kind.fit(np.round(rng.normal(size=n), 1), rng.random(n) < rate, rng.random(n) + 0.01)
    found = made.predict(np.linspace(-1e6, 1e6, 101))
    assert (np.diff(found) >= 0).all() and found.min() > 0 and found.max() < 1


@pytest.mark.parametrize("kind", MAPS)
def test_a_score_that_is_upside_down_becomes_a_constant_not_a_falling_map(kind: type[Platt | Isotonic]) -> None:
    raw, right = raw_scores(1000, seed=4)
    made = kind.fit(-raw, right).predict(np.array([-2.0, 0.0, 2.0]))
    assert made == pytest.approx(np.full(3, right.mean()), abs=0.02)


@pytest.mark.parametrize("kind", MAPS)
def test_few_labels_leave_a_map_near_its_prior_and_many_do_not(kind: type[Platt | Isotonic]) -> None:
    prior = Platt(-1.0, 3.0, 500)
    at = np.array([0.0, 1.0])

    def moved(n: int) -> float:
        raw = np.tile(at, n)
        return float(
            np.abs(kind.fit(raw, np.zeros(2 * n, dtype=bool), prior=prior).predict(at) - prior.predict(at)).max()
        )

    assert moved(1) < 0.3
    assert moved(500) > 0.6


def test_an_isotonic_map_of_a_few_labels_keeps_the_shape_of_its_prior() -> None:
    prior = Isotonic.fit(*raw_scores(2000, seed=5))
    raw, right = raw_scores(4, seed=6)
    assert np.abs(Isotonic.fit(raw, right, prior=prior).predict(raw) - prior.predict(raw)).max() < 0.2


@pytest.mark.parametrize("kind", MAPS)
def test_importance_weights_of_a_map_count_like_repetitions(kind: type[Platt | Isotonic]) -> None:
    raw, right = raw_scores(600, seed=7)
    often = np.where(np.arange(600) % 2, 3, 1)
    probe = np.linspace(-2, 2, 9)
    weighted = kind.fit(raw, right, often.astype(float)).predict(probe)
    repeated = kind.fit(np.repeat(raw, often), np.repeat(right, often)).predict(probe)
    assert weighted == pytest.approx(repeated, abs=0.06)


@pytest.mark.parametrize("kind", MAPS)
def test_a_target_may_be_a_probability(kind: type[Platt | Isotonic]) -> None:
    raw = np.tile([0.0, 1.0], 500)
    made = kind.fit(raw, np.tile([0.25, 0.75], 500))
    assert made.predict(np.array([0.0, 1.0])) == pytest.approx([0.25, 0.75], abs=0.02)


@pytest.mark.parametrize("kind", MAPS)
def test_json_gives_the_same_map_back(kind: type[Platt | Isotonic]) -> None:
    made: ScoreMap = kind.fit(*raw_scores(100, seed=8))
    assert map_from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"map": "spline"}', '{"map": "platt"}',
        '{"map": "platt", "intercept": 0, "slope": -1, "samples": 3}',
        '{"map": "platt", "intercept": NaN, "slope": 1, "samples": 3}',
        '{"map": "isotonic", "knots": [1, 1], "values": [0, 1], "samples": 3}',
        '{"map": "isotonic", "knots": [1, 2], "values": [1, 0], "samples": 3}',
        '{"map": "isotonic", "knots": [1], "values": [2], "samples": 3}',
        '{"map": "isotonic", "knots": [], "values": [], "samples": 3}',
    ],
)  # fmt: skip
def test_what_is_not_a_map_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a score map"):
        map_from_json(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"map": "platt", "intercept": 1e308, "slope": 1, "samples": 3}', "intercept must be a number of at most"),
        ('{"map": "platt", "intercept": 0, "slope": 1e308, "samples": 3}', "slope must be a number of at most"),
        ('{"map": "platt", "intercept": 0, "slope": 1, "samples": Infinity}', "samples must be a whole number"),
        ('{"map": "isotonic", "knots": [-1e308, 1e308], "values": [0, 1], "samples": 3}', "knots[0] must be a number"),
        ('{"map": "isotonic", "knots": [0], "values": [0.5], "samples": 1e999}', "samples must be a whole number"),
        ('{"map": "isotonic", "knots": [0], "samples": 3}', "values is missing"),
        ('{"map": ["platt"]}', "not a score map"),
    ],
)
def test_a_map_names_what_cannot_be_computed_with(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        map_from_json(text)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("raw", [[], [math.nan], [math.inf]])
def test_a_map_is_not_fitted_on_nothing_or_on_what_is_no_number(kind: type[Platt | Isotonic], raw: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one|finite"):
        kind.fit(np.array(raw), np.ones(len(raw), dtype=bool))


def test_features_may_be_said_to_rise_or_not() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(500, 2))
    right = x[:, 0] - x[:, 1] + rng.logistic(size=500) > 0
    held = Calibrator.fit(x, right, rising=(True, True))
    free = Calibrator.fit(x, right, rising=(True, False))
    assert held.weights[1] == 0.0 and free.weights[1] < -0.3
    assert Calibrator.from_json(free.to_json(("a", "b")), ("a", "b")) == free
