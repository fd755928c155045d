"""tau: its closed form, its bounds, and its signs (DESIGN section 5)."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadConfig
from policies.threshold import (
    THRESHOLDS,
    FixedThreshold,
    OptimalThreshold,
    ThresholdInputs,
    build_threshold,
)
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

WORK = CloudWork(4000, 1000, 1200, 50, 100)
POLICY = OptimalThreshold(Objective(0.02, 0.002, 0.97), CloudSpeed())
amount = st.floats(0, 100)
links = st.builds(LinkState, st.floats(0, 5e3), st.floats(0, 1e9), st.floats(0, 1e9))
prices = st.builds(Prices, st.floats(0, 0.1), amount, amount, amount, amount)
more = st.floats(0, 1e6)


@given(links, prices)
def test_tau_is_a_probability(link: LinkState, price: Prices) -> None:
    assert 0.0 <= POLICY.threshold(RoutingState(link, price), WORK) <= 1.0


@given(links, prices, more, st.sampled_from(["up_bps", "down_bps"]))
def test_tau_rises_with_bandwidth(link: LinkState, price: Prices, extra: float, name: str) -> None:
    wider = replace(link, **{name: getattr(link, name) + extra})
    assert POLICY.threshold(RoutingState(wider, price), WORK) >= POLICY.threshold(RoutingState(link, price), WORK)


@given(links, prices, more)
def test_tau_falls_with_round_trip_time(link: LinkState, price: Prices, extra: float) -> None:
    farther = replace(link, rtt_ms=link.rtt_ms + extra)
    assert POLICY.threshold(RoutingState(farther, price), WORK) <= POLICY.threshold(RoutingState(link, price), WORK)


@given(links, prices, amount, st.sampled_from([f.name for f in fields(Prices)]))
def test_tau_falls_with_every_price(link: LinkState, price: Prices, extra: float, name: str) -> None:
    dearer = replace(price, **{name: getattr(price, name) + extra})
    assert POLICY.threshold(RoutingState(link, dearer), WORK) <= POLICY.threshold(RoutingState(link, price), WORK)


def test_tau_has_its_closed_form() -> None:
    link, price = LinkState(40.0, 1e6, 8e6), Prices(request_usd=0.001)
    seconds = 0.04 + 0.032 + 0.001 + 0.1 + 0.25
    expected = 0.97 - (0.001 + 0.002 * seconds) / 0.02
    assert POLICY.threshold(RoutingState(link, price), WORK) == pytest.approx(expected)


def test_strictly_inside_the_bounds_the_signs_are_strict() -> None:
    link, price = LinkState(40.0, 1e6, 8e6), Prices(request_usd=0.001)
    tau = POLICY.threshold(RoutingState(link, price), WORK)
    assert POLICY.threshold(RoutingState(replace(link, up_bps=2e6), price), WORK) > tau
    assert POLICY.threshold(RoutingState(replace(link, rtt_ms=80.0), price), WORK) < tau
    assert POLICY.threshold(RoutingState(link, replace(price, request_usd=0.002)), WORK) < tau


@given(links, prices, st.floats(0, 1))
def test_tau_never_falls_below_its_floor_and_an_outage_puts_it_there(
    link: LinkState, price: Prices, floor: float
) -> None:
    policy = replace(POLICY, floor=floor)
    assert policy.threshold(RoutingState(link, price), WORK) >= floor
    assert policy.threshold(RoutingState(replace(link, up=False), price), WORK) == floor


def test_a_fixed_threshold_ignores_the_network() -> None:
    policy = FixedThreshold(0.7)
    near, far = LinkState(1.0, 1e9, 1e9), LinkState(900.0, 1e4, 1e4)
    assert (
        policy.threshold(RoutingState(near, Prices()), WORK)
        == policy.threshold(RoutingState(far, Prices(request_usd=1.0)), WORK)
        == 0.7
    )


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1])
def test_thresholds_outside_zero_and_one_are_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match="value"):
        FixedThreshold(wrong)
    with pytest.raises(ValueError, match="floor"):
        replace(POLICY, floor=wrong)
    with pytest.raises(ValueError, match="cloud_accuracy"):
        replace(POLICY, objective=Objective(1.0, 0.0, wrong))


def test_an_answer_worth_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="value_usd"):
        replace(POLICY, objective=Objective(0.0, 0.0, 0.9))


def test_a_threshold_is_built_by_name_and_an_unknown_name_lists_the_known() -> None:
    given_inputs = ThresholdInputs(POLICY.objective, POLICY.speed, floor=0.1, fixed=0.3)
    assert build_threshold("fixed", given_inputs) == FixedThreshold(0.3)
    assert build_threshold("fixed", replace(given_inputs, floor=0.8)) == FixedThreshold(0.8)
    assert build_threshold("optimal", given_inputs) == replace(POLICY, floor=0.1)
    with pytest.raises(BadConfig, match=", ".join(sorted(THRESHOLDS))):
        build_threshold("magic", given_inputs)
