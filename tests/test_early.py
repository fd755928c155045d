"""The anytime bound: no continuation of a draft ever scores above it, and it gets there before the draft ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calibration import Calibrator
from policies.early import Running, ScoreBound
from policies.score import FEATURES, RISING, features

logprob = st.floats(-40.0, 0.0)
drafts = st.lists(logprob, min_size=1, max_size=60)
number = st.floats(-3.0, 3.0)


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    weights = tuple(abs(draw(number)) if rising else draw(number) for rising in RISING)
    center = tuple(draw(number) for _ in FEATURES)
    scale = tuple(draw(st.floats(0.1, 5.0)) for _ in FEATURES)
    return Calibrator(center, scale, weights, draw(number), 100)


def follow(tokens: list[float]) -> Running:
    seen = Running()
    for token in tokens:
        seen.add(token)
    return seen


@given(calibrators(), drafts, st.lists(logprob, max_size=60), st.integers(0, 40))
def test_no_continuation_scores_above_the_bound(
    calibrator: Calibrator, begun: list[float], rest: list[float], spare: int
) -> None:
    bound = ScoreBound(calibrator).upper(follow(begun), len(begun) + len(rest) + spare)
    assert float(calibrator.predict(features(begun + rest))) <= bound + 1e-6


@given(calibrators(), drafts, st.none() | st.floats(1e-6, 1 - 1e-6))
def test_at_the_last_token_the_bound_is_the_score(
    calibrator: Calibrator, tokens: list[float], expected: float | None
) -> None:
    score = float(calibrator.predict(features(tokens, expected)))
    assert ScoreBound(calibrator).given(expected).score(follow(tokens)) == pytest.approx(score, abs=1e-9)


@given(calibrators(), drafts, st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6))
def test_a_more_promising_prompt_never_lowers_the_score(
    calibrator: Calibrator, tokens: list[float], one: float, other: float
) -> None:
    low, high = (ScoreBound(calibrator).given(p).score(follow(tokens)) for p in sorted((one, other)))
    assert low <= high


@given(calibrators(), drafts, st.integers(0, 100))
def test_the_bound_never_rises_while_a_draft_grows(calibrator: Calibrator, tokens: list[float], spare: int) -> None:
    bound, seen, before = ScoreBound(calibrator), Running(), 2.0
    for token in tokens:
        seen.add(token)
        now = bound.upper(seen, len(tokens) + spare)
        assert now <= before + 1e-12
        before = now


@given(drafts)
def test_a_whole_draft_at_once_is_the_same_as_token_by_token(tokens: list[float]) -> None:
    at_once, step_by_step = Running.of(tokens), follow(tokens)
    assert at_once is not None
    assert (at_once.count, at_once.lowest) == (step_by_step.count, step_by_step.lowest)
    assert at_once.total == pytest.approx(step_by_step.total)


def test_one_impossible_token_settles_a_draft() -> None:
    calibrator = Calibrator((0.0,) * 6, (1.0,) * 6, (2.0, 0.5, 0.5, 0.0, 0.0, 0.0), 4.0, 100)
    seen = follow([-0.01, -12.0])
    assert ScoreBound(calibrator).upper(seen, 200) < 0.001


def test_the_order_of_the_lowest_three_does_not_matter() -> None:
    tokens = list(np.random.default_rng(0).normal(-1.0, 1.0, 50).clip(-5, 0))
    assert follow(tokens).lowest == sorted(tokens)[:3] == follow(tokens[::-1]).lowest


@pytest.mark.parametrize("wrong", [float("nan"), 0.1])
def test_what_is_no_log_probability_is_refused(wrong: float) -> None:
    seen = follow([-0.1])
    assert not seen.add(wrong)
    assert seen == follow([-0.1])
    assert Running.of([-0.1, wrong]) is None
