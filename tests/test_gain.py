"""The gain curve: what the cloud adds never rises with the score, and tau is where it meets the price."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gain import GainCurve
from policies.outcomes import Outcomes
from policies.score import FloatArray
from policies.threshold import OptimalThreshold
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

price = st.floats(-2.0, 2.0)


def requests(n: int, seed: int, hard_for_both: float = 0.0) -> Outcomes:
    """Calibrated scores; where the edge is surely wrong, the cloud fails as well with this probability."""
    rng = np.random.default_rng(seed)
    score = rng.beta(0.4, 0.4, n).clip(1e-6, 1 - 1e-6)
    edge = rng.random(n) < score
    cloud = rng.random(n) < 0.95 - hard_for_both * (score < 0.3)
    return Outcomes(score, edge.astype(float), cloud.astype(float), np.ones((n, 6)), np.ones(n))


CURVE = GainCurve.fit(requests(5000, 0, 0.4))


def utility(drafts: Outcomes, tau: FloatArray | float, cost: float) -> float:
    """V per request of a threshold when the cloud costs ``cost`` V."""
    return float(np.where(drafts.score >= tau, drafts.edge_right, drafts.cloud_right - cost).mean())


@given(price, price)
def test_a_dearer_cloud_never_raises_the_threshold(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= CURVE.tau(high) <= CURVE.tau(low) <= 1.0


@given(st.lists(price, min_size=1, max_size=20))
def test_many_prices_at_once_are_the_same(prices: list[float]) -> None:
    assert CURVE.taus(np.array(prices)).tolist() == pytest.approx([CURVE.tau(one) for one in prices], abs=1e-12)


def test_a_cloud_that_is_always_as_good_gives_the_straight_line_back() -> None:
    curve = GainCurve.fit(requests(50_000, 1))
    for cost in (0.2, 0.4, 0.6, 0.8):
        assert curve.tau(cost) == pytest.approx(0.95 - cost, abs=0.06)


@pytest.mark.parametrize("cost", [0.2, 0.4, 0.6, 0.8])
def test_it_earns_nearly_what_the_best_threshold_of_other_requests_earns(cost: float) -> None:
    fresh = requests(20_000, 2, 0.4)
    best = max(utility(fresh, tau, cost) for tau in np.linspace(0, 1, 201))
    assert utility(fresh, CURVE.tau(cost), cost) > best - 0.003


def test_where_both_fail_it_beats_the_line_that_thinks_the_cloud_always_right() -> None:
    fresh = requests(20_000, 3, 0.4)
    assert utility(fresh, CURVE.tau(0.6), 0.6) > utility(fresh, 0.95 - 0.6, 0.6) + 0.01


def test_a_cloud_that_costs_more_than_it_ever_adds_is_never_asked_and_a_free_one_always() -> None:
    assert CURVE.tau(1.5) == 0.0
    assert CURVE.tau(-1.5) == 1.0


def test_the_optimal_threshold_takes_the_curve_for_the_line() -> None:
    objective, speed = Objective(0.01, 0.001, 0.95), CloudSpeed()
    state, work = RoutingState(LinkState(50.0, 1e6, 1e7), Prices(0.004)), CloudWork(2000, 800, 400, 30)
    line, curve = OptimalThreshold(objective, speed), OptimalThreshold(objective, speed, curve=CURVE)
    cost = 0.95 - line.threshold(state, work)
    assert curve.threshold(state, work) == pytest.approx(CURVE.tau(cost))
    assert curve.taus(np.array([cost * 0.01]))[0] == pytest.approx(CURVE.tau(cost))


@pytest.mark.parametrize(
    ("scores", "gains"),
    [((), ()), ((0.2, 0.1), (0.5, 0.4)), ((0.1, 0.2), (0.4, 0.5)), ((0.1, 1.2), (0.5, 0.4)), ((0.1,), (float("nan"),))],
)
def test_what_is_no_such_curve_is_refused(scores: tuple[float, ...], gains: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        GainCurve(scores, gains)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(ValueError, match="drafts"):
        GainCurve.fit(Outcomes(np.zeros(2), np.zeros(2), np.ones(2), np.ones((2, 6)), np.ones(2)))
