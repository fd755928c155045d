"""The coupled world, what is tuned in it, and the search a policy for it starts from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_soft_gate import OBJECTIVE, SPEED, requests

from orchestrator.coupled import Coupled, best_fixed, best_priced, coupling, expected, scenarios, worlds
from orchestrator.train_policy import design
from policies.coupled_search import Shape, search
from policies.policynet import PolicyNet
from policies.soft_gate import fit_policynet
from policies.threshold import FixedThreshold, OptimalThreshold
from policies.types import CloudWork, Prices, RoutingState

PRICES, WORK = Prices(0.0005, 0.3, 0.03, 1.5), CloudWork(4000, 1000, 900, 100)
TRAIN, HELD = requests(1000, 1), requests(1000, 2)
STATES = design(PRICES, 40, 0)


@cache
def net() -> PolicyNet:
    return fit_policynet(TRAIN, STATES, SPEED, OBJECTIVE)


def world(count: int, held_out: bool = False) -> Coupled:
    outcomes = HELD if held_out else TRAIN
    return Coupled(outcomes, scenarios(PRICES, count, 0, held_out), coupling(TRAIN), SPEED, OBJECTIVE)


def test_scenarios_held_out_are_other_parts_of_the_traces() -> None:
    first, again = (scenarios(PRICES, 3, 0, True) for _ in range(2))
    other = scenarios(PRICES, 3, 0, False)
    shown, hidden = ({state.link.up_bps for one in some for _, state in one.trace} for some in (other, first))
    assert first == again
    assert len(shown) > 50
    assert len(shown & hidden) < 0.5 * len(hidden)  # rates are whole packets a second: some coincide


def test_requests_come_in_bursts() -> None:
    counts = np.concatenate(
        [np.histogram(one.arrivals_s, np.arange(0, 301, 60))[0] for one in scenarios(PRICES, 60, 0, False)]
    )
    assert 200 < counts.mean() < 280
    assert 0.5 < counts.std() / counts.mean() < 0.9  # a steady stream of as many would have 0.06


def test_the_world_to_choose_in_shows_nothing_of_the_one_to_judge_in() -> None:
    train, choose, judge = worlds((TRAIN, HELD), PRICES, SPEED, OBJECTIVE, 0)
    assert train.outcomes is choose.outcomes is TRAIN and judge.outcomes is HELD
    starts = [{one.arrivals_s[0] for one in each.scenarios} for each in (train, choose, judge)]
    assert not any(a & b for a, b in pairwise(starts))


def test_expected_answers_are_as_often_right_and_rise_with_the_score() -> None:
    some = expected(TRAIN)
    assert some.edge_right.mean() == pytest.approx(TRAIN.edge_right.mean())
    assert some.cloud_right.mean() == pytest.approx(TRAIN.cloud_right.mean())
    assert (np.diff(some.edge_right) >= 0).all() and (np.diff(some.score) >= 0).all()


def test_what_is_tuned_is_the_best_of_what_was_tried() -> None:
    here = world(2)
    fixed, priced = best_fixed(here), best_priced(here)
    assert here.earned(fixed) >= max(here.earned(FixedThreshold(tau)) for tau in (0.0, 1.0))
    assert here.earned(priced, 5) >= here.earned(OptimalThreshold(OBJECTIVE, SPEED, curve=priced.curve), 5)


def test_every_rule_meets_the_same_requests() -> None:
    here = world(2)
    assert (here.by_scenario(FixedThreshold(0.5)) == here.by_scenario(FixedThreshold(0.5))).all()
    assert here.earned(FixedThreshold(0.5)) != replace(here, seed=1).earned(FixedThreshold(0.5))


def test_a_shape_of_one_and_nothing_else_is_the_network_itself() -> None:
    same = Shape(1.0, 0.0, 0.0, 0.0).of(net())
    for state in STATES:
        assert same.threshold(state, WORK) == pytest.approx(net().threshold(state, WORK))


@settings(deadline=None)
@given(st.sampled_from(STATES), st.floats(0, 5), st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5), st.floats(0, 1))
def test_a_shape_adds_on_the_logit(
    state: RoutingState, factor: float, offset: float, queue: float, budget: float, left: float
) -> None:
    here = replace(state, budget_left=left)
    tau = net().threshold(here, WORK)
    x = net().inputs.encode(here)
    logit = factor * np.log(tau / (1 - tau)) + offset + queue * x[-2] + budget * x[-1]
    found = Shape(factor, offset, queue, budget).of(net()).threshold(here, WORK)
    assert found == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-6, abs=1e-9)


def test_a_search_ends_no_lower_than_it_starts_and_above_both_starts_in_a_coupled_world() -> None:
    here = world(2)
    fixed = best_fixed(here)
    found = search(net(), fixed.value, lambda policy: here.earned(policy, 40))
    assert here.earned(found, 40) > max(here.earned(net(), 40), here.earned(fixed))


def test_a_shape_never_turns_an_input_round() -> None:
    with pytest.raises(ValueError, match="first must be >= 0"):
        Shape(1.0, 0.0, -1.0, 0.0).of(net())
