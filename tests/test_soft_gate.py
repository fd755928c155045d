"""The soft gate: how much of the gap its fits close on requests they never saw, and what it refuses to fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadConfig
from policies.funcdyn import ANY_WORK, FuncDyn
from policies.outcomes import Outcomes, kappas
from policies.policynet import PolicyNet
from policies.score import FloatArray
from policies.soft_gate import best_thresholds, earned, fit_funcdyn, fit_policynet, net_logits, typical_work
from policies.types import CloudSpeed, LinkState, Objective, Prices, RoutingState

OBJECTIVE, SPEED = Objective(0.005, 0.001, 0.96), CloudSpeed()
BANDWIDTHS_MBPS, RTTS_MS, TARIFFS = (0.1, 0.5, 2.0, 10.0, 50.0), (10.0, 50.0, 100.0, 200.0, 400.0), (0.5, 1.0, 2.0, 5.0)
Fit = Callable[..., FuncDyn | PolicyNet]
FITS: dict[str, Fit] = {"funcdyn": fit_funcdyn, "policynet": fit_policynet}


def state(mbps: float, rtt_ms: float, tariff: float) -> RoutingState:
    prices = Prices(0.0005 * tariff, 0.3 * tariff, 0.03 * tariff, 1.5 * tariff, 0.0)
    return RoutingState(LinkState(rtt_ms, mbps * 1e6, mbps * 1e6), prices)


GRID = [state(*point) for point in itertools.product(BANDWIDTHS_MBPS, RTTS_MS, TARIFFS)]


def requests(n: int, seed: int, miscalibrated: float = 1.15, expected: bool = False) -> Outcomes:
    """Beta scores, drafts right with probability score ** miscalibrated, works of all sizes; or the probabilities."""
    random = np.random.default_rng(seed)
    score = np.clip(random.beta(2.0, 1.2, n), 1e-6, 1 - 1e-6)
    edge, cloud = score**miscalibrated, np.full(n, 0.96)
    if not expected:
        edge, cloud = (random.random(n) < edge).astype(float), (random.random(n) < cloud).astype(float)
    prompt, answer = random.integers(200, 3000, n), random.integers(10, 200, n)
    paid = np.stack([np.ones(n), prompt, np.zeros(n), answer, 4 * prompt, 6 * answer], axis=1).astype(float)
    return Outcomes(score, edge, cloud, paid, np.ones(n))


TRAIN, HELD = requests(2000, 1), requests(20_000, 2, expected=True)
KAPPA = kappas(HELD, GRID, SPEED, OBJECTIVE)


def mean(taus: FloatArray) -> float:
    return float(earned(HELD, KAPPA, taus, OBJECTIVE.value_usd).mean())


def taus_of(policy: FuncDyn | PolicyNet, states: list[RoutingState]) -> FloatArray:
    return np.array([policy.threshold(one, ANY_WORK) for one in states])


@pytest.fixture(scope="module", params=sorted(FITS))
def fitted(request: pytest.FixtureRequest) -> FuncDyn | PolicyNet:
    return FITS[request.param](TRAIN, GRID, SPEED, OBJECTIVE)


def test_a_fit_closes_95_percent_of_the_gap_on_requests_it_never_saw(fitted: FuncDyn | PolicyNet) -> None:
    value = OBJECTIVE.value_usd
    fixed = best_thresholds(HELD, KAPPA.mean(axis=0, keepdims=True), value)
    least, most = mean(np.full(len(GRID), fixed[0])), mean(best_thresholds(HELD, KAPPA, value))
    assert most - least > 0.01 * value  # there is a gap to close
    assert (mean(taus_of(fitted, GRID)) - least) / (most - least) >= 0.95


def test_a_fit_breaks_no_sign_on_a_dense_grid(fitted: FuncDyn | PolicyNet) -> None:
    mbps, rtts, tariffs = np.geomspace(0.05, 100, 24), np.geomspace(5, 800, 24), np.geomspace(0.25, 8, 12)
    points = [state(*map(float, point)) for point in itertools.product(mbps, rtts, tariffs)]
    taus = taus_of(fitted, points).reshape(24, 24, 12)
    rises, falls, dearer = (np.diff(taus, axis=axis) for axis in range(3))
    assert (rises < -1e-12).sum() == (falls > 1e-12).sum() == (dearer > 1e-12).sum() == 0
    assert np.ptp(taus) > 0.5  # and it is not simply constant


def test_a_fit_clamps_links_beyond_those_it_was_given(fitted: FuncDyn | PolicyNet) -> None:
    assert fitted.outside(state(0.01, 900.0, 1.0)) == ["link.up_bps", "link.down_bps", "link.rtt_ms"]
    assert fitted.threshold(state(0.01, 900.0, 1.0), ANY_WORK) == fitted.threshold(state(0.1, 400.0, 1.0), ANY_WORK)


def test_the_same_seed_gives_the_same_policy_and_threads_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    first, second = (fit_policynet(TRAIN, GRID[::9], SPEED, OBJECTIVE, seed=3, width=6) for _ in range(2))
    assert first == second
    assert torch.get_num_threads() == threads


def test_what_torch_trains_is_what_numpy_serves() -> None:
    from policies.policynet import bounds

    net = fit_policynet(TRAIN, GRID[::9], SPEED, OBJECTIVE, width=9)
    names = ("first", "first_bias", "second", "second_bias", "third", "third_bias")
    raw = {name: torch.tensor(getattr(net, name), dtype=torch.float64) for name in names}
    x = torch.tensor([net.inputs.encode(one) for one in GRID], dtype=torch.float64)
    low, high = map(torch.tensor, bounds(9))
    assert net_logits(raw, x, low, high).sigmoid().numpy() == pytest.approx(taus_of(net, GRID), abs=1e-12)


def test_weights_count_as_repeated_requests() -> None:
    rows = np.arange(400)
    doubled = replace(TRAIN.part(rows), weights=np.where(rows < 100, 2.0, 1.0))
    repeated = TRAIN.part(np.concatenate([rows, rows[:100]]))
    pair = [
        best_thresholds(one, kappas(one, GRID, SPEED, OBJECTIVE), OBJECTIVE.value_usd) for one in (doubled, repeated)
    ]
    assert pair[0] == pytest.approx(pair[1])
    assert typical_work(doubled) == typical_work(repeated)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_no_threshold_beats_the_oracle_on_its_own_requests(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    some = requests(n, seed)
    some = replace(some, score=random.choice([0.0, 0.2, 0.5, 1.0 - 1e-6, 1.0], n))
    kappa = kappas(some, GRID[:3], SPEED, OBJECTIVE)
    best = earned(some, kappa, best_thresholds(some, kappa, OBJECTIVE.value_usd), OBJECTIVE.value_usd)
    for tau in np.linspace(0, 1, 41):
        assert (earned(some, kappa, np.full(3, tau), OBJECTIVE.value_usd) <= best + 1e-15).all()


def test_an_invalid_draft_is_the_clouds_even_at_a_threshold_of_zero() -> None:
    invalid = replace(TRAIN, score=np.zeros(len(TRAIN)), edge_right=np.zeros(len(TRAIN)))
    nothing = np.zeros((1, len(TRAIN)))
    assert earned(invalid, nothing, np.zeros(1), 1.0) == pytest.approx(TRAIN.cloud_right.mean())


def test_invalid_drafts_do_not_move_a_fit() -> None:
    half = np.arange(len(TRAIN)) % 2 == 0
    mixed = replace(TRAIN, score=np.where(half, TRAIN.score, 0.0), edge_right=np.where(half, TRAIN.edge_right, 1.0))
    assert fit_funcdyn(mixed, GRID[::9], SPEED, OBJECTIVE) == fit_funcdyn(TRAIN.part(half), GRID[::9], SPEED, OBJECTIVE)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_what_cannot_be_fitted_is_refused_with_the_fix(fit: Fit) -> None:
    with pytest.raises(BadConfig, match=r"at least 50 valid drafts.*got 49. Fix"):
        fit(TRAIN.part(np.arange(49)), GRID, SPEED, OBJECTIVE)
    with pytest.raises(BadConfig, match=r"got 0. Fix"):
        fit(replace(TRAIN, weights=np.zeros(len(TRAIN))), GRID, SPEED, OBJECTIVE)
    with pytest.raises(BadConfig, match=r"all 2000 drafts have edge_right = 1"):
        fit(replace(TRAIN, edge_right=np.ones(len(TRAIN))), GRID, SPEED, OBJECTIVE)
    with pytest.raises(BadConfig, match="no state has its link up"):
        fit(TRAIN, [replace(one, link=replace(one.link, up=False)) for one in GRID], SPEED, OBJECTIVE)
    with pytest.raises(ValueError, match="value_usd must be > 0"):
        fit(TRAIN, GRID, SPEED, replace(OBJECTIVE, value_usd=0.0))
    with pytest.raises(ValueError, match=r"link\.rtt_ms"):
        fit(TRAIN, [replace(GRID[0], link=replace(GRID[0].link, rtt_ms=-1.0))], SPEED, OBJECTIVE)
