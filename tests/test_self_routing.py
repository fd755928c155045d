"""A model that asks for help: the cloud answers, and the marker never reaches a client."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edge_fakes import DOWN, NORTH, SOUTH, FakeEngine, NodeKit, ask

from actors.drafting import DraftOptions
from actors.edge_node import NodeOptions
from actors.engine import Generation, Prompt, Sampling
from policies.errors import Refused, Unreachable
from policies.help_marker import HELP, asks_for_help
from policies.types import Reason, Route

ASKING = [HELP, f"I tried to move it. {HELP}", "I do not know the slice. I need external assistance."]


@pytest.mark.parametrize("said", ASKING)
async def test_a_model_that_asks_for_help_gets_it_however_sure_it_was(said: str) -> None:
    kit = NodeKit(FakeEngine(said))
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.reason, answer.served.text) == (Route.CLOUD, Reason.DRAFT_ASKED_HELP, SOUTH)
    [record] = kit.log.records
    assert (record.score, record.propensity, record.reason) == (0.0, 1.0, Reason.DRAFT_ASKED_HELP)
    assert record.draft == said and not asks_for_help(record.answer)


async def test_without_a_cloud_it_gets_a_second_attempt_under_a_grammar() -> None:
    def reply(prompt: Prompt) -> str:
        return NORTH if prompt.schema else HELP

    for kit in (NodeKit(FakeEngine(reply), link=DOWN), NodeKit(FakeEngine(reply), cloud=FakeEngine(Unreachable("")))):
        answer = await kit.node.answer(ask())
        assert (answer.route, answer.served.text) == (Route.EDGE, NORTH)
        assert not asks_for_help(kit.log.records[0].answer)


async def test_where_no_grammar_can_help_it_is_refused_and_the_marker_is_not_shown() -> None:
    kit = NodeKit(FakeEngine(HELP), link=DOWN)
    with pytest.raises(Refused) as refused:
        await kit.node.answer(ask(tools=()))
    assert "external assistance" not in str(refused.value)


async def test_of_several_drafts_one_that_answers_is_preferred() -> None:
    texts = iter([HELP, NORTH])

    class Two(FakeEngine):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            made = await super().generate(prompt, sampling)
            return replace(made, completions=tuple(replace(one, text=next(texts)) for one in made.completions))

    kit = NodeKit(Two(NORTH), options=NodeOptions(audit_rate=0.0, drafting=DraftOptions(samples=2)))
    answer = await kit.node.answer(ask())
    assert (answer.route, answer.served.text) == (Route.EDGE, NORTH)


async def test_a_call_whose_argument_says_so_is_no_request_for_help() -> None:
    quoting = NORTH.replace("north", "I need external assistance")
    kit = NodeKit(FakeEngine(quoting))
    assert (await kit.node.answer(ask())).reason is not Reason.DRAFT_ASKED_HELP
