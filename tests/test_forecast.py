"""What a prompt says about its draft: a spread of scores, the worth of a draft, and files that cannot be misread."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.forecast import MIN_SAMPLES, Forecast, ScoreSpread, cross_fitted
from policies.score import FloatArray

unit = st.floats(0, 1)


def scores(n: int = 4000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """p(x), and scores spread around it."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    return p, rng.beta(8 * p, 8 * (1 - p))


SPREAD = ScoreSpread.fit(*scores())


@given(unit, unit, unit)
def test_a_draft_is_worth_less_against_a_higher_threshold(p: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.0 <= SPREAD.gain(p, high) <= SPREAD.gain(p, low) <= 1.0


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
def test_the_worth_is_what_drafts_of_such_prompts_really_win(tau: float) -> None:
    p, s = scores(20_000, seed=1)
    for low in (0.1, 0.45, 0.8):
        near = (p > low) & (p < low + 0.1)
        promised = np.mean([SPREAD.gain(value, tau) for value in p[near]])
        assert promised == pytest.approx(np.maximum(s[near] - tau, 0.0).mean(), abs=0.03)


def test_equal_predictions_are_one_bin() -> None:
    spread = ScoreSpread.fit(np.full(100, 0.5), np.linspace(0, 1, 100))
    assert spread.gain(0.1, 0.0) == spread.gain(0.9, 0.0) == pytest.approx(0.5, abs=0.01)


def test_too_few_drafts_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_SAMPLES}.*got 10"):
        ScoreSpread.fit(np.zeros(10), np.zeros(10))


EASY, HARD = (
    [f"set the alarm to {n} please" for n in range(100)],
    [f"weigh option {n} against peers" for n in range(100)],
)
RIGHT = np.array([0.95] * 100 + [0.1] * 100)
PROMPT, UNSEEN = cross_fitted(EASY + HARD, [3] * 200, RIGHT, np.ones(200))
FORECAST = Forecast(PROMPT, ScoreSpread.fit(UNSEEN, RIGHT))


def gain(forecast: Forecast, question: str, threshold: float) -> float:
    assert forecast.spread is not None
    return forecast.spread.gain(forecast.prompt.predict(question, 3), threshold)


def test_the_words_tell_easy_prompts_from_hard_ones() -> None:
    assert gain(FORECAST, "set the alarm to 7 please", 0.5) > 0.3
    assert gain(FORECAST, "weigh option 7 against peers", 0.5) < 0.02


def test_a_prompt_is_judged_by_what_had_not_seen_it() -> None:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(200)]
    luck = (rng.random(200) < 0.5).astype(float)
    fitted, unseen = cross_fitted(words, [1] * 200, luck, np.ones(200))
    known = np.array([fitted.predict(word, 1) for word in words])
    assert abs(np.corrcoef(unseen, luck)[0, 1]) < 0.2 < np.corrcoef(known, luck)[0, 1]


def test_a_forecast_without_a_spread_survives_its_file() -> None:
    again = Forecast.from_json(Forecast(PROMPT).to_json())
    assert again.spread is None
    assert again.prompt.predict(EASY[0], 3) == pytest.approx(PROMPT.predict(EASY[0], 3), abs=1e-3)


def test_json_gives_the_same_forecast_back() -> None:
    again = Forecast.from_json(FORECAST.to_json())
    for question in (EASY[3], HARD[5], "something else"):
        assert gain(again, question, 0.4) == pytest.approx(gain(FORECAST, question, 0.4), abs=1e-3)


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"prompt": {}, "spread": {}}'])
def test_what_is_no_forecast_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        Forecast.from_json(broken)


def test_scores_outside_zero_and_one_are_refused() -> None:
    data = json.loads(FORECAST.to_json())
    data["spread"]["quantiles"][0][0] = 2.0
    with pytest.raises(ValueError, match="quantiles"):
        Forecast.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "wrong", "says"),
    [
        ("samples", math.inf, "samples must be a whole number >= 0, got inf"),
        ("edges", [1e308], r"edges\[0\] must be a number of at most"),
        ("edges", [math.nan], r"edges\[0\] must be a number"),
        ("quantiles", [[0.5], [10**400]], r"quantiles\[1\]\[0\] must be a number"),
        ("quantiles", 3, "not a forecast"),
    ],
)
def test_a_number_that_cannot_be_computed_with_is_refused_by_name(key: str, wrong: object, says: str) -> None:
    data = json.loads(FORECAST.to_json())
    data["spread"][key] = wrong
    with pytest.raises(ValueError, match=says):
        Forecast.from_json(json.dumps(data))


def test_a_spread_that_is_no_object_is_no_missing_one() -> None:
    data = json.loads(FORECAST.to_json())
    for wrong in (0, "", [], 5):
        with pytest.raises(ValueError, match="not a forecast"):
            Forecast.from_json(json.dumps({**data, "spread": wrong}))
