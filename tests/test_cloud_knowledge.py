"""Speed, queue, cache and errors of one cloud together, in simulation: a jam comes and goes, and bills are met."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from actors.cloud_knowledge import CloudKnowledge
from policies.cost import cloud_latency_s
from policies.threshold import OptimalThreshold
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

LINK = LinkState(40.0, 1e6, 8e6)
PRICES = Prices(0.0, 0.28, 0.028, 0.42)
STATE = RoutingState(LINK, PRICES)
OBJECTIVE = Objective(value_usd=0.02, second_usd=0.002, cloud_accuracy=0.97)
TRUTH = CloudSpeed(1.0, 0.3, 0.01)
WORK = CloudWork(4000, 800, 1200, 50)
JAM_S = 60.0


def jam(after_s: float) -> float:
    """A queue that grows to 20 s within the minute and is then gone."""
    return after_s / 3 if 0 <= after_s < JAM_S else 0.0


def always(after_s: float) -> float:
    """A cloud that is 5 s slower from now on."""
    return 5.0 if after_s >= 0 else 0.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Moment:
    """One request of a site: when, its threshold, and how far off the wait and the cloud's own speed were thought."""

    at_s: float
    tau: float
    offloaded: bool
    wait_error_s: float
    speed_error_s: float


def play(queue: Callable[[float], float], start_s: float, end_s: float, gap_s: float = 1.0) -> list[Moment]:
    """A site with the link-aware threshold and a request every ``gap_s``; the cloud's ``queue`` counts from start."""
    clock, rng, order = Clock(), np.random.default_rng(0), itertools.count()
    cloud, calls, seen = CloudKnowledge(CloudSpeed(), clock), [], []  # type: ignore[var-annotated]
    for at_s in np.arange(0.0, end_s, gap_s).tolist():
        while calls and calls[0][0] <= at_s:
            clock.now, _, work, state, seconds = heapq.heappop(calls)
            cloud.called(work, work, state, seconds)
        clock.now = at_s
        work, state = replace(WORK, output_tokens=int(rng.integers(10, 90))), replace(STATE, queue_s=cloud.queue_s)
        tau = OptimalThreshold(OBJECTIVE, cloud.speed).threshold(state, work)
        offloaded = bool(rng.random() < tau)
        own_s, wait_s = cloud_latency_s(work, LINK, TRUTH), queue(at_s - start_s)
        if offloaded:
            seconds = own_s + wait_s + float(rng.exponential(0.1))
            heapq.heappush(calls, (at_s + seconds, next(order), work, state, seconds))
        off_s = cloud_latency_s(work, LINK, cloud.speed) - own_s
        seen.append(Moment(at_s - start_s, tau, offloaded, state.queue_s - wait_s, off_s))
    return seen


def mean(moments: list[Moment], name: str, from_s: float, to_s: float) -> float:
    """Of what happened between two times."""
    return float(np.mean([getattr(moment, name) for moment in moments if from_s <= moment.at_s < to_s]))


@pytest.mark.parametrize("gap_s", [0.25, 1.0, 2.0])
def test_offloads_fall_while_a_queue_lasts_and_come_back_after_it(gap_s: float) -> None:
    seen = play(jam, 300 * gap_s, 300 * gap_s + 400.0, gap_s)
    before = mean(seen, "offloaded", -200 * gap_s, 0.0)
    assert before > 0.7
    assert mean(seen, "offloaded", 30.0, 60.0) < 0.4 * before
    assert mean(seen, "offloaded", 160.0, 400.0) > 0.95 * before


def test_a_jam_leaves_the_clouds_own_speed_as_it_was() -> None:
    seen = play(jam, 300.0, 700.0)
    assert abs(mean(seen, "speed_error_s", 60.0, 80.0) - mean(seen, "speed_error_s", -20.0, 0.0)) < 0.05


def test_without_a_queue_none_is_seen() -> None:
    seen = play(lambda after_s: 0.0, 300.0, 1300.0)
    assert mean(seen, "wait_error_s", 0.0, 1000.0) < 0.01


def test_a_cloud_that_stays_slower_is_a_queue_for_an_hour_and_its_speed_from_then_on() -> None:
    """The queue is a quarter too short at most: it is forgotten a little between two calls."""
    seen = play(always, 300.0, 5000.0, 2.0)
    assert abs(mean(seen, "wait_error_s", 60.0, 3600.0)) < 1.25
    assert abs(mean(seen, "speed_error_s", 60.0, 3600.0)) < 0.2
    assert mean(seen, "speed_error_s", 4200.0, 4700.0) == pytest.approx(5.0, rel=0.1)
    assert mean(seen, "wait_error_s", 4200.0, 4700.0) + 5.0 == pytest.approx(0.0, abs=0.1)


def test_a_configured_speed_that_was_wrong_is_learnt_by_the_fit_and_not_taken_for_a_queue() -> None:
    clock = Clock()
    cloud = CloudKnowledge(CloudSpeed(), clock)
    for _ in range(60):
        cloud.called(WORK, WORK, STATE, 4.0)
        clock.now += 1.0
    assert cloud_latency_s(WORK, LINK, cloud.speed) == pytest.approx(4.0, rel=0.05)
    assert cloud.queue_s == 0.0


def test_the_money_error_halves_when_the_cache_is_known() -> None:
    cloud = CloudKnowledge(CloudSpeed(), Clock())
    done = replace(WORK, cached_tokens=1000)
    cloud.called(cloud.expected(WORK), done, STATE, 1.0)
    billed = (0.28 * 200 + 0.028 * 1000 + 0.42 * 50) / 1e6
    first = cloud.gauges()
    assert first["cloud_cost_error_usd"] == pytest.approx((0.28 - 0.028) * 1000 / 1e6)
    assert first["cloud_cost_relative_error"] == pytest.approx(first["cloud_cost_error_usd"] / billed)
    for _ in range(100):
        cloud.called(cloud.expected(WORK), done, STATE, 1.0)
    assert cloud.gauges()["cloud_cost_relative_error"] < 0.01
    assert cloud.expected(WORK).cached_tokens == pytest.approx(1000, abs=10)


def test_the_latency_error_counts_the_queue_that_was_expected() -> None:
    cloud = CloudKnowledge(CloudSpeed(), Clock())
    own_s = cloud_latency_s(WORK, LINK, CloudSpeed())
    cloud.called(WORK, WORK, replace(STATE, queue_s=2.0), own_s + 2.5)
    assert cloud.gauges()["cloud_latency_error_s"] == pytest.approx(0.5)
    assert cloud.gauges()["cloud_latency_relative_error"] == pytest.approx(0.5 / (own_s + 2.5))
