"""FuncDyn and the inputs of fitted thresholds: signs, ranges, and what they refuse."""

from __future__ import annotations

import math
import time
import timeit
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.funcdyn import GREATEST, INPUTS, RISING, SHARES, FuncDyn, StateInputs
from policies.types import CloudWork, LinkState, Prices, RoutingState

WORK = CloudWork(4000, 1000, 1200, 50, 100)
WORST = RoutingState(LinkState(500.0, 1e5, 1e5, 50.0, 0.1), Prices(0.001, 2.0, 0.2, 4.0, 0.5), 3.0, 0.0)
BEST = RoutingState(LinkState(10.0, 5e7, 5e7), Prices(), 0.0, 1.0)
SOME = RoutingState(LinkState(50.0, 2e6, 8e6, 5.0, 0.01), Prices(0.0002, 1.0, 0.1, 2.0, 0.1), 0.5, 0.6)
INPUT = StateInputs.of([WORST, BEST], WORK)
POLICY = FuncDyn(INPUT, tuple(0.5 + 0.1 * i for i in range(len(INPUTS))), -3.0, 0.1, 0.95)

links = st.builds(
    LinkState, st.floats(0, 5e3), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e3), st.floats(0, 1)
)
amount = st.floats(0, 10)
states = st.builds(
    RoutingState, links, st.builds(Prices, *[amount] * 5), queue_s=st.floats(0, 100), budget_left=st.floats(0, 1)
)


def changed(state: RoutingState, name: str, value: float) -> RoutingState:
    """``state`` with one of ``INPUTS`` replaced."""
    owner, _, field = name.rpartition(".")
    if not owner:
        return replace(state, **{field: value})
    return replace(state, **{owner: replace(getattr(state, owner), **{field: value})})


def value(state: RoutingState, name: str) -> float:
    owner, _, field = name.rpartition(".")
    return float(getattr(getattr(state, owner) if owner else state, field))


@given(states, st.sampled_from(INPUTS), st.floats(0, 1e6))
def test_tau_moves_only_the_way_its_sign_says(state: RoutingState, name: str, more: float) -> None:
    least = value(state, name)
    higher = min(least + more, 1.0) if name in ("link.loss", "budget_left") else least + more
    before, after = POLICY.threshold(state, WORK), POLICY.threshold(changed(state, name, higher), WORK)
    assert after >= before if RISING[INPUTS.index(name)] else after <= before


@given(states)
def test_tau_stays_between_its_ends_and_inputs_between_zero_and_one(state: RoutingState) -> None:
    assert 0.1 <= POLICY.threshold(state, WORK) <= 0.95
    assert all(-1e-12 <= x <= 1 + 1e-12 for x in INPUT.encode(state))


def test_the_best_state_encodes_as_ones_and_the_worst_as_zeros() -> None:
    assert INPUT.encode(WORST) == pytest.approx([0.0] * len(INPUTS))
    encoded = dict(zip(INPUTS, INPUT.encode(BEST), strict=True))
    assert sum(x for name, x in encoded.items() if name.startswith("prices.")) == pytest.approx(1.0)
    assert [x for name, x in encoded.items() if not name.startswith("prices.")] == pytest.approx([1.0] * 7)


def test_prices_weigh_by_what_they_make_of_a_typical_request() -> None:
    encoded = dict(zip(INPUTS, INPUT.encode(BEST), strict=True))
    assert encoded["prices.request_usd"] / encoded["prices.input_usd_per_mtok"] == pytest.approx(0.001 / (1100 * 2e-6))


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("wrong", [math.nan, -1e-9, math.inf])
def test_a_number_that_cannot_be_is_refused_by_name(name: str, wrong: float) -> None:
    bad = changed(SOME, name, wrong)
    with pytest.raises(ValueError, match=rf"^{name} must"):
        POLICY.threshold(bad, WORK)
    with pytest.raises(ValueError, match=rf"^{name} must"):
        StateInputs.of([SOME, bad], WORK)
    assert INPUT.outside(bad) == [name]  # whoever watches a site must never raise


@pytest.mark.parametrize("name", INPUTS)
def test_a_number_beyond_any_link_or_price_is_not_fitted_on_but_clamped_while_serving(name: str) -> None:
    absurd = changed(SOME, name, 1.01 * GREATEST[name])
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, "):
        StateInputs.of([SOME, absurd], WORK)
    if name not in SHARES:
        clamped = changed(SOME, name, value(BEST if RISING[INPUTS.index(name)] else WORST, name))
        assert POLICY.threshold(absurd, WORK) == POLICY.threshold(clamped, WORK)


@pytest.mark.parametrize("name", ["link.loss", "budget_left"])
def test_a_share_above_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 1\]"):
        POLICY.threshold(changed(SOME, name, 1.01), WORK)


def test_a_link_never_seen_is_clamped_and_says_so() -> None:
    far = changed(changed(SOME, "link.rtt_ms", 9000.0), "link.up_bps", 10.0)
    edge = changed(changed(SOME, "link.rtt_ms", 500.0), "link.up_bps", 1e5)
    assert POLICY.threshold(far, WORK) == POLICY.threshold(edge, WORK)
    assert POLICY.outside(far) == ["link.up_bps", "link.rtt_ms"]
    assert POLICY.outside(edge) == []


def test_a_dead_bandwidth_is_a_number_not_an_error() -> None:
    inputs = StateInputs.of([changed(WORST, "link.up_bps", 0.0), BEST], WORK)
    assert inputs.encode(changed(SOME, "link.up_bps", 0.0))[0] == 0.0


def test_a_link_that_is_down_gives_the_floor_whatever_else_is_known() -> None:
    policy = replace(POLICY, floor=0.3)
    assert policy.threshold(replace(SOME, link=LinkState(math.nan, 0.0, 0.0, up=False)), WORK) == 0.3
    assert policy.threshold(WORST, WORK) == 0.3 > POLICY.threshold(WORST, WORK)


def test_an_input_that_never_varied_moves_nothing() -> None:
    inputs = StateInputs.of([SOME, changed(SOME, "link.rtt_ms", 90.0)], WORK)
    policy = replace(POLICY, inputs=inputs)
    assert policy.threshold(changed(SOME, "queue_s", 50.0), WORK) == policy.threshold(SOME, WORK)
    assert inputs.outside(changed(SOME, "queue_s", 50.0)) == ["queue_s"]


def test_many_requests_get_the_same_tau_as_one_by_one() -> None:
    index = np.array([2, 0, 1, 1])
    given = [WORST, BEST, SOME]
    taus = POLICY.thresholds(given, index, np.ones((4, 6)))
    assert taus.tolist() == [POLICY.threshold(given[i], WORK) for i in index]


def test_wrong_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="weights"):
        replace(POLICY, weights=(-0.1, *POLICY.weights[1:]))
    with pytest.raises(ValueError, match="weights"):
        replace(POLICY, weights=POLICY.weights[1:])
    with pytest.raises(ValueError, match="bias"):
        replace(POLICY, bias=math.nan)
    with pytest.raises(ValueError, match="tau_min"):
        replace(POLICY, tau_min=0.99)
    with pytest.raises(ValueError, match=r"inputs\.gain"):
        replace(INPUT, gain=(math.inf, *INPUT.gain[1:]))
    with pytest.raises(ValueError, match=r"link\.up_bps"):
        replace(INPUT, low=(1e9, *INPUT.low[1:]))
    with pytest.raises(ValueError, match="states"):
        StateInputs.of([], WORK)


def test_a_call_takes_microseconds() -> None:
    best = min(timeit.repeat(lambda: POLICY.threshold(SOME, WORK), number=500, repeat=20, timer=time.thread_time)) / 500
    assert best < 20e-6, f"{1e6 * best:.1f} us"  # 5 us on an idle core; room for a shared one
