"""The cloud's latency fitted online: it finds the truth, stays sane in between, and no stall wrecks it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cost import cloud_latency_s
from policies.latency import CLIP, LatencyFit
from policies.types import CloudSpeed, CloudWork, LinkState

PRIOR = CloudSpeed(round_trips=1.0, ttft_s=0.1, per_token_s=0.005)
LINK = LinkState(40.0, 1e6, 8e6)
WORK = CloudWork(4000, 800, 1200, 50)

works = st.builds(CloudWork, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**4))
links = st.builds(LinkState, st.floats(0, 5e3), st.floats(0, 1e9), st.floats(0, 1e9))


def traffic(n: int, seed: int) -> list[CloudWork]:
    rng = np.random.default_rng(seed)
    up, out = rng.integers(500, 20_000, n), rng.integers(10, 200, n)
    return [CloudWork(int(b), int(4 * o + 300), int(b // 4), int(o)) for b, o in zip(up, out, strict=True)]


def trained(truth: CloudSpeed, n: int = 800, noise_s: float = 0.02, fit: LatencyFit | None = None) -> LatencyFit:
    """``fit`` (from PRIOR by default) after ``n`` offloads to a cloud of speed ``truth``."""
    fit = fit or LatencyFit.start(PRIOR)
    rng = np.random.default_rng(7)
    for work in traffic(n, seed=3):
        seconds = cloud_latency_s(work, LINK, truth) + rng.normal(0.0, noise_s)
        fit = fit.observe(work, LINK, max(seconds, 0.0))
    return fit


@pytest.fixture(scope="module")
def fitted() -> LatencyFit:
    return trained(CloudSpeed(1.0, 0.4, 0.02))


@settings(max_examples=6, deadline=None)
@given(st.floats(0.05, 3.0), st.floats(0.0, 0.1))
def test_predictions_converge_to_the_truth_within_the_noise(ttft_s: float, per_token_s: float) -> None:
    truth = CloudSpeed(1.0, ttft_s, per_token_s)
    fit = trained(truth)
    for work in traffic(50, seed=11):
        error = cloud_latency_s(work, LINK, fit.speed) - cloud_latency_s(work, LINK, truth)
        assert abs(error) < 0.01  # half a standard deviation of one measurement
    assert fit.speed.per_token_s == pytest.approx(per_token_s, abs=2e-4)


def test_seconds_that_input_tokens_take_do_not_end_up_in_the_pace_of_output() -> None:
    fit = LatencyFit.start(PRIOR)
    for work in traffic(600, seed=5):
        fit = fit.observe(
            work, LINK, cloud_latency_s(work, LINK, CloudSpeed(1.0, 0.2, 0.01)) + 1e-4 * work.input_tokens
        )
    assert fit.speed.per_token_s == pytest.approx(0.01, rel=0.02)
    long = CloudWork(40_000, 800, 10_000, 50)
    assert fit.predicted_s(long, LINK) == pytest.approx(
        cloud_latency_s(long, LINK, CloudSpeed(1.0, 0.2, 0.01)) + 1, rel=0.05
    )


def test_without_any_offload_the_configured_speed_stands() -> None:
    fit = LatencyFit.start(PRIOR)
    assert fit.speed == PRIOR
    assert fit.predicted_s(WORK, LINK) == pytest.approx(cloud_latency_s(WORK, LINK, PRIOR))


def test_a_weightier_prior_gives_way_more_slowly() -> None:
    light, heavy = (LatencyFit.start(PRIOR, weight).observe(WORK, LINK, 1.0).speed.ttft_s for weight in (1.0, 100.0))
    assert PRIOR.ttft_s < heavy < light


def test_a_pace_that_traffic_does_not_show_stays_as_configured() -> None:
    fit = LatencyFit.start(PRIOR)
    for _ in range(1500):  # forgetting must not wind up
        fit = fit.observe(replace(WORK, output_tokens=0), LINK, 0.5)
    assert fit.speed.per_token_s == pytest.approx(PRIOR.per_token_s)
    assert cloud_latency_s(replace(WORK, output_tokens=0), LINK, fit.speed) == pytest.approx(0.5, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(works, links, st.floats(0, 1e6)), min_size=1, max_size=20), works, links)
def test_whatever_was_measured_the_fit_is_finite_and_never_negative(
    seen: list[tuple[CloudWork, LinkState, float]], work: CloudWork, link: LinkState
) -> None:
    fit = LatencyFit.start(PRIOR)
    for one in seen:
        fit = fit.observe(*one)
        assert (fit.coefficients >= 0).all() and np.isfinite(fit.coefficients).all()
    assert 0 <= fit.predicted_s(work, link) < math.inf
    assert 0 <= cloud_latency_s(work, link, fit.speed) < math.inf


@settings(deadline=None)
@given(works, st.integers(0, 10**5), st.sampled_from(["up_bytes", "down_bytes", "input_tokens", "output_tokens"]))
def test_predictions_rise_with_the_work_and_with_the_round_trip(
    fitted: LatencyFit, work: CloudWork, extra: int, name: str
) -> None:
    more = replace(work, **{name: getattr(work, name) + extra})
    assert fitted.predicted_s(more, LINK) >= fitted.predicted_s(work, LINK)
    assert fitted.predicted_s(work, replace(LINK, rtt_ms=LINK.rtt_ms + extra)) >= fitted.predicted_s(work, LINK)


@settings(deadline=None)
@given(st.floats(30, 1e6), st.sampled_from(traffic(20, seed=9)))
def test_one_absurd_stall_moves_no_prediction_by_much(fitted: LatencyFit, stall_s: float, work: CloudWork) -> None:
    after = fitted.observe(work, LINK, stall_s)
    for probe in traffic(20, seed=10):
        moved = cloud_latency_s(probe, LINK, after.speed) - cloud_latency_s(probe, LINK, fitted.speed)
        assert abs(moved) < 0.02


def test_a_cloud_that_stays_slow_is_followed(fitted: LatencyFit) -> None:
    slow = CloudSpeed(1.0, 3.0, 0.06)
    after = trained(slow, n=150, fit=fitted)
    assert cloud_latency_s(WORK, LINK, after.speed) == pytest.approx(cloud_latency_s(WORK, LINK, slow), rel=0.1)


def test_noise_without_end_does_not_narrow_the_residual_to_nothing(fitted: LatencyFit) -> None:
    exact = trained(CloudSpeed(1.0, 0.4, 0.02), n=500, noise_s=0.0, fit=fitted)
    assert exact.residual_s * CLIP >= 0.015
    assert trained(CloudSpeed(1.0, 1.0, 0.02), n=150, fit=exact).speed.ttft_s == pytest.approx(1.0, rel=0.1)


def test_observing_leaves_the_state_before_it_alone(fitted: LatencyFit) -> None:
    before = fitted.predicted_s(WORK, LINK)
    fitted.observe(WORK, LINK, 100.0)
    assert fitted.predicted_s(WORK, LINK) == before


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1])
def test_numbers_that_are_none_are_refused_by_name(fitted: LatencyFit, wrong: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        fitted.observe(WORK, LINK, wrong)
    with pytest.raises(ValueError, match=r"link\.rtt_ms"):
        fitted.observe(WORK, replace(LINK, rtt_ms=wrong), 1.0)
    with pytest.raises(ValueError, match="ttft_s"):
        LatencyFit.start(replace(PRIOR, ttft_s=wrong))
    with pytest.raises(ValueError, match="weight"):
        LatencyFit.start(PRIOR, wrong)
