"""Budgets, caps, guarantee and alarm around a threshold: which wins, and what a client feels of it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edge_fakes import GOOD, NORTH, SNAPSHOT, SOUTH, SURE, UNSURE, WEST, FakeEngine, NodeKit, TokenEngine, ask, until

from actors.answer import Answer, Draft, Served, Situation
from actors.edge_node import NodeOptions
from actors.engine import Completion
from actors.limits import PROOF_SIZE, REFERENCE_SCORES, LimitOptions, Limits
from policies.budget import Budgets
from policies.errors import Refused
from policies.toolcalls import parse
from policies.types import CloudWork, Decision, LinkState, Reason, Route, RoutingState

STATE, WORK = RoutingState(GOOD, SNAPSHOT.prices), CloudWork(1000, 500, 200, 20)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(clock: Clock | None = None, **fields: Any) -> Limits:
    return Limits(LimitOptions(**fields), SNAPSHOT.objective, SNAPSHOT.speed, clock or Clock(), random.Random(0))


def kit_with(limits: Limits, edge: FakeEngine | None = None, audit_rate: float = 0.0, **fields: Any) -> NodeKit:
    return NodeKit(edge, options=NodeOptions(audit_rate=audit_rate), limits=limits, **fields)


async def test_a_cap_is_never_exceeded_and_drafts_are_served_instead() -> None:
    clock = Clock()
    kit = kit_with(limited(clock, cap_offloads_per_hour=3.0), FakeEngine(logprobs=UNSURE))
    answers = [await kit.node.answer(ask()) for _ in range(5)]
    assert [answer.route for answer in answers] == [Route.CLOUD] * 3 + [Route.EDGE] * 2
    assert answers[-1].reason is Reason.CAP_REACHED
    assert answers[-1].degraded
    assert kit.log.records[-1].propensity == 0.0
    clock.now += 1200.0  # a third of an hour: one more
    assert [(await kit.node.answer(ask())).route for _ in range(2)] == [Route.CLOUD, Route.EDGE]


async def test_a_cap_in_dollars_counts_what_was_paid_not_what_might_have_been() -> None:
    paid = (100 * 1.0 + 8 * 2.0) / 1e6
    most = paid + 256 * 2.0 / 1e6  # an answer as long as max_tokens allows
    kit = kit_with(limited(cap_usd_per_hour=most + 2.5 * paid), FakeEngine(logprobs=UNSURE))
    routes = [(await kit.node.answer(ask())).route for _ in range(5)]
    assert routes == [Route.CLOUD] * 3 + [Route.EDGE] * 2


async def test_a_cap_in_dollars_counts_on_nothing_being_cached() -> None:
    most = (100 * 1.0 + 256 * 2.0) / 1e6
    limits = limited(cap_usd_per_hour=0.99 * most)
    for _ in range(100):
        limits.cloud.called(WORK, replace(WORK, cached_tokens=WORK.input_tokens), STATE, 0.2)
    answer = await kit_with(limits, FakeEngine(logprobs=UNSURE)).node.answer(ask())
    assert answer.situation.work.cached_tokens > 90
    assert answer.reason is Reason.CAP_REACHED


async def test_audits_count_against_a_cap_and_stop_at_it() -> None:
    kit = kit_with(limited(cap_offloads_per_hour=2.0), audit_rate=1.0)
    for _ in range(5):
        await kit.node.answer(ask())
        await kit.node.close()
    assert len(kit.cloud.asked) == 2
    assert [record.cloud_error for record in kit.log.records] == [None, None, *["a cap is reached"] * 3]


async def test_a_reached_cap_and_no_valid_draft_is_a_refusal_that_says_so() -> None:
    kit = kit_with(limited(cap_offloads_per_hour=0.0), FakeEngine(WEST))
    with pytest.raises(Refused, match="cap"):
        await kit.node.answer(ask())


async def test_an_offload_budget_lowers_the_threshold_until_it_is_met() -> None:
    edge = FakeEngine(logprobs=(-0.15,) * 8)
    kit = kit_with(limited(budgets=Budgets(offload_rate=0.25), safe_threshold=0.0), edge, threshold=0.95)
    answers = [await kit.node.answer(ask()) for _ in range(400)]
    late = [answer.route is Route.CLOUD for answer in answers[100:]]
    assert sum(late) / len(late) == pytest.approx(0.25, abs=0.05)


async def test_a_guarantee_sends_everything_away_until_labels_prove_the_edge_right() -> None:
    kit = kit_with(limited(risk=0.1), FakeEngine(NORTH), cloud=FakeEngine(NORTH), audit_rate=0.2)
    routes = [(await kit.node.answer(ask())).route for _ in range(3 * PROOF_SIZE)]
    assert routes == [Route.CLOUD] * PROOF_SIZE + [Route.EDGE] * 2 * PROOF_SIZE


async def test_drafts_go_on_being_made_while_a_guarantee_is_not_proved_yet() -> None:
    kit = kit_with(limited(risk=0.1), TokenEngine(NORTH), cloud=FakeEngine(NORTH), audit_rate=0.2, threshold=0.5)
    routes = [(await kit.node.answer(ask())).route for _ in range(3 * PROOF_SIZE)]
    assert all(len(record.draft_logprobs) == len(SURE) for record in kit.log.records)
    assert routes[-1] is Route.EDGE


async def test_a_guarantee_is_never_given_to_an_edge_that_is_wrong() -> None:
    kit = kit_with(limited(risk=0.1), FakeEngine(NORTH), cloud=FakeEngine(SOUTH))
    assert {(await kit.node.answer(ask())).route for _ in range(4 * PROOF_SIZE)} == {Route.CLOUD}


async def test_new_weights_have_to_prove_themselves_again() -> None:
    edge = FakeEngine(NORTH)
    kit = kit_with(limited(risk=0.1), edge, cloud=FakeEngine(NORTH))
    for _ in range(PROOF_SIZE + 1):
        await kit.node.answer(ask())
    edge.version = "edge-0002-bbbbbbbb"
    assert [(await kit.node.answer(ask())).route for _ in range(2)][-1] is Route.CLOUD


async def test_labels_that_contradict_the_scores_raise_the_threshold_and_the_gauge() -> None:
    edge = FakeEngine(NORTH, SURE)
    kit = kit_with(limited(safe_threshold=0.99), edge, cloud=FakeEngine(SOUTH), audit_rate=1.0)
    for _ in range(REFERENCE_SCORES + 150):
        await kit.node.answer(ask())
        await kit.node.close()
    assert kit.node.gauges()["drift_alarm"] == 1.0
    assert (await kit.node.answer(ask())).decision.threshold >= 0.99


def answers(limits: Limits, expected: list[float], score: float) -> None:
    """Requests whose prompts promise ``expected`` and whose drafts score ``score``."""
    draft = Draft(Completion(NORTH, SURE, "stop", 8), parse(NORTH), None, score, "v", 100, 0.1)
    for value in expected:
        decision = Decision(Route.EDGE, Reason.SCORE_PASSED, score, 0.5, 0.0)
        situation = Situation(STATE, SNAPSHOT, "fixed", 0.5, 0.0, WORK)
        served = Served.draft(draft)
        made = Answer(ask(), situation, replace(draft, expected=value), decision, served, *_EDGE, 0.1)
        limits.answered(made)


_EDGE = (Route.EDGE, Reason.SCORE_PASSED)


def test_other_traffic_raises_the_alarm_and_scores_that_move_with_the_threshold_do_not() -> None:
    steady = np.random.default_rng(0).beta(4, 2, 1500).tolist()
    limits = limited(safe_threshold=0.95)
    answers(limits, steady[:750], 0.9)
    answers(limits, steady[750:], 0.3)
    assert limits.gauges()["drift_alarm"] == 0.0
    answers(limits, [0.2 * value for value in steady[:300]], 0.3)
    assert limits.gauges()["drift_alarm"] == 1.0
    assert limits.floor == 0.95


def test_without_budgets_the_threshold_is_the_policys_own() -> None:
    assert limited().threshold(0.7, STATE, WORK, SNAPSHOT.objective) == 0.7


async def test_the_clouds_speed_is_learnt_from_offloads_and_moves_the_rules() -> None:
    limits = limited()
    kit = kit_with(limits, FakeEngine(logprobs=UNSURE))
    for _ in range(60):
        limits.cloud.called(WORK, WORK, STATE, 2.0)
    assert limits.cloud.speed.ttft_s + 20 * limits.cloud.speed.per_token_s > 1.0
    await kit.node.answer(ask())
    assert kit.rules._speed == limits.cloud.speed


async def test_an_audit_waits_until_no_client_waits_for_the_link() -> None:
    edge = FakeEngine(logprobs=UNSURE)
    kit = kit_with(limited(), edge, audit_rate=1.0)
    kit.cloud.gate = asyncio.Event()
    offload = asyncio.create_task(kit.node.answer(ask()))
    await until(lambda: len(kit.cloud.asked) == 1)
    edge.logprobs = SURE
    assert (await kit.node.answer(ask())).route is Route.EDGE
    await asyncio.sleep(0.02)
    assert len(kit.cloud.asked) == 1, "the audit waits"
    kit.cloud.gate.set()
    await offload
    await until(lambda: len(kit.log.records) == 2)
    assert [record.propensity for record in kit.log.records] == [1.0, 1.0]
    assert kit.log.records[1].cloud == SOUTH


async def test_a_narrow_link_carries_no_audits() -> None:
    narrow = replace(GOOD, up_bps=500.0)
    kit = kit_with(limited(), audit_rate=1.0, link=LinkState(narrow.rtt_ms, narrow.up_bps, narrow.down_bps))
    await kit.node.answer(ask())
    assert kit.log.records[0].propensity == 0.0
    assert not kit.cloud.asked
