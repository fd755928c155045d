"""The link estimator: properties that hold for any link, and the rules of an outage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.link import (
    GAIN,
    LOSS_MEMORY_S,
    MAX_BPS,
    MIN_BPS,
    MIN_OFFLOAD_BYTES,
    OUTAGE_MISSES,
    STEP_FACTOR,
    UNMEASURED,
    LinkEstimator,
    Pace,
    percentile,
    probe_bytes,
)

rtts_ms = st.floats(0.5, 2000)
rates_bps = st.floats(1e4, 2e7)
sizes = st.integers(2500, 60_000)  # never faster than MIN_TRANSFER_S at these rates
AT_S = 100.0


def measured(rtt_ms: float, up_bps: float, down_bps: float) -> LinkEstimator:
    estimator = LinkEstimator()
    for _ in range(6):
        estimator.observe_rtt(rtt_ms, AT_S)
        estimator.observe_up(10_000, 80_000 / up_bps)
        estimator.observe_down(10_000, 80_000 / down_bps)
    return estimator


def test_before_any_measurement_the_prior_holds() -> None:
    assert LinkEstimator().state(AT_S) == UNMEASURED


@given(rtts_ms, rates_bps, rates_bps)
def test_a_steady_link_is_found_exactly(rtt_ms: float, up_bps: float, down_bps: float) -> None:
    state = measured(rtt_ms, up_bps, down_bps).state(AT_S)
    assert (state.rtt_ms, state.up_bps, state.down_bps) == pytest.approx((rtt_ms, up_bps, down_bps))
    assert (state.jitter_ms, state.loss, state.up) == (0.0, 0.0, True)


@given(st.lists(rtts_ms, min_size=1, max_size=80))
def test_the_average_round_trip_lies_among_the_samples(samples: list[float]) -> None:
    estimator = LinkEstimator()
    for sample in samples:
        estimator.observe_rtt(sample, AT_S)
        rtt_ms, jitter_ms = estimator.state(AT_S).rtt_ms, estimator.state(AT_S).jitter_ms
        assert min(samples) * (1 - 1e-9) <= rtt_ms <= max(samples) * (1 + 1e-9)
        assert 0 <= jitter_ms <= max(samples) - min(samples) + 1e-9


@given(st.lists(st.tuples(sizes, rates_bps), min_size=1, max_size=80))
def test_the_average_bandwidth_lies_among_the_samples(samples: list[tuple[int, float]]) -> None:
    estimator = LinkEstimator()
    for size, bps in samples:
        estimator.observe_up(size, 8 * size / bps)
    slowest, fastest = min(bps for _, bps in samples), max(bps for _, bps in samples)
    assert slowest * (1 - 1e-9) <= estimator.state(AT_S).up_bps <= fastest * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-10, 10)), max_size=50))
def test_whatever_is_measured_bandwidth_stays_within_bounds(samples: list[tuple[int, float]]) -> None:
    estimator = LinkEstimator()
    for size, seconds in samples:
        estimator.observe_down(size, seconds)
    assert MIN_BPS <= estimator.state(AT_S).down_bps <= MAX_BPS


factors = st.one_of(st.floats(STEP_FACTOR * 1.01, 50), st.floats(0.02, 0.99 / STEP_FACTOR))


@given(st.floats(10, 500), factors)
def test_a_step_of_the_round_trip_is_followed_after_two_samples(rtt_ms: float, factor: float) -> None:
    estimator = measured(rtt_ms, 1e6, 1e6)
    estimator.observe_rtt(rtt_ms * factor, AT_S)
    assert estimator.unsettled
    estimator.observe_rtt(rtt_ms * factor, AT_S)
    assert not estimator.unsettled
    assert estimator.state(AT_S).rtt_ms == pytest.approx(rtt_ms * factor)
    assert estimator.state(AT_S).jitter_ms == pytest.approx(0)


@given(st.floats(1e5, 2e7), factors)
def test_a_step_of_the_bandwidth_is_followed_after_two_samples(bps: float, factor: float) -> None:
    estimator = measured(50, bps, bps)
    for _ in range(2):
        estimator.observe_up(60_000, 480_000 / (bps * factor))
    assert estimator.state(AT_S).up_bps == pytest.approx(min(bps * factor, 480_000 / 1e-3), rel=1e-6)
    assert estimator.state(AT_S).down_bps == pytest.approx(bps)


@given(st.floats(10, 500), st.floats(2, 50))
def test_a_single_stall_counts_like_any_sample(rtt_ms: float, factor: float) -> None:
    estimator = measured(rtt_ms, 1e6, 1e6)
    estimator.observe_rtt(rtt_ms * factor, AT_S)
    assert estimator.state(AT_S).rtt_ms == pytest.approx(rtt_ms)
    estimator.observe_rtt(rtt_ms, AT_S)
    expected = rtt_ms * (1 + (1 - GAIN) * GAIN * (factor - 1))
    assert estimator.state(AT_S).rtt_ms == pytest.approx(expected)


def test_on_a_jittery_link_a_time_within_the_jitter_is_no_step() -> None:
    estimator = measured(100, 10e6, 10e6)
    for i in range(20):
        estimator.observe_rtt(100 + 20 * (-1) ** i, AT_S)
    for seconds in (0.04, 0.04):  # 8 ms expected, jitter 40 ms
        estimator.observe_up(10_000, seconds)
    assert 80_000 / 0.04 < estimator.state(AT_S).up_bps < 10e6


def test_times_that_jitter_turned_negative_even_out() -> None:
    pace = Pace()
    for time in (0.02, -0.01, 0.03, 0.0) * 5:
        pace.add(10_000, time, noise=0.1)
    assert pace.time == pytest.approx(0.01, abs=0.005)


@given(st.lists(rtts_ms, min_size=1, max_size=200), st.floats(0, 1), st.floats(0, 1))
def test_percentiles_are_samples_and_rise(samples: list[float], one: float, other: float) -> None:
    low, high = percentile(samples, min(one, other)), percentile(samples, max(one, other))
    assert low in samples
    assert high in samples
    assert percentile(samples, 0) == min(samples) <= low <= high <= max(samples) == percentile(samples, 1)


def test_percentiles_forget_what_is_old() -> None:
    estimator = LinkEstimator()
    for rtt_ms in [900.0] * 10 + [10.0] * 64:
        estimator.observe_rtt(rtt_ms, AT_S)
    assert estimator.rtt_percentile_ms(1.0) == 10.0


def test_an_outage_is_three_misses_in_a_row_and_ends_with_the_first_success() -> None:
    estimator = measured(20, 1e6, 1e6)
    for missed in range(1, OUTAGE_MISSES + 1):
        estimator.observe_loss(AT_S)
        assert estimator.state(AT_S).up == (missed < OUTAGE_MISSES)
    assert estimator.state(AT_S).rtt_ms == pytest.approx(20)
    estimator.observe_success(AT_S)
    assert estimator.state(AT_S).up


@pytest.mark.parametrize("failure_first", [True, False])
def test_a_failed_offload_and_a_missed_probe_are_an_outage(failure_first: bool) -> None:
    estimator = measured(20, 1e6, 1e6)
    events = [estimator.observe_offload_failure, lambda: estimator.observe_loss(AT_S)]
    for event in events if failure_first else events[::-1]:
        assert estimator.state(AT_S).up
        event()
    assert not estimator.state(AT_S).up


def test_failed_offloads_alone_are_the_clouds_trouble_not_the_links() -> None:
    estimator = measured(20, 1e6, 1e6)
    for _ in range(10):
        estimator.observe_offload_failure()
        estimator.observe_rtt(20, AT_S)
    assert estimator.state(AT_S).up


@given(st.lists(st.booleans(), max_size=100))
def test_the_link_is_down_exactly_after_three_misses_in_a_row(outcomes: list[bool]) -> None:
    estimator, missed = LinkEstimator(), 0
    for came_back in outcomes:
        missed = 0 if came_back else missed + 1
        if came_back:
            estimator.observe_success(AT_S)
        else:
            estimator.observe_loss(AT_S)
        assert estimator.state(AT_S).up == (missed < OUTAGE_MISSES)
    recent = outcomes[-64:]
    assert estimator.state(AT_S).loss == (recent.count(False) / len(recent) if recent else 0)
    assert estimator.state(AT_S + LOSS_MEMORY_S + 1).loss == 0


@given(rtts_ms, rates_bps, rates_bps, st.integers(MIN_OFFLOAD_BYTES, 10**6), st.integers(1, 10**6))
def test_an_offload_that_went_as_expected_changes_nothing(
    rtt_ms: float, up_bps: float, down_bps: float, up: int, down: int
) -> None:
    estimator = measured(rtt_ms, up_bps, down_bps)
    estimator.observe_transit(up, down, rtt_ms / 1000 + 8 * up / up_bps + 8 * down / down_bps)
    state = estimator.state(AT_S)
    assert (state.up_bps, state.down_bps) == pytest.approx((up_bps, down_bps), rel=1e-6)


def test_offloads_slower_than_expected_lower_both_bandwidths() -> None:
    estimator = measured(20, 1e6, 2e6)
    for _ in range(2):
        estimator.observe_transit(100_000, 200_000, 0.02 + 10 * 1.6)
    state = estimator.state(AT_S)
    assert (state.up_bps, state.down_bps) == pytest.approx((1e5, 2e5))


def test_an_offload_too_small_to_tell_changes_no_bandwidth() -> None:
    estimator = measured(20, 1e6, 1e6)
    for _ in range(5):
        estimator.observe_transit(500, 500, 3.0)
        estimator.observe_transit(100_000, 0, 3.0)
    assert estimator.state(AT_S).up_bps == pytest.approx(1e6)


@given(st.floats(MIN_BPS, MAX_BPS), st.integers(0, 65536))
def test_a_probe_holds_the_link_no_longer_than_asked(bps: float, highest: int) -> None:
    size = probe_bytes(bps, 0.1, highest)
    assert size <= highest
    assert 8 * size / bps <= 0.1
    assert size == highest or 8 * (size + 1) / bps > 0.1 * (1 - 1e-9)
