"""Cache hits, queue and prediction errors, online: they find the truth, forget it, and no single call wrecks them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cloud_estimates import (
    GAIN,
    HALF_LIFE_S,
    LASTING_S,
    MOST_WEIGHT,
    CacheHitRate,
    PredictionError,
    QueueDelay,
)
from policies.types import CloudWork

LIMIT_S = 0.1
counts = st.integers(0, 10**6)


def prompt(tokens: int, cached: int = 0) -> CloudWork:
    return CloudWork(4 * tokens, 500, tokens, 20, cached)


def hits(*calls: tuple[int, int]) -> CacheHitRate:
    """After calls of so many tokens, so many of them cached."""
    rate = CacheHitRate()
    for tokens, cached in calls:
        rate = rate.observe(prompt(tokens, cached))
    return rate


def delay(*calls: tuple[float, float]) -> QueueDelay:
    """After calls at so many seconds that took so many more than fitted; one on time comes first."""
    queue = QueueDelay().observe(0.0, LIMIT_S, 0.0)
    for now_s, excess_s in calls:
        queue = queue.observe(excess_s, LIMIT_S, now_s)
    return queue


def test_nothing_is_cached_before_the_first_call() -> None:
    assert CacheHitRate().cached(prompt(1000)) == 0


def test_the_bill_of_prompts_that_share_a_prefix_is_met_whatever_their_lengths() -> None:
    """A mean of shares would promise 25 % more hits than there are: short prompts have the larger ones."""
    rng = np.random.default_rng(0)
    calls = [(int(tokens), min(700, int(tokens))) for tokens in 1000 * rng.lognormal(0.0, 0.5, 400)]
    rate, promised = CacheHitRate(), []
    for tokens, cached in calls:
        promised.append(rate.cached(prompt(tokens)))
        rate = rate.observe(prompt(tokens, cached))
    assert sum(promised[50:]) == pytest.approx(sum(cached for _, cached in calls[50:]), rel=0.05)


def test_a_cache_that_is_gone_is_forgotten_within_some_fifty_calls() -> None:
    assert hits(*[(1000, 800)] * 100).share == pytest.approx(0.8, abs=0.02)
    assert hits(*[(1000, 800)] * 100, *[(1000, 0)] * 50).share < 0.1


def test_one_huge_prompt_moves_the_share_by_no_more_than_three_usual_ones() -> None:
    before = hits(*[(1000, 800)] * 100)
    assert before.share - before.observe(prompt(10**9)).share <= MOST_WEIGHT * GAIN


def test_a_call_that_reports_no_prompt_tokens_says_nothing() -> None:
    before = hits((1000, 800))
    assert before.observe(prompt(0)) == before


@given(st.lists(st.tuples(counts, st.floats(0, 1)), max_size=30), counts)
def test_whatever_was_billed_no_more_is_cached_than_is_sent(calls: list[tuple[int, float]], tokens: int) -> None:
    rate = hits(*[(sent, int(share * sent)) for sent, share in calls])
    assert 0.0 <= rate.share <= 1.0
    assert 0 <= rate.cached(prompt(tokens)) <= tokens


@pytest.mark.parametrize("wrong", [prompt(10, 11), prompt(10, -1)])
def test_a_count_of_cached_tokens_that_makes_no_sense_is_refused_by_name(wrong: CloudWork) -> None:
    with pytest.raises(ValueError, match="_tokens must be"):
        CacheHitRate().observe(wrong)


def test_two_slow_calls_are_a_queue_and_one_is_a_stall() -> None:
    assert delay((1.0, 20.0)).wait_s(1.0) == 0.0
    assert delay((1.0, 5.0), (1.0, 6.0)).wait_s(1.0) == 5.0


def test_two_calls_on_time_end_a_queue() -> None:
    assert delay((1.0, 5.0), (1.0, 5.0), (1.0, 5.0), (2.0, 0.0), (2.0, -0.1)).wait_s(2.0) == 0.0


def test_without_calls_a_queue_is_forgotten() -> None:
    jam = delay((1.0, 8.0), (1.0, 8.0))
    assert jam.wait_s(1.0 + HALF_LIFE_S) == pytest.approx(4.0)
    assert jam.wait_s(1.0 + 10 * HALF_LIFE_S) < 0.01


def test_what_is_usual_is_no_queue() -> None:
    assert delay(*[(float(n), LIMIT_S) for n in range(20)]).wait_s(20.0) == 0.0


def test_a_call_that_waited_is_the_queues_and_one_on_time_is_the_fits() -> None:
    assert not delay((1.0, 5.0)).waited
    assert delay((1.0, 5.0), (2.0, 5.0)).waited
    assert not delay((1.0, 5.0), (2.0, 5.0), (3.0, 0.0)).waited


def test_a_cloud_that_was_slow_from_the_start_is_left_to_the_fit() -> None:
    queue = QueueDelay()
    for now_s in range(10):
        queue = queue.observe(5.0, LIMIT_S, float(now_s))
        assert not queue.waited


def test_what_lasts_longer_than_any_queue_is_left_to_the_fit_and_the_next_queue_is_not() -> None:
    calls = [(10.0 * n, 5.0) for n in range(1, int(LASTING_S / 10) + 5)]
    assert delay(*calls[:-10]).waited
    assert not delay(*calls).waited
    later = LASTING_S + 100.0
    assert delay(*calls, (later, 0.0), (later, 0.0), (later, 5.0), (later, 5.0)).waited


def test_a_clock_that_goes_back_does_not_make_a_queue_longer() -> None:
    assert delay((9.0, 5.0), (9.0, 5.0)).wait_s(1.0) == 5.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), max_size=10), st.floats(-1e6, 1e7))
def test_whatever_was_measured_the_wait_is_finite_and_never_negative(
    calls: list[tuple[float, float]], now_s: float
) -> None:
    assert 0.0 <= delay(*calls).wait_s(now_s) < math.inf


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_seconds_that_are_none_are_refused_by_name(wrong: float) -> None:
    for name in ("excess_s", "limit_s", "now_s"):
        with pytest.raises(ValueError, match=name):
            QueueDelay().observe(**{"excess_s": 1.0, "limit_s": 0.1, "now_s": 1.0, name: wrong})
    with pytest.raises(ValueError, match="realised"):
        PredictionError().observe(1.0, wrong)


def test_the_error_is_that_of_recent_calls_and_tiny_ones_do_not_inflate_it() -> None:
    error = PredictionError().observe(3.0, 2.0)
    assert (error.error, error.relative) == (1.0, 0.5)
    assert error.observe(1e-6, 1e-9).relative == pytest.approx(0.5, abs=1e-4)
    for _ in range(60):
        error = error.observe(2.0, 2.0)
    assert error.relative < 0.01


def test_of_nothing_nothing_is_an_error_of_none() -> None:
    assert PredictionError().observe(0.0, 0.0).relative == 0.0
    assert replace(PredictionError(), error=1.0).relative == 0.0
