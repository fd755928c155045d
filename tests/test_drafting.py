"""Drafts that are not begun or not finished: what they save, and that a request never suffers for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_fakes import DOWN, NORTH, SOUTH, SURE, UNSURE, FakeEngine, NodeKit, TokenEngine, ask

from actors.draft_pace import ENOUGH, DraftPace
from actors.drafting import DraftOptions
from actors.edge_node import NodeOptions
from actors.engine import Completion, Generation
from actors.scorer import Scorer
from policies.calibration import Calibrator
from policies.errors import Unreachable
from policies.forecast import Forecast, ScoreSpread, cross_fitted
from policies.types import Reason, Route

WEAKEST_TOKEN = Calibrator((0.0,) * 6, (1.0,) * 6, (3.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0, 100)
EASY, HARD = "move the slice north", "negotiate the quarterly spectrum lease"


@pytest.fixture(scope="module")
def forecast() -> Forecast:
    questions = [EASY, HARD] * 100
    right = np.array([0.97, 0.02] * 100)
    prompt, unseen = cross_fitted(questions, [2] * 200, right, np.ones(200))
    return Forecast(prompt, ScoreSpread.fit(unseen, right))


async def kit_with(forecast: Forecast | None, edge: FakeEngine | None = None, **fields: Any) -> NodeKit:
    """A node that has seen enough drafts to know its pace."""
    drafting = fields.pop("drafting", DraftOptions(explore=0.0))
    edge = edge or TokenEngine()
    kit = NodeKit(edge, options=NodeOptions(audit_rate=0.0, drafting=drafting), **fields)
    kit.node._drafter._scorers.add(kit.edge.version, Scorer(WEAKEST_TOKEN, forecast))
    logprobs, edge.logprobs = edge.logprobs, SURE
    for _ in range(ENOUGH):
        await kit.node.answer(ask())
    edge.logprobs = logprobs
    edge.asked.clear()
    kit.cloud.asked.clear()
    kit.log.records.clear()
    return kit


def hard() -> Any:
    return ask(messages=[{"role": "user", "content": HARD}])


async def test_a_draft_that_would_hardly_be_kept_is_not_begun(forecast: Forecast) -> None:
    kit = await kit_with(forecast)
    answer = await kit.node.answer(hard())
    assert (answer.route, answer.reason, answer.served.text) == (Route.CLOUD, Reason.DRAFT_SKIPPED, SOUTH)
    assert kit.edge.asked == []
    [record] = kit.log.records
    assert (record.draft, record.propensity, record.draft_propensity, record.cloud) == ("", 1.0, 0.0, SOUTH)


async def test_a_draft_that_was_not_begun_is_priced_like_the_usual_one(forecast: Forecast) -> None:
    kit = await kit_with(forecast)
    [easy, skipped] = [await kit.node.answer(ask()), await kit.node.answer(hard())]
    assert skipped.reason is Reason.DRAFT_SKIPPED
    usual, guessed = easy.situation.work, skipped.situation.work
    assert guessed.output_tokens == usual.output_tokens > 0
    assert guessed.input_tokens == pytest.approx(usual.input_tokens, rel=0.2)


async def test_an_easy_prompt_is_drafted_as_ever(forecast: Forecast) -> None:
    kit = await kit_with(forecast)
    assert (await kit.node.answer(ask())).reason is Reason.SCORE_PASSED
    assert kit.log.records[0].draft_propensity == 1.0


async def test_a_share_of_hopeless_prompts_is_drafted_all_the_same_and_logged_with_its_probability(
    forecast: Forecast,
) -> None:
    kit = await kit_with(forecast, drafting=DraftOptions(explore=0.3))
    for _ in range(200):
        await kit.node.answer(hard())
    drafted = [record for record in kit.log.records if record.draft]
    assert 35 <= len(drafted) <= 85
    assert {record.draft_propensity for record in kit.log.records} == {0.3}


async def test_a_cloud_that_fails_after_a_skipped_draft_gets_a_whole_one_instead(forecast: Forecast) -> None:
    kit = await kit_with(forecast, cloud=FakeEngine(Unreachable("no answer")))
    answer = await kit.node.answer(hard())
    assert (answer.served.text, answer.reason, answer.degraded) == (NORTH, Reason.CLOUD_FAILED, True)
    assert kit.log.records[0].draft == NORTH


async def test_a_draft_that_can_no_longer_be_kept_is_abandoned_and_the_cloud_answers() -> None:
    kit = await kit_with(None, TokenEngine(logprobs=UNSURE))
    answer = await kit.node.answer(ask())
    assert (answer.reason, answer.served.text) == (Reason.DRAFT_ABANDONED, SOUTH)
    [record] = kit.log.records
    assert 0 < len(record.draft_logprobs) < len(UNSURE)
    assert record.score == 0.0


async def test_an_abandoned_draft_is_made_whole_when_the_cloud_fails() -> None:
    kit = await kit_with(None, TokenEngine(logprobs=UNSURE), cloud=FakeEngine(Unreachable("no answer")))
    answer = await kit.node.answer(ask())
    assert (answer.served.text, answer.degraded) == (NORTH, True)
    assert [sampling.watch is None for _, sampling in kit.edge.asked] == [False, True]


@pytest.mark.parametrize("fields", [{"link": DOWN}, {"edge_only": True}])
async def test_without_a_cloud_to_ask_every_draft_is_made_to_the_end(
    forecast: Forecast, fields: dict[str, Any]
) -> None:
    kit = await kit_with(forecast, TokenEngine(logprobs=UNSURE), **fields)
    assert (await kit.node.answer(hard())).served.text == NORTH
    assert kit.edge.asked[0][1].watch is None


async def test_both_early_decisions_can_be_switched_off(forecast: Forecast) -> None:
    edge = TokenEngine(logprobs=UNSURE)
    kit = await kit_with(forecast, edge, drafting=DraftOptions(before=False, during=False))
    assert (await kit.node.answer(hard())).reason is Reason.SCORE_BELOW
    assert len(kit.log.records[0].draft_logprobs) == len(UNSURE)


async def test_a_node_that_does_not_know_its_pace_yet_decides_nothing_early(forecast: Forecast) -> None:
    kit = NodeKit(TokenEngine(logprobs=UNSURE), options=NodeOptions(audit_rate=0.0))
    kit.node._drafter._scorers.add(kit.edge.version, Scorer(WEAKEST_TOKEN, forecast))
    assert (await kit.node.answer(hard())).reason is Reason.SCORE_BELOW


def test_pace_follows_recent_drafts_and_ignores_abandoned_ones() -> None:
    pace = DraftPace()
    whole = Generation((Completion("x", (-0.1,) * 20, "stop", 20),), 100, "v", 0.0)
    cut = Generation((Completion("x", (-0.1,) * 2, "abandoned", 2),), 100, "v", 0.0)
    for _ in range(ENOUGH):
        pace.observe(whole, 0.1, 400)
        pace.observe(cut, 9.0, 400)
    assert pace.known
    assert (pace.draft_tokens, pace.draft_s) == pytest.approx((20.0, 0.1))
    assert (pace.long_draft, pace.tokens_per_byte) == pytest.approx((20.0, 0.25))
