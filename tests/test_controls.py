"""What a client may say about the way of its request: who answers, for how much, by when, and that it stays here."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from edge_fakes import DOWN, MOVE, SOUTH, UNSURE, WEST, FakeEngine, NodeKit
from hypothesis import given
from hypothesis import strategies as st

from actors.chat import ChatRequest
from actors.controls import FREE, Controls, barred, wished
from actors.edge_node import NodeOptions
from actors.limits import LimitOptions, Limits
from policies.errors import Refused
from policies.types import Decision, Reason, Route

AMOUNTS = st.floats(0, 1e6)


def asking(**controls: object) -> ChatRequest:
    said = [{"role": "user", "content": "move it north"}]
    return ChatRequest(said, [MOVE], request_id="r1", controls=Controls(**controls))  # type: ignore[arg-type]


@given(st.sampled_from(Route), st.sampled_from(Reason), st.booleans())
def test_without_a_word_of_the_client_the_policy_stands(route: Route, reason: Reason, link_up: bool) -> None:
    made = Decision(route, reason, 0.5, 0.7, 0.1)
    assert wished(made, FREE, link_up) is made


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_without_limits_of_the_client_nothing_is_barred(usd: float, expected_s: float, spent_s: float) -> None:
    assert barred(FREE, usd, expected_s, spent_s) is None


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_the_deadline_counts_what_was_spent_already(
    deadline_s: float, expected_s: float, spent_s: float, usd: float
) -> None:
    late = barred(Controls(deadline_s=deadline_s), usd, expected_s, spent_s) is Reason.TOO_LATE
    assert late == (expected_s > max(deadline_s - spent_s, 0.0))


async def test_the_cloud_that_is_asked_for_answers_without_a_draft() -> None:
    kit = NodeKit(cloud=FakeEngine(SOUTH))
    answer = await kit.node.answer(asking(route=Route.CLOUD))
    assert (answer.route, answer.reason, answer.served.text) == (Route.CLOUD, Reason.CLOUD_ASKED, SOUTH)
    assert kit.edge.asked == []
    [record] = kit.log.records
    assert (record.propensity, record.draft_propensity, record.cloud) == (1.0, 0.0, SOUTH)


async def test_the_cloud_that_is_asked_for_and_fails_is_stood_in_for() -> None:
    kit = NodeKit(cloud=FakeEngine(Refused("busy", 503)))
    answer = await kit.node.answer(asking(route=Route.CLOUD))
    assert (answer.route, answer.reason, answer.degraded) == (Route.EDGE, Reason.CLOUD_FAILED, True)
    assert len(kit.edge.asked) == 1


async def test_over_a_link_that_is_down_no_wish_leads_to_the_cloud() -> None:
    kit = NodeKit(link=DOWN)
    answer = await kit.node.answer(asking(route=Route.CLOUD))
    assert (answer.route, answer.reason, kit.cloud.asked) == (Route.EDGE, Reason.LINK_DOWN, [])


async def test_hard_caps_go_before_a_clients_wish() -> None:
    snapshot, _ = NodeKit().node.rules.current()
    none = Limits(LimitOptions(cap_offloads_per_hour=0.0, safe_threshold=0.0), snapshot.objective, snapshot.speed)
    kit = NodeKit(limits=none)
    answer = await kit.node.answer(asking(route=Route.CLOUD))
    assert (answer.route, answer.reason, kit.cloud.asked) == (Route.EDGE, Reason.CAP_REACHED, [])


@pytest.mark.parametrize("controls", [{"route": Route.EDGE}, {"private": True}])
async def test_what_is_to_stay_stays_even_if_it_is_surely_wrong(controls: dict[str, object]) -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), options=NodeOptions(audit_rate=1.0))
    answer = await kit.node.answer(asking(**controls))
    await kit.node.close()
    assert (answer.route, answer.reason, answer.decision.propensity) == (Route.EDGE, Reason.EDGE_ASKED, 0.0)
    assert kit.cloud.asked == []


async def test_what_is_to_stay_and_has_no_valid_draft_is_refused() -> None:
    kit = NodeKit(FakeEngine(WEST))
    with pytest.raises(Refused, match="edge_asked") as refused:
        await kit.node.answer(asking(route=Route.EDGE))
    assert (refused.value.status, kit.cloud.asked) == (503, [])


async def test_of_a_private_request_no_record_is_kept() -> None:
    kit = NodeKit()
    await kit.node.answer(asking(private=True))
    assert kit.log.records == []
    await kit.node.answer(replace(asking(), request_id="r2"))
    assert [record.request_id for record in kit.log.records] == ["r2"]


async def test_a_deadline_cuts_a_cloud_that_takes_longer_and_the_draft_stands_in() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    kit.cloud.gate = asyncio.Event()
    answer = await kit.node.answer(asking(deadline_s=0.5))
    assert (answer.route, answer.reason) == (Route.EDGE, Reason.CLOUD_FAILED)
    assert answer.cloud is not None and "left" in str(answer.cloud.error)
    assert 0.4 < answer.seconds < 2.0
    assert kit.link.offloads == []  # a client in a hurry says nothing about the link


async def test_a_deadline_that_the_draft_does_not_meet_is_refused() -> None:
    kit = NodeKit()
    kit.edge.gate = asyncio.Event()
    with pytest.raises(Refused, match="deadline") as refused:
        await kit.node.answer(asking(deadline_s=0.05))
    assert refused.value.status == 504
    assert kit.edge.cancelled == 1
