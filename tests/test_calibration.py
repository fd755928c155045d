"""The calibrator: calibrated on what it was fitted on, monotone where it says so, exact through JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import Calibrator, auroc, brier, ece
from policies.score import FEATURES, FloatArray, features


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


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=30), st.data())
def test_a_more_probable_token_never_lowers_the_score(
    fitted: Calibrator, logprobs: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(logprobs) - 1))
    raised = list(logprobs)
    raised[index] = data.draw(st.floats(logprobs[index], 0.0))
    assert fitted.predict(features(raised)) >= fitted.predict(features(logprobs)) - 1e-9


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


def test_the_guess_of_an_uncalibrated_model_says_so_and_rises_with_confidence() -> None:
    guess = Calibrator.guess()
    assert guess.samples == 0
    assert guess.predict(features([-0.01] * 9)) > 0.8 > guess.predict(features([-0.5] * 9)) > 0.4


def test_a_wrong_number_of_features_is_refused(fitted: Calibrator) -> None:
    with pytest.raises(ValueError, match="features"):
        fitted.predict(np.zeros(len(FEATURES) + 1))


@settings(max_examples=50)
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
