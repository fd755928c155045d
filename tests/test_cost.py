"""What the cloud costs: by hand once, and its signs for all inputs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import cloud_cost_usd, cloud_latency_s, kappa
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

WORK = CloudWork(up_bytes=4000, down_bytes=1000, input_tokens=1200, output_tokens=50, cached_tokens=200)
PRICES = Prices(0.0001, 0.28, 0.028, 0.42, 0.09)
LINK = LinkState(rtt_ms=40.0, up_bps=1e6, down_bps=8e6)
SPEED = CloudSpeed(round_trips=1.0, ttft_s=0.1, per_token_s=0.01)


def test_money_adds_up_by_hand() -> None:
    expected = 0.0001 + (0.28 * 1000 + 0.028 * 200 + 0.42 * 50) / 1e6 + 0.09 * 5000 / 1e9
    assert cloud_cost_usd(WORK, PRICES) == pytest.approx(expected)


def test_seconds_add_up_by_hand() -> None:
    assert cloud_latency_s(WORK, LINK, SPEED) == pytest.approx(0.04 + 0.032 + 0.001 + 0.1 + 0.5)


def test_kappa_is_money_plus_priced_time() -> None:
    objective = Objective(0.02, 0.002, 0.97)
    expected = cloud_cost_usd(WORK, PRICES) + 0.002 * cloud_latency_s(WORK, LINK, SPEED)
    assert kappa(WORK, RoutingState(LINK, PRICES), SPEED, objective) == pytest.approx(expected)


def test_a_link_without_bandwidth_is_late_but_still_a_number() -> None:
    dead = replace(LINK, up_bps=0.0)
    assert 1e4 < cloud_latency_s(WORK, dead, SPEED) < math.inf
    assert kappa(WORK, RoutingState(dead, PRICES), SPEED, Objective(1.0, 0.0, 1.0)) == pytest.approx(
        cloud_cost_usd(WORK, PRICES)
    )


@pytest.mark.parametrize("name", ["rtt_ms", "up_bps", "down_bps", "jitter_ms", "loss"])
@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf])
def test_a_wrong_link_figure_is_refused_by_name(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"link\.{name}"):
        cloud_latency_s(WORK, replace(LINK, **{name: wrong}), SPEED)


@pytest.mark.parametrize("name", ["request_usd", "input_usd_per_mtok", "output_usd_per_mtok", "transfer_usd_per_gb"])
@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf])
def test_a_wrong_price_is_refused_by_name(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"prices\.{name}"):
        cloud_cost_usd(WORK, replace(PRICES, **{name: wrong}))


@given(st.integers(-10, -1))
def test_negative_work_is_refused_by_name(wrong: int) -> None:
    with pytest.raises(ValueError, match=r"work\.output_tokens"):
        cloud_cost_usd(replace(WORK, output_tokens=wrong), PRICES)


def test_more_cached_than_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="cached_tokens"):
        cloud_cost_usd(replace(WORK, cached_tokens=1201), PRICES)
