"""The coupled environment: what waits, what a budget costs, and that nothing in it is left to chance but the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from test_soft_gate import GRID, OBJECTIVE, SPEED, requests, state

from actors.limits import LimitOptions, Limits
from policies.cost import kappa
from policies.funcdyn import StateInputs
from policies.outcomes import Outcomes
from policies.routing_env import Coupling, Episode, RoutingEnv, Scenario, draw, play
from policies.soft_gate import typical_work
from policies.threshold import FixedThreshold
from policies.types import CloudWork, LinkState, RoutingState

HERE = state(2.0, 50.0, 1.0)
WORK = CloudWork(4000, 1000, 900, 100)
IDLE = Coupling(1e9, 60.0, 1e9)
SCENARIO = Scenario([(0.0, HERE), (5.0, state(0.1, 400.0, 2.0))], tuple(np.linspace(0.0, 10.0, 101)))
REQUESTS = requests(500, 7)


def alike(n: int) -> Outcomes:
    """Requests of 1,000 tokens whose drafts are wrong and whose cloud answers are right."""
    return Outcomes.of([0.5] * n, [0.0] * n, [1.0] * n, [WORK] * n)


def episode(arrivals: list[float], coupling: Coupling, here: RoutingState = HERE) -> Episode:
    return Episode(alike(len(arrivals)), Scenario([(0.0, here)], arrivals), coupling, SPEED, OBJECTIVE)


def environment(block: int = 10) -> RoutingEnv:
    inputs = StateInputs.of(GRID, typical_work(REQUESTS))
    return RoutingEnv(REQUESTS, [SCENARIO], Coupling(0.05, 5.0, 20_000.0), SPEED, OBJECTIVE, inputs, block)


@pytest.mark.filterwarnings("ignore:.*normalized space.*")
def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(environment(), skip_render_check=True)


def test_without_coupling_a_request_earns_what_the_cost_model_says() -> None:
    price = kappa(WORK, HERE, SPEED, OBJECTIVE) / OBJECTIVE.value_usd
    assert episode([0.0, 0.0], IDLE).serve(1.0, 2) == pytest.approx(2 * (1.0 - price))
    assert episode([0.0, 0.0], IDLE).serve(0.0, 2) == 0.0


def test_todays_offload_makes_tomorrows_wait() -> None:
    busy = episode([0.0, 0.2, 10.0], replace(IDLE, tokens_per_s=1000.0))
    alone = 1.0 - kappa(WORK, HERE, SPEED, OBJECTIVE) / OBJECTIVE.value_usd
    assert busy.serve(1.0, 1) == pytest.approx(alone)
    assert busy.state.queue_s == pytest.approx(0.8)  # a second of work, of which 0.2 s are done
    assert busy.serve(1.0, 1) == pytest.approx(alone - 0.8 * OBJECTIVE.second_usd / OBJECTIVE.value_usd)
    assert busy.state.queue_s == 0.0
    assert busy.serve(1.0, 1) == pytest.approx(alone)


def test_a_kept_draft_leaves_queue_and_budget_alone() -> None:
    kept = episode([0.0, 0.0], Coupling(1.0, 60.0, 1.0))
    kept.serve(0.0, 1)
    assert (kept.state.queue_s, kept.state.budget_left) == (0.0, 1.0)


def test_a_budget_runs_down_comes_back_with_time_and_refuses_what_it_cannot_give() -> None:
    coupling = Coupling(1500.0, 60.0, 1e9, "tokens")
    spending = episode([0.0, 0.0, 20.0], coupling)
    alone = 1.0 - kappa(WORK, HERE, SPEED, OBJECTIVE) / OBJECTIVE.value_usd
    assert spending.serve(1.0, 1) == pytest.approx(alone, abs=1e-4)
    assert spending.state.budget_left == pytest.approx(1 / 3)
    assert spending.serve(1.0, 1) == 0.0  # the draft, which is wrong
    assert spending.state.budget_left == pytest.approx(2 / 3)
    assert spending.serve(1.0, 1) == pytest.approx(alone, abs=1e-4)
    assert spending.done


def test_a_site_and_the_environment_see_the_same_budget() -> None:
    limits = Limits(LimitOptions(cap_offloads_per_hour=3600.0), OBJECTIVE, SPEED, lambda: now)
    spending, now = episode([0.0, 1.0, 900.0], Coupling(3_600_000.0, 3600.0, 1e9, "tokens")), 0.0
    for then in (1.0, 900.0):
        assert limits.allow(0.0) and spending.serve(1.0, 1) > 0.0
        now = then
        assert spending.state.budget_left == pytest.approx(limits.budget_left)


def test_utility_and_regret_add_up_to_the_same_for_every_threshold() -> None:
    drawn = draw(REQUESTS, 101, np.random.default_rng(1))
    sums = []
    for tau in (0.0, 0.6, 1.0):
        earned, missed = (Episode(drawn, SCENARIO, IDLE, SPEED, OBJECTIVE) for _ in range(2))
        regret = missed.regret(tau, 101)
        sums.append(earned.serve(tau, 101) + regret)
        assert regret > 0.0
    assert sums == pytest.approx([sums[0]] * 3)


def test_a_closed_form_sees_each_requests_own_work() -> None:
    assert episode([0.0], IDLE).work == WORK


def test_dollars_are_those_of_the_price_list() -> None:
    spending = episode([0.0, 0.0], Coupling(1.0, 60.0, 1e9))
    spending.serve(1.0, 1)
    money = 0.0005 + 900 * 0.3e-6 + 100 * 1.5e-6
    assert 1.0 - spending.state.budget_left == pytest.approx(money)


def test_a_link_that_is_down_keeps_every_draft() -> None:
    down = replace(HERE, link=LinkState(50.0, 2e6, 2e6, up=False))
    cut_off = episode([0.0], Coupling(1.0, 60.0, 1.0), down)
    assert cut_off.serve(1.0, 1) == 0.0
    assert cut_off.state.budget_left == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(-9, 9), min_size=11, max_size=11))
def test_the_same_seed_and_actions_give_the_same_rewards(seed: int, actions: list[float]) -> None:
    runs = []
    for _ in range(2):
        env = environment()
        env.reset(seed=seed)
        runs.append([env.step(np.array([a], dtype=np.float32))[1] for a in actions])
    assert runs[0] == runs[1]


def test_an_episode_ends_with_its_last_request_and_rewards_add_up() -> None:
    env = environment(block=7)
    env.reset(seed=3)
    rewards, ended = [], False
    while not ended:
        observation, reward, dead, ended, _ = env.step(np.array([0.4], dtype=np.float32))
        assert env.observation_space.contains(observation) and not dead
        rewards.append(reward)
    assert len(rewards) == -(-101 // 7)


def test_a_policy_plays_as_its_actions_do() -> None:
    one = Scenario([(0.0, HERE)], [0.0] * len(REQUESTS))
    coupling = Coupling(0.05, 5.0, 20_000.0)
    drawn = draw(REQUESTS, len(REQUESTS), np.random.default_rng(5))
    by_hand = Episode(drawn, one, coupling, SPEED, OBJECTIVE).serve(0.4, len(REQUESTS)) / len(REQUESTS)
    played = play(FixedThreshold(0.4), REQUESTS, [one], coupling, SPEED, OBJECTIVE, seed=5)
    assert played == pytest.approx([by_hand])


def test_requests_are_drawn_by_weight() -> None:
    some = replace(REQUESTS, weights=(np.arange(len(REQUESTS)) == 11).astype(float))
    assert (draw(some, 50, np.random.default_rng(0)).score == REQUESTS.score[11]).all()


def test_what_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="trace must hold"):
        Scenario([], [1.0])
    with pytest.raises(ValueError, match="arrivals_s must hold"):
        Scenario([(0.0, HERE)], [2.0, 1.0])
    with pytest.raises(ValueError, match="arrivals_s must be >="):
        Scenario([(1.0, HERE)], [0.5])
    with pytest.raises(ValueError, match="window_s"):
        replace(IDLE, window_s=0.0)
    with pytest.raises(ValueError, match="budget"):
        replace(IDLE, budget=0.0)
    with pytest.raises(ValueError, match="outcomes must hold 2 requests, got 1"):
        Episode(alike(1), Scenario([(0.0, HERE)], [0.0, 1.0]), IDLE, SPEED, OBJECTIVE)
    with pytest.raises(ValueError, match=r"link\.rtt_ms"):
        episode([0.0], IDLE, replace(HERE, link=LinkState(-1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="block >= 1"):
        environment(block=0)
