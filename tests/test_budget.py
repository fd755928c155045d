"""Budgets: met on average by dual ascent, never exceeded under a token bucket, whatever the link does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budget import LATE, MOST, OWED, STEP, Budgets, DualAscent, Spent, TokenBucket
from policies.cost import cloud_cost_usd, cloud_latency_s
from policies.types import CloudSpeed, CloudWork, LinkState, Prices

VALUE_USD = 0.02
SECOND_USD = 0.002
CLOUD_ACCURACY = 0.97
SPEED = CloudSpeed()
PRICES = Prices(request_usd=0.0002, input_usd_per_mtok=0.3, output_usd_per_mtok=0.5)
WIDE, NARROW = LinkState(20.0, 2e7, 5e7), LinkState(250.0, 3e5, 6e5)
OUTAGE = replace(WIDE, up=False)
ONE = Spent(True, 0.001, 1.0)
shares = st.floats(0, 1)


@dataclass
class Run:
    """What a simulation did, one entry a request."""

    offloaded: list[bool]
    cost_usd: list[float]
    late: list[bool]
    now_s: list[float]
    rate: list[float]


def serve(
    budgets: Budgets, links: list[LinkState], seed: int = 0, cap: TokenBucket | None = None, every_s: float = 1.0
) -> Run:
    """One request after another over ``links``: a score, the closed-form threshold, the penalty, the cap."""
    rng = np.random.default_rng(seed)
    dual, run, now_s = DualAscent(budgets, VALUE_USD), Run([], [], [], [], []), 0.0
    for link in links:
        now_s += float(rng.exponential(every_s))
        score, work = rng.beta(3.0, 1.5), CloudWork(int(rng.integers(2000, 9000)), 900, 1200, int(rng.integers(20, 90)))
        cost_usd, seconds = cloud_cost_usd(work, PRICES), cloud_latency_s(work, link, SPEED)
        price = cost_usd + SECOND_USD * seconds + dual.penalty_usd(cost_usd, seconds)
        wanted = bool(link.up and score < CLOUD_ACCURACY - price / VALUE_USD)
        granted = cap is None or not wanted or cap.take(1.0, now_s)
        offloaded = wanted and granted
        took_s = float(0.05 + offloaded * seconds * rng.lognormal(0.0, 0.2))
        spent = Spent(offloaded, cost_usd * offloaded, took_s, possible=link.up and granted)
        dual = dual.observe(spent, now_s)
        run.offloaded.append(offloaded)
        run.cost_usd.append(spent.cost_usd)
        run.late.append(budgets.p95_s is not None and took_s > budgets.p95_s)
        run.now_s.append(now_s)
        run.rate.append(dual.rate)
    return run


def abrupt(n: int, seed: int, outage: float = 0.12) -> list[LinkState]:
    """Stretches of 20 to 150 requests over a wide link, a narrow one or none."""
    rng = np.random.default_rng(seed)
    links: list[LinkState] = []
    while len(links) < n:
        share = (1.0 - outage) / 2
        link = [WIDE, NARROW, OUTAGE][rng.choice(3, p=[share, share, outage])]
        links += [link] * int(rng.integers(20, 150))
    return links[:n]


@pytest.mark.parametrize("seed", [0, 1, 5, 6, 10])
def test_the_offload_rate_is_met_within_a_point_under_abrupt_link_changes(seed: int) -> None:
    links = [*abrupt(1800, seed), *[WIDE, NARROW] * 100]
    assert 0.02 < np.mean([not link.up for link in links]) < 0.2
    assert np.mean(serve(Budgets(), links, seed).offloaded) > 0.6  # the budgets have something to do
    for target in (0.1, 0.2, 0.35):
        run = serve(Budgets(offload_rate=target), links, seed)
        assert abs(np.mean(run.offloaded) - target) <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_under_long_outages_the_offload_rate_is_not_overshot_either(seed: int) -> None:
    run = serve(Budgets(offload_rate=0.2), abrupt(2000, seed, outage=0.5), seed)
    assert np.mean(run.offloaded) <= 0.21


@pytest.mark.parametrize("seed", range(3))
def test_a_hard_cap_on_top_is_never_exceeded(seed: int) -> None:
    limit, window_s, burst = 8.0, 60.0, 5.0
    cap = TokenBucket(limit, window_s, burst)
    run = serve(Budgets(offload_rate=0.3), abrupt(2000, seed), seed, cap)
    times = np.array([now for now, offloaded in zip(run.now_s, run.offloaded, strict=True) if offloaded])
    assert len(times) > 0.9 * limit / window_s * run.now_s[-1] * np.mean([link.up for link in abrupt(2000, seed)])
    taken = np.arange(1, len(times) + 1)
    for first in range(len(times)):  # over every stretch of time
        allowed = burst + limit / window_s * (times[first:] - times[first])
        assert (taken[first:] - taken[first] + 1 <= allowed + 1e-6).all()
    assert max(run.rate) < 0.3  # what the cap refuses is not taken for restraint, nor does it wind anything up


def test_dollars_per_hour_are_kept_to() -> None:
    links = abrupt(2500, seed=3, outage=0.0)
    free = serve(Budgets(), links)
    budget = sum(free.cost_usd) / free.now_s[-1] * 3600 / 2
    run = serve(Budgets(usd_per_hour=budget), links)
    assert sum(run.cost_usd) / run.now_s[-1] * 3600 == pytest.approx(budget, rel=0.03)


def test_no_more_than_one_request_in_twenty_is_late() -> None:
    links = abrupt(2500, seed=4, outage=0.0)
    free = serve(Budgets(p95_s=1e9), links)
    offloaded = np.array(free.offloaded)
    narrow = np.array([link is NARROW for link in links])
    assert np.mean(offloaded & narrow) > 0.1  # most of which take more than 0.9 s
    run = serve(Budgets(p95_s=0.9), links)
    assert 0.02 < np.mean(run.late) <= LATE + 0.01


def test_an_outage_leaves_the_multiplier_where_it_was_and_no_flood_follows() -> None:
    run = serve(Budgets(offload_rate=0.2), [*[WIDE] * 600, *[OUTAGE] * 1000, *[WIDE] * 200], seed=2)
    before, after = run.rate[599], run.rate[1599]
    assert 0 < before == after
    assert np.mean(run.offloaded[1600:1700]) < 0.2 * 1.5 + 0.1
    assert max(run.rate[1600:]) <= max(run.rate[:600]) < 1.0


def test_what_an_outage_left_unused_is_paid_back_up_to_a_bound() -> None:
    dual = DualAscent(Budgets(offload_rate=0.2), VALUE_USD)
    for second in range(10_000):
        dual = dual.observe(Spent(False, 0.0, 0.1, possible=False), float(second))
    assert dual.owed == OWED
    back = dual.observe(Spent(False, 0.0, 0.1), 1e4)
    assert dual.owed - back.owed == pytest.approx(0.1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1e3), st.floats(0, 1e4), st.floats(-1e6, 1e6))))
def test_multipliers_stay_between_nothing_and_the_worth_of_an_answer(
    seen: list[tuple[bool, bool, float, float, float]],
) -> None:
    dual = DualAscent(Budgets(0.3, 1.0, 2.0), VALUE_USD)
    for offloaded, possible, cost_usd, seconds, now_s in seen:
        dual = dual.observe(Spent(offloaded, cost_usd, seconds, possible), now_s)
        assert all(0.0 <= multiplier <= MOST for multiplier in (dual.rate, dual.money, dual.late))
        assert 0.0 <= dual.owed <= OWED
        assert 0.0 <= dual.penalty_usd(cost_usd, seconds) <= VALUE_USD


@settings(deadline=None)
@given(shares, shares, shares, st.floats(0, 1), st.floats(0, 100), st.floats(0, 1), st.floats(0, 100))
def test_the_penalty_never_falls_in_money_seconds_or_any_multiplier(
    rate: float, money: float, late: float, cost_usd: float, seconds: float, dearer: float, later: float
) -> None:
    dual = DualAscent(Budgets(0.3, 1.0, 2.0), VALUE_USD, rate, money, late, typical_usd=0.01)
    penalty = dual.penalty_usd(cost_usd, seconds)
    assert dual.penalty_usd(cost_usd + dearer, seconds + later) >= penalty
    for name in ("rate", "money", "late"):
        assert replace(dual, **{name: 1.0}).penalty_usd(cost_usd, seconds) >= penalty


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=300), st.floats(0.01, 0.99))
def test_no_stretch_of_free_choices_overspends_by_more_than_one_sweep(asked: list[bool], target: float) -> None:
    dual, excess = DualAscent(Budgets(offload_rate=target), VALUE_USD), 0.0
    for now_s, wanted in enumerate(asked):
        offloaded = wanted and dual.penalty_usd(0.001, 1.0) < VALUE_USD  # forbidden at V
        excess += offloaded - target
        dual = dual.observe(Spent(offloaded, 0.001, 1.0), float(now_s))
        assert excess <= MOST / STEP + 1e-6


def test_without_budgets_nothing_is_added() -> None:
    dual = DualAscent(Budgets(), VALUE_USD)
    for now_s in range(100):
        dual = dual.observe(ONE, float(now_s))
    assert dual.penalty_usd(1.0, 100.0) == 0.0


def test_a_slack_budget_costs_nothing() -> None:
    run = serve(Budgets(offload_rate=0.95), [NARROW] * 500)
    assert np.mean(run.offloaded) < 0.85
    assert np.mean(run.offloaded) > np.mean(serve(Budgets(), [NARROW] * 500).offloaded) - 0.03


def test_the_fee_for_lateness_is_paid_by_the_chance_of_it() -> None:
    dual = DualAscent(Budgets(p95_s=2.0), VALUE_USD, late=0.5)
    assert dual.penalty_usd(0.0, 0.5) < 0.001 * VALUE_USD
    assert dual.penalty_usd(0.0, 2.0) == pytest.approx(VALUE_USD / 4)
    assert dual.penalty_usd(0.0, 20.0) == pytest.approx(VALUE_USD / 2, rel=1e-4)


def test_a_clock_that_goes_back_earns_no_dollars() -> None:
    dual = DualAscent(Budgets(usd_per_hour=3600.0), VALUE_USD).observe(ONE, 100.0)
    back = dual.observe(ONE, 50.0)
    assert back.money > dual.money and back.last_s == 100.0
    assert back.observe(Spent(False, 0.0, 0.1), 100.0).money == back.money


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_numbers_that_are_none_are_refused_by_name(wrong: float) -> None:
    for name in ("offload_rate", "usd_per_hour", "p95_s"):
        with pytest.raises(ValueError, match=name):
            Budgets(**{name: wrong})
    dual = DualAscent(Budgets(), VALUE_USD)
    with pytest.raises(ValueError, match="seconds"):
        dual.penalty_usd(0.0, wrong)
    with pytest.raises(ValueError, match="cost_usd"):
        dual.observe(replace(ONE, cost_usd=wrong), 0.0)
    with pytest.raises(ValueError, match="value_usd"):
        DualAscent(Budgets(), wrong)
    with pytest.raises(ValueError, match="amount"):
        TokenBucket(1.0, 1.0).take(wrong, 0.0)
    with pytest.raises(ValueError, match="limit"):
        TokenBucket(wrong, 1.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_clock_that_is_none_is_refused_and_spoils_nothing(wrong: float) -> None:
    bucket = TokenBucket(1.0, 1.0)
    with pytest.raises(ValueError, match="now_s"):
        bucket.take(1.0, wrong)
    assert bucket.take(1.0, 0.0) and not bucket.take(1.0, 0.5) and bucket.take(1.0, 1.0)
    with pytest.raises(ValueError, match="now_s"):
        DualAscent(Budgets(), VALUE_USD).observe(ONE, wrong)


@settings(deadline=None)
@given(
    st.floats(0, 1e3),
    st.floats(1e-3, 1e5),
    st.floats(0, 1e3),
    st.lists(st.tuples(st.floats(0, 100), st.floats(-1e4, 1e4), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_sequence_of_calls_takes_more_than_the_cap(
    limit: float, window_s: float, burst: float, calls: list[tuple[float, float, float]]
) -> None:
    bucket, net, start_s, latest_s = TokenBucket(limit, window_s, burst), 0.0, calls[0][1], calls[0][1]
    for amount, now_s, unused in calls:  # the clock jumps either way
        latest_s = max(latest_s, now_s)
        if bucket.take(amount, now_s):
            net += amount
            assert net <= (limit / window_s * (latest_s - start_s) + burst) * (1 + 1e-9)
            bucket.put_back(amount * unused)
            net -= amount * unused
        assert 0.0 <= bucket.left(now_s) <= 1.0


def test_a_bucket_refills_at_its_rate_and_never_beyond_its_burst() -> None:
    bucket = TokenBucket(10.0, 100.0, 3.0)
    assert [bucket.take(1.0, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(1.0, 9.9) and bucket.take(1.0, 10.0)
    assert [bucket.take(1.0, 1e6) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(3.5, 2e6)
    bucket.put_back(50.0)
    assert not bucket.take(3.5, 2e6) and bucket.take(3.0, 2e6)


def test_a_bucket_of_nothing_gives_nothing() -> None:
    bucket = TokenBucket(0.0, 60.0)
    assert not bucket.take(1e-9, 0.0) and not bucket.take(1e-9, 1e308)
    assert bucket.left(0.0) == 0.0
    with pytest.raises(ValueError, match="window_s"):
        TokenBucket(1.0, 0.0)
    with pytest.raises(ValueError, match="p95_s"):
        Budgets(p95_s=0.0)
