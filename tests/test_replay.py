"""Off-policy evaluation: honest on logs whose truth is known, exact where both answers are, hard on bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cost import kappa
from policies.fitting import BoolArray
from policies.replay import (
    Estimator,
    Figures,
    IntArray,
    Logged,
    Priced,
    best_threshold,
    effective,
    estimate,
    figures,
    kept,
    price,
    request_oracle,
    resample,
    state_oracle,
    thresholds,
)
from policies.score import FloatArray
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

OBJECTIVE, SPEED = Objective(value_usd=0.02, second_usd=0.002, cloud_accuracy=0.97), CloudSpeed()
PRICES = Prices(0.0005, 1.0, 0.1, 4.0, 0.2)
STATES = [RoutingState(LinkState(rtt, up, 4 * up), PRICES) for rtt, up in ((20.0, 5e6), (300.0, 5e4), (80.0, 5e5))]
DOWN = RoutingState(LinkState(20.0, 0.0, 0.0, up=False), PRICES)
seeds = st.integers(0, 2**32 - 1)


def logged(
    n: int,
    seed: int,
    audit: float = 0.1,
    gap: float = 0.0,
    states: Sequence[RoutingState] = tuple(STATES),
    shape: tuple[float, float] = (3.0, 1.5),
) -> tuple[Logged, FloatArray]:
    """A log of the rule "keep iff score >= 0.7", and whether each draft is right; ``gap``: scores promise too much."""
    rng = np.random.default_rng(seed)
    score = rng.beta(*shape, n)
    right = (rng.random(n) < np.clip(score - gap, 0, 1)).astype(float)
    state = rng.integers(len(states), size=n)
    up = np.array([one.link.up for one in states])[state]
    offloaded = up & (score < 0.7)
    propensity = np.where(offloaded, 1.0, np.where(up, audit, 0.0))
    labelled = rng.random(n) < propensity
    sizes = [np.ones(n), *(rng.integers(1, top, n) for top in (2000, 50, 90, 8000, 2000))]
    log = Logged(
        score=score,
        valid=np.ones(n, dtype=bool),
        offloaded=offloaded,
        labelled=labelled,
        propensity=propensity,
        edge_right=np.where(labelled, right, 0.0),
        amounts=np.stack(sizes, axis=1).astype(float),
        state=state,
        states=states,
    )
    return log, right


def known(log: Logged, right: FloatArray) -> Logged:
    """The same requests with every answer known."""
    return replace(log, labelled=np.ones(len(log), dtype=bool), propensity=np.ones(len(log)), edge_right=right)


def brute_force(log: Logged, keeps: Sequence[bool]) -> Figures:
    """Request by request, with ``policies.cost`` alone."""
    rows = []
    for index, keep in enumerate(keeps):
        if keep:
            rows.append((log.edge_right[index], 0.0, 0.0, 0.0, OBJECTIVE.value_usd * log.edge_right[index]))
            continue
        state, work = log.states[log.state[index]], work_of(log.amounts[index])
        total = kappa(work, state, SPEED, OBJECTIVE)
        money = kappa(work, state, SPEED, replace(OBJECTIVE, second_usd=0.0))
        success = OBJECTIVE.cloud_accuracy
        rows.append((success, 1.0, money, total - money, OBJECTIVE.value_usd * success - total))
    return Figures(*np.mean(rows, axis=0))


def work_of(paid: FloatArray) -> CloudWork:
    return CloudWork(int(paid[4]), int(paid[5]), int(paid[1] + paid[2]), int(paid[3]), int(paid[2]))


def close(found: Figures, expected: Figures) -> bool:
    return all(
        getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-12)
        for name in Figures.__slots__
    )


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 1))
def test_with_every_answer_known_all_estimators_equal_the_sum_by_hand(seed: int, tau: float) -> None:
    log = known(*logged(60, seed))
    keeps = kept(log, tau)
    expected = brute_force(log, [bool(keep) for keep in keeps])
    assert all(close(figures(price(log, SPEED, OBJECTIVE), keeps, estimator), expected) for estimator in Estimator)


@pytest.mark.parametrize("estimator", [Estimator.IPS, Estimator.SNIPS, Estimator.DR])
@pytest.mark.parametrize("gap", [0.0, 0.25])
def test_estimates_are_unbiased_even_where_the_scores_are_wrong(estimator: Estimator, gap: float) -> None:
    """Mean error over 150 logs of 2,000 requests within 3.5 of its own standard errors (SNIPS: plus its O(1/n))."""
    errors = []
    for seed in range(150):
        log, right = logged(2000, seed, gap=gap)
        keeps = kept(log, 0.5)
        truth = figures(price(known(log, right), SPEED, OBJECTIVE), keeps, Estimator.EXACT)
        errors.append(figures(price(log, SPEED, OBJECTIVE), keeps, estimator).utility_usd - truth.utility_usd)
    assert abs(np.mean(errors)) < 3.5 * np.std(errors) / np.sqrt(len(errors)) + 1e-5 * (estimator is Estimator.SNIPS)


def test_the_direct_model_alone_would_be_biased_by_wrong_scores() -> None:
    log, right = logged(20_000, 0, gap=0.25)
    blind = replace(log, labelled=np.zeros(len(log), dtype=bool))
    keeps = kept(log, 0.5)
    truth = figures(price(known(log, right), SPEED, OBJECTIVE), keeps, Estimator.EXACT).success
    assert figures(price(blind, SPEED, OBJECTIVE), keeps, Estimator.DR).success > truth + 0.1
    assert figures(price(log, SPEED, OBJECTIVE), keeps, Estimator.DR).success == pytest.approx(truth, abs=0.02)


def test_doubly_robust_varies_least_where_scores_tell_right_from_wrong() -> None:
    """Spread of the error over 200 logs; scores near 0.4 and 1 leave little for the labels to say."""

    def spread(estimator: Estimator) -> float:
        errors = []
        for seed in range(200):
            log, right = logged(1000, seed, shape=(2.0, 0.2))
            keeps = kept(log, 0.3)
            truth = float(np.where(keeps, right, OBJECTIVE.cloud_accuracy).mean())
            errors.append(figures(price(log, SPEED, OBJECTIVE), keeps, estimator).success - truth)
        return float(np.std(errors))

    assert spread(Estimator.DR) < 0.95 * spread(Estimator.SNIPS)
    assert spread(Estimator.DR) < 0.5 * spread(Estimator.IPS)


@pytest.mark.parametrize(("estimator", "n"), [(Estimator.DR, 800), (Estimator.SNIPS, 800), (Estimator.IPS, 3000)])
def test_the_interval_covers_the_population_as_often_as_it_says(estimator: Estimator, n: int) -> None:
    """95 % over 200 logs: binomial standard error 1.5 points, so at least 90 % and not always."""
    log, right = logged(400_000, 10**6)
    population = figures(price(known(log, right), SPEED, OBJECTIVE), kept(log, 0.5), Estimator.EXACT).utility_usd
    covered, draws = 0, resample(n)
    for seed in range(200):
        one = logged(n, seed, audit=0.2)[0]
        found = estimate(price(one, SPEED, OBJECTIVE), kept(one, 0.5), estimator, draws)
        covered += found.low.utility_usd <= population <= found.high.utility_usd
    assert 180 <= covered < 200


def test_grouped_resamples_have_the_spread_of_the_mean() -> None:
    log, right = logged(30_000, 1)
    priced = price(known(log, right), SPEED, OBJECTIVE)
    found = estimate(priced, kept(log, 0.0), Estimator.EXACT, resample(len(log)))
    assert found.high.success - found.low.success == pytest.approx(2 * 1.96 * right.std() / np.sqrt(len(log)), rel=0.15)


def test_a_request_that_could_not_be_audited_is_counted_and_left_to_the_scores() -> None:
    log, _ = logged(3000, 2, states=[*STATES, DOWN])
    down = ~log.up
    assert log.uncovered == pytest.approx(float(down.mean())) and 0.2 < log.uncovered < 0.3
    for estimator in (Estimator.IPS, Estimator.SNIPS, Estimator.DR):
        found = figures(price(log, SPEED, OBJECTIVE).part(down), kept(log, 1.0)[down], estimator)
        assert found.offload == 0 and found.success == pytest.approx(float(log.score[down].mean()))


def test_without_any_label_the_self_normalised_estimate_is_the_score_and_the_effective_number_is_none() -> None:
    log, _ = logged(500, 3)
    blind = replace(log, labelled=np.zeros(500, dtype=bool))
    found = estimate(price(blind, SPEED, OBJECTIVE), kept(blind, 0.0), Estimator.SNIPS, resample(500))
    assert found.mean.success == pytest.approx(float(log.score.mean())) and found.effective == 0.0


def test_the_effective_number_counts_equal_weights_fully_and_unequal_ones_less() -> None:
    log, right = logged(100, 4)
    everything = np.ones(100, dtype=bool)
    assert effective(known(log, right), everything) == pytest.approx(100)
    assert effective(log, everything) < log.labelled.sum()


class Slow:
    """Any policy, asked one request at a time."""

    def __init__(self, policy: ThresholdPolicy) -> None:
        self._policy = policy

    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        return self._policy.threshold(state, work)


class Batched(Slow):
    """A policy with a batch path of its own."""

    def thresholds(self, states: Sequence[RoutingState], state: IntArray, amounts: FloatArray) -> FloatArray:
        return np.array([0.1 * len(states)])[np.zeros_like(state)] + 0.0 * amounts[:, 0]


@pytest.mark.parametrize(
    "policy",
    [
        FixedThreshold(0.3),
        OptimalThreshold(OBJECTIVE, SPEED, floor=0.2),
        OptimalThreshold(replace(OBJECTIVE, value_usd=0.004), SPEED),
        OptimalThreshold(replace(OBJECTIVE, second_usd=0.1), CloudSpeed(3.0, 0.5, 0.02)),
    ],
)
def test_the_batch_path_gives_the_thresholds_of_the_single_one(policy: ThresholdPolicy) -> None:
    priced = price(logged(200, 5, states=[*STATES, DOWN])[0], SPEED, OBJECTIVE)
    np.testing.assert_allclose(thresholds(policy, priced), thresholds(Slow(policy), priced), rtol=1e-12)


def test_a_policy_may_bring_its_own_batch_path() -> None:
    priced = price(logged(20, 6)[0], SPEED, OBJECTIVE)
    assert thresholds(Batched(FixedThreshold(0.9)), priced) == pytest.approx(0.3)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 12), st.booleans())
def test_the_best_threshold_is_the_one_a_search_finds(seed: int, n: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    score, gain = rng.integers(0, 4, n) / 3 if coarse else rng.random(n), rng.normal(size=n)
    tried = [gain[score >= tau].sum() for tau in (0.0, *score, 1.0)]
    assert gain[score >= best_threshold(score, gain)].sum() == pytest.approx(max(tried))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_oracles_equal_brute_force_and_bound_every_rule(seed: int) -> None:
    log = known(*logged(40, seed, states=[*STATES, DOWN]))
    log = replace(log, valid=log.score > 0.3)
    priced = price(log, SPEED, OBJECTIVE)
    edge = OBJECTIVE.value_usd * log.edge_right
    cloud = OBJECTIVE.value_usd * OBJECTIVE.cloud_accuracy - priced.kappa_usd
    total, best = 0.0, 0.0
    for index in range(4):
        rows = log.state == index
        part = log.part(rows)
        grid = [0.0, 1.0, *part.score]
        total += max((np.where(kept(part, tau), edge[rows], cloud[rows]).sum() for tau in grid), default=0.0)
    for up, valid, stay, go in zip(log.up, log.valid, edge, cloud, strict=True):
        best += stay if not up else max(stay, go) if valid else go
    chosen = kept(log, state_oracle(priced, log.state)[log.state])
    oracle = figures(priced, chosen, Estimator.EXACT).utility_usd
    assert oracle * 40 == pytest.approx(total)
    assert request_oracle(priced) * 40 == pytest.approx(best)
    for tau in np.linspace(0, 1, 11):
        reached = figures(priced, kept(log, tau), Estimator.EXACT).utility_usd
        assert reached <= oracle + 1e-12 and oracle <= request_oracle(priced) + 1e-12


def test_an_invalid_draft_is_never_kept_and_a_dead_link_keeps_everything() -> None:
    log, _ = logged(4, 7, states=[STATES[0], DOWN])
    log = replace(log, state=np.array([0, 0, 1, 1]), valid=np.array([True, False, True, False]), score=np.zeros(4))
    assert kept(log, 0.0).tolist() == [True, False, True, True]
    assert kept(log, 1.0).tolist() == [False, False, True, True]


def broken(**changes: object) -> Logged:
    return replace(logged(10, 8)[0], **changes)  # type: ignore[arg-type]


def flags(n: int, value: bool = True) -> BoolArray:
    return np.full(n, value)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"score": np.full(10, np.nan)}, "score must lie in"),
        ({"propensity": np.full(10, 1.5)}, "propensity must lie in .* 1.5"),
        ({"edge_right": np.full(10, -1.0)}, "edge_right must lie in .* -1.0"),
        ({"valid": flags(9)}, "'valid': 9"),
        ({"amounts": np.full((10, 6), np.inf)}, "amounts"),
        ({"amounts": np.ones((10, 5))}, "amounts"),
        ({"state": np.full(10, 3)}, "state must index 3 states"),
        ({"labelled": flags(10), "propensity": np.zeros(10)}, "propensity must be > 0 where labelled"),
    ],
)
def test_a_bad_log_is_refused_by_name(changes: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        broken(**changes)


def test_an_empty_log_is_refused() -> None:
    log = logged(3, 0)[0]
    with pytest.raises(ValueError, match="length above 0"):
        log.part(np.zeros(3, dtype=bool))


@pytest.mark.parametrize("name", ["rtt_ms", "up_bps"])
@pytest.mark.parametrize("value", [float("nan"), -1.0, float("inf")])
def test_a_link_that_makes_no_sense_is_refused_by_name(name: str, value: float) -> None:
    states = [STATES[0], RoutingState(replace(STATES[1].link, **{name: value}), PRICES), STATES[2]]
    with pytest.raises(ValueError, match=f"link.{name} must be"):
        price(replace(logged(10, 9)[0], states=states), SPEED, OBJECTIVE)


def test_bad_thresholds_and_exact_without_labels_are_refused() -> None:
    log = logged(50, 10)[0]
    for tau in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="thresholds must lie"):
            kept(log, tau)
    with pytest.raises(ValueError, match="exact needs every request labelled"):
        figures(price(log, SPEED, OBJECTIVE), kept(log, 0.5), Estimator.EXACT)


def test_part_of_a_priced_log_is_that_part() -> None:
    priced = price(logged(60, 11)[0], SPEED, OBJECTIVE)
    halves = [priced.part(np.arange(0, 30)), priced.part(np.arange(30, 60))]

    def utility(one: Priced) -> float:
        return figures(one, kept(one.log, 0.5), Estimator.DR).utility_usd

    assert np.mean([utility(half) for half in halves]) == pytest.approx(utility(priced))
