"""PolicyNet: monotone whatever its weights are, exact against a plain evaluation, and quick."""

from __future__ import annotations

import math
import time
import timeit
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_funcdyn import BEST, INPUT, SOME, WORK, WORST, changed, states, value

from policies.funcdyn import INPUTS, RISING
from policies.policynet import PolicyNet, bounds
from policies.types import LinkState, RoutingState


def random_net(seed: int, width: int = 32) -> PolicyNet:
    random = np.random.default_rng(seed)

    def rows(*shape: int) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, np.abs(random.normal(size=shape)).tolist()))

    def row(scale: float = 1.0) -> tuple[float, ...]:
        return tuple((scale * random.normal(size=width)).tolist())

    first, second = rows(len(INPUTS), width), rows(width, width)
    return PolicyNet(INPUT, first, row(3), second, row(9), tuple(map(abs, row(0.05))), float(random.normal()))


NET = random_net(0)


@given(states, st.sampled_from(INPUTS), st.floats(0, 1e6), st.integers(0, 50))
def test_tau_moves_only_the_way_its_sign_says(state: RoutingState, name: str, more: float, seed: int) -> None:
    net = random_net(seed, width=7)
    least = value(state, name)
    higher = min(least + more, 1.0) if name in ("link.loss", "budget_left") else least + more
    before, after = net.threshold(state, WORK), net.threshold(changed(state, name, higher), WORK)
    assert after >= before - 1e-12 if RISING[INPUTS.index(name)] else after <= before + 1e-12


@given(states)
def test_tau_is_a_probability_and_never_below_its_floor(state: RoutingState) -> None:
    assert 0.0 <= NET.threshold(state, WORK) <= 1.0
    assert replace(NET, floor=0.4).threshold(state, WORK) >= 0.4


def test_it_computes_what_its_formula_says() -> None:
    low, high = bounds(32)
    x = np.array(INPUT.encode(SOME))
    for weights, bias in ((NET.first, NET.first_bias), (NET.second, NET.second_bias)):
        x = np.clip(x @ np.array(weights) + np.array(bias), low, high)
    expected = 1 / (1 + math.exp(-(float(x @ np.array(NET.third)) + NET.third_bias)))
    assert NET.threshold(SOME, WORK) == pytest.approx(expected, abs=1e-12)


def test_it_can_bend_both_ways() -> None:
    low, high = bounds(6)
    h = np.linspace(-2, 2, 9)[:, None].repeat(6, axis=1)
    bend = np.diff(np.clip(h, low, high), n=2, axis=0)
    assert (bend[:, 0] >= 0).all() and bend[:, 0].max() > 0
    assert (bend[:, 1] <= 0).all() and bend[:, 1].min() < 0
    assert bend[:, 2].min() < 0 < bend[:, 2].max()


def test_a_link_that_is_down_gives_the_floor() -> None:
    down = replace(SOME, link=LinkState(math.nan, 0.0, 0.0, up=False))
    assert replace(NET, floor=0.2).threshold(down, WORK) == 0.2


@pytest.mark.parametrize("name", INPUTS)
def test_a_number_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        NET.threshold(changed(SOME, name, math.nan), WORK)


def test_a_link_never_seen_is_clamped_and_says_so() -> None:
    far = changed(SOME, "link.rtt_ms", 9000.0)
    assert NET.threshold(far, WORK) == NET.threshold(changed(SOME, "link.rtt_ms", 500.0), WORK)
    assert NET.outside(far) == ["link.rtt_ms"]


def test_many_requests_get_the_same_tau_as_one_by_one() -> None:
    given_states = [WORST, BEST, SOME]
    taus = NET.thresholds(given_states, np.array([2, 0, 0]), np.ones((3, 6)))
    assert taus.tolist() == [NET.threshold(given_states[i], WORK) for i in (2, 0, 0)]


def test_wrong_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"second must be >= 0"):
        replace(NET, second=((-1e-9, *NET.second[0][1:]), *NET.second[1:]))
    with pytest.raises(ValueError, match="first must be finite numbers of shape"):
        replace(NET, first=NET.first[1:])
    with pytest.raises(ValueError, match="second must be finite numbers of shape"):
        replace(NET, second=(NET.second[0][1:], *NET.second[1:]))
    with pytest.raises(ValueError, match="third_bias"):
        replace(NET, third_bias=math.inf)
    with pytest.raises(ValueError, match="first_bias"):
        replace(NET, first_bias=(math.nan, *NET.first_bias[1:]))


def test_a_call_takes_microseconds() -> None:
    best = min(timeit.repeat(lambda: NET.threshold(SOME, WORK), number=500, repeat=20, timer=time.thread_time)) / 500
    assert best < 40e-6, f"{1e6 * best:.1f} us"  # 10 us on an idle core; room for a shared one
