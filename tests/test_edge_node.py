"""One request's life at the edge: draft, score, decide, answer, log; and what happens when things break."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from edge_fakes import (
    DOWN,
    GOOD,
    MOVE,
    NORTH,
    SNAPSHOT,
    SOUTH,
    SURE,
    UNSURE,
    WEST,
    FakeEngine,
    NodeKit,
    ask,
    until,
)

from actors.drafting import DraftOptions
from actors.edge_node import NodeOptions
from actors.engine import Completion, Generation, Prompt, Sampling
from policies.errors import BadRequest, ContextTooLong, EngineError, Refused, Unreachable
from policies.types import Prices, Reason, Route


async def test_a_sure_draft_is_served_from_the_edge_and_logged_once() -> None:
    kit = NodeKit()
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.degraded) == (Route.EDGE, Reason.SCORE_PASSED, False)
    assert answer.served.text == NORTH
    assert answer.served.version == "edge-0001-aaaaaaaa"
    assert answer.decision.score >= answer.decision.threshold
    assert not kit.cloud.asked
    [record] = kit.log.records
    assert (record.route, record.draft, record.answer, record.cloud, record.propensity) == (
        "edge",
        NORTH,
        NORTH,
        None,
        0,
    )
    assert record.draft_logprobs == SURE


async def test_an_unsure_draft_goes_to_the_cloud_and_both_answers_are_logged() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason) == (Route.CLOUD, Reason.SCORE_BELOW)
    assert answer.served.text == SOUTH
    assert answer.served.version == "cloud-1"
    assert answer.cost_usd == pytest.approx((100 * 1.0 + 8 * 2.0) / 1e6)
    [record] = kit.log.records
    assert (record.draft, record.cloud, record.answer, record.propensity) == (NORTH, SOUTH, SOUTH, 1.0)
    assert (record.up_bytes, record.down_bytes, record.cost_usd) == (500, 300, answer.cost_usd)
    assert kit.link.offloads == [(500, 300, True)]


class CachedEngine(FakeEngine):
    """A cloud that finds most of every prompt in its cache."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        return replace(await super().generate(prompt, sampling), cached_tokens=80)


async def test_cached_tokens_are_billed_logged_and_expected_of_the_next_call() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), CachedEngine(SOUTH))
    kit.rules.apply(replace(SNAPSHOT, prices=Prices(input_usd_per_mtok=1.0, cached_usd_per_mtok=0.1)))
    answers = [await kit.node.answer(ask()) for _ in range(60)]
    assert answers[0].situation.work.cached_tokens == 0
    assert answers[-1].situation.work.cached_tokens == pytest.approx(80, abs=5)
    assert answers[-1].cost_usd == pytest.approx((20 * 1.0 + 80 * 0.1) / 1e6)
    assert kit.log.records[-1].cloud_cached_tokens == 80
    assert kit.node.gauges()["cloud_cost_relative_error"] < 0.1


async def test_the_wait_at_the_cloud_is_part_of_the_state_and_of_the_record() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    first = await kit.node.answer(ask())
    for seconds in (0.01, 9.0, 9.0):
        kit.node.limits.cloud.called(first.situation.work, first.situation.work, first.situation.state, seconds)
    answer = await kit.node.answer(ask())
    assert answer.situation.state.queue_s == pytest.approx(8.8, abs=0.3)
    assert kit.log.records[-1].queue_s == answer.situation.state.queue_s


@pytest.mark.parametrize("draft", [WEST, "<tool_call>{", "", '<tool_call>{"name":"fly","arguments":{}}</tool_call>'])
async def test_an_invalid_draft_scores_zero_and_never_stays(draft: str) -> None:
    kit = NodeKit(FakeEngine(draft), threshold=0.0)
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.decision.score) == (Route.CLOUD, Reason.DRAFT_INVALID, 0.0)
    assert kit.log.records[0].draft_error


@pytest.mark.parametrize("why", [Unreachable("no answer"), Refused("busy", 503)])
async def test_a_failing_cloud_leaves_the_best_valid_draft_and_says_degraded(why: EngineError) -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), FakeEngine(why))
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.degraded) == (Route.EDGE, Reason.CLOUD_FAILED, True)
    assert answer.served.text == NORTH
    [record] = kit.log.records
    assert (record.degraded, record.cloud) == (True, None)
    assert str(why) in (record.cloud_error or "")
    assert kit.link.offloads[0][2] is isinstance(why, Refused)


async def test_without_cloud_and_without_a_valid_draft_the_request_is_refused_and_not_logged() -> None:
    kit = NodeKit(FakeEngine(WEST), FakeEngine(Unreachable("no answer")))
    with pytest.raises(Refused) as refused:
        await kit.node.answer(ask())
    assert refused.value.status == 503
    assert kit.log.records == []
    assert kit.node.gauges()["refused"] == 1


async def test_without_cloud_a_call_that_failed_is_drafted_again_under_a_grammar() -> None:
    edge = FakeEngine(lambda prompt: NORTH if prompt.schema else WEST)
    answer = await NodeKit(edge, FakeEngine(Unreachable("no answer"))).node.answer(ask())
    assert (answer.served.text, answer.degraded) == (NORTH, True)
    assert [bool(prompt.schema) for prompt, _ in edge.asked] == [False, True]


async def test_without_cloud_prose_that_is_no_answer_is_not_turned_into_a_call() -> None:
    edge = FakeEngine(lambda prompt: NORTH if prompt.schema else "")
    with pytest.raises(Refused):
        await NodeKit(edge, FakeEngine(Unreachable("no answer"))).node.answer(ask())


async def test_an_invalid_answer_of_the_cloud_is_not_served_and_not_a_label_but_paid() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), FakeEngine(WEST))
    answer = await kit.node.answer(ask())
    assert (answer.served.text, answer.degraded) == (NORTH, True)
    [record] = kit.log.records
    assert record.cloud is None
    assert record.cost_usd > 0


async def test_while_the_link_is_down_the_cloud_is_not_attempted() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), link=DOWN)
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.degraded) == (Route.EDGE, Reason.LINK_DOWN, True)
    assert not kit.cloud.asked
    assert kit.log.records[0].propensity == 0.0


async def test_a_broken_edge_engine_sends_its_requests_to_the_cloud() -> None:
    kit = NodeKit(FakeEngine(EngineError("model /m: its engine stopped")))
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.served.text) == (Route.CLOUD, SOUTH)
    assert "engine stopped" in (kit.log.records[0].draft_error or "")


@pytest.mark.parametrize("alone", [{"edge_only": True}, {"link": DOWN}])
async def test_a_request_no_model_can_answer_is_the_callers_mistake(alone: dict[str, Any]) -> None:
    kit = NodeKit(FakeEngine(ContextTooLong(2000, 1, 1024)), **alone)
    with pytest.raises(BadRequest, match="2000 tokens"):
        await kit.node.answer(ask())
    assert not kit.cloud.asked
    assert kit.node.gauges()["bad_requests"] == 1


async def test_a_prompt_too_long_for_the_edge_goes_to_the_cloud() -> None:
    kit = NodeKit()
    await kit.node.answer(ask())  # how long answers are is known from others
    kit.edge.reply = ContextTooLong(2000, 1, 1024)
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.served.text, answer.decision.reason) == (Route.CLOUD, SOUTH, Reason.DRAFT_INVALID)
    assert "2000 tokens" in (kit.log.records[1].draft_error or "")
    assert answer.situation.work.output_tokens > 0


async def test_a_site_without_a_cloud_serves_whatever_is_valid() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE), edge_only=True, threshold=1.0)
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.degraded) == (Route.EDGE, Reason.SCORE_PASSED, False)


async def test_threshold_one_is_cloud_only() -> None:
    kit = NodeKit(FakeEngine(logprobs=(0.0,) * 4), threshold=1.0)
    assert (await kit.node.answer(ask())).route is Route.CLOUD


async def test_an_audited_answer_is_served_first_and_logged_once_with_the_clouds_answer() -> None:
    cloud = FakeEngine(SOUTH)
    cloud.gate = asyncio.Event()
    kit = NodeKit(cloud=cloud, options=NodeOptions(audit_rate=1.0))
    answer = await kit.node.answer(ask())
    assert answer.served.text == NORTH
    assert answer.cost_usd == 0.0
    assert kit.log.records == []
    cloud.gate.set()
    await until(lambda: bool(kit.log.records))
    [record] = kit.log.records
    assert (record.answer, record.cloud, record.propensity, record.route) == (NORTH, SOUTH, 1.0, "edge")
    assert record.cost_usd > 0


async def test_audits_are_bounded_and_the_logged_propensity_says_so() -> None:
    cloud = FakeEngine(SOUTH)
    cloud.gate = asyncio.Event()
    kit = NodeKit(cloud=cloud, options=NodeOptions(audit_rate=1.0, audit_limit=2))
    for _ in range(4):
        await kit.node.answer(ask())
        await asyncio.sleep(0)
    assert len(cloud.asked) == 2
    assert [record.propensity for record in kit.log.records] == [0.0, 0.0]
    cloud.gate.set()
    await kit.node.close()
    assert sorted(record.propensity for record in kit.log.records) == [0.0, 0.0, 1.0, 1.0]


async def test_the_audit_rate_is_met_on_average() -> None:
    kit = NodeKit(options=NodeOptions(audit_rate=0.25))
    for _ in range(400):
        await kit.node.answer(ask())
        await asyncio.sleep(0)
    await kit.node.close()
    audited = sum(record.cloud is not None for record in kit.log.records)
    assert len(kit.log.records) == 400
    assert abs(audited - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)
    assert {record.propensity for record in kit.log.records} == {0.25}


async def test_closing_cuts_a_stuck_audit_and_still_logs_its_request() -> None:
    cloud = FakeEngine(SOUTH)
    cloud.gate = asyncio.Event()
    kit = NodeKit(cloud=cloud, options=NodeOptions(audit_rate=1.0))
    await kit.node.answer(ask())
    await kit.node.close(grace_s=0.01)
    [record] = kit.log.records
    assert (record.cloud, record.cloud_error) == (None, "the audit was cut off")
    assert cloud.cancelled == 1


async def test_a_log_that_fails_is_counted_and_never_felt(caplog: pytest.LogCaptureFixture) -> None:
    kit = NodeKit()
    kit.log.error = OSError("disk full")
    assert (await kit.node.answer(ask())).served.text == NORTH
    assert kit.node.gauges()["log_failures"] == 1


@pytest.mark.parametrize("stage", ["edge", "cloud"])
async def test_cancelling_a_request_cancels_what_it_waits_for(stage: str) -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    engine = kit.edge if stage == "edge" else kit.cloud
    engine.gate = asyncio.Event()
    task = asyncio.create_task(kit.node.answer(ask()))
    await until(lambda: bool(engine.asked))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == 1
    assert kit.log.records == []
    assert kit.node.gauges()["cancelled"] == 1


async def test_the_best_valid_of_several_drafts_is_kept() -> None:
    class Several(FakeEngine):
        async def generate(self, prompt: Prompt, sampling: Sampling):  # type: ignore[no-untyped-def]
            made = await super().generate(prompt, sampling)
            texts = [(WEST, SURE), (SOUTH, UNSURE), (NORTH, SURE)]
            return replace(made, completions=tuple(Completion(t, p, "stop", 8) for t, p in texts[: sampling.n]))

    kit = NodeKit(Several(), options=NodeOptions(audit_rate=0.0, drafting=DraftOptions(samples=3)))
    assert (await kit.node.answer(ask())).served.text == NORTH


async def test_a_snapshot_changes_decisions_and_a_senseless_one_is_ignored() -> None:
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    dear = replace(SNAPSHOT, seq=2, prices=Prices(output_usd_per_mtok=1000.0))
    kit.rules.apply(dear)
    assert (await kit.node.answer(ask())).cost_usd == pytest.approx(8 * 1000 / 1e6)
    kit.rules._build = lambda snapshot: (_ for _ in ()).throw(ValueError("value_usd"))
    kit.rules.apply(replace(SNAPSHOT, seq=3))
    assert kit.rules.refused == 1
    assert kit.log.records[0].prices == dear.prices


async def test_equal_questions_have_equal_hashes_and_others_do_not() -> None:
    assert ask().question_hash == ask(request_id="other").question_hash
    assert ask().question_hash != ask(tools=[MOVE]).question_hash
    assert ask().question_hash != ask(tool_choice="required").question_hash


async def test_gauges_are_flat_numbers() -> None:
    kit = NodeKit(link=GOOD)
    await kit.node.answer(ask())
    gauges = kit.node.gauges()
    assert all(isinstance(value, float) for value in gauges.values())
    assert gauges["requests_edge"] == 1
    assert gauges["requests_cloud"] == 0
    assert gauges["link_rtt_ms"] == 40.0
    assert gauges["log_lag"] == 0.0
