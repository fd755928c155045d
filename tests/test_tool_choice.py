"""What a request may ask of its answer: tool choice, response formats, schemas of strangers."""

from __future__ import annotations

import pytest
from edge_fakes import (
    MOVE,
    NORTH,
    SOUTH,
    FakeEngine,
    NodeKit,
    ask,
)

from actors.chat import call_schema, closed
from actors.engine import Prompt
from policies.errors import Unreachable
from policies.json_schema import schema_problem, violation
from policies.toolcalls import parse
from policies.types import Reason, Route


async def test_tool_choice_none_shows_no_tools() -> None:
    kit = NodeKit(FakeEngine("Hello."))
    answer = await kit.node.answer(ask(tool_choice="none"))
    assert kit.edge.asked[0][0].tools == ()
    assert answer.served.parsed.content == "Hello."


async def test_a_named_tool_is_the_only_one_shown_and_prose_is_no_answer() -> None:
    kit = NodeKit(FakeEngine("Hello."))
    answer = await kit.node.answer(ask(tool_choice={"type": "function", "function": {"name": "move_slice"}}))
    assert [tool["function"]["name"] for tool in kit.edge.asked[0][0].tools] == ["move_slice"]
    assert kit.edge.asked[0][0].prefill == "<tool_call>"
    assert answer.reason is Reason.DRAFT_INVALID
    sent = kit.cloud.asked[0][0]
    assert (sent.prefill, sent.tool_choice["function"]["name"]) == ("", "move_slice")  # type: ignore[index]


async def test_a_required_call_is_drafted_without_a_grammar_and_forced_only_as_the_last_resort() -> None:
    def speak(prompt: Prompt) -> str:
        return NORTH.removesuffix("</tool_call>") if prompt.schema else "<tool_call>perhaps"

    kit = NodeKit(FakeEngine(speak), FakeEngine(Unreachable("no answer")))
    answer = await kit.node.answer(ask(tool_choice="required"))
    first, second = (prompt for prompt, _ in kit.edge.asked)
    assert first.schema is None
    assert second.schema == call_schema(ask().tools)
    assert answer.served.text == NORTH
    assert (answer.degraded, answer.decision.score) == (True, 0.0)
    assert kit.log.records[0].draft == "<tool_call>perhaps"


async def test_a_json_schema_holds_for_an_answer_without_calls() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    right = NodeKit(FakeEngine('{"ok": true}'))
    assert (await right.node.answer(ask(tools=(), response_schema=schema))).route is Route.EDGE
    for wrong in ('{"ok": 1}', "ok", "[" * 5000):
        kit = NodeKit(FakeEngine(wrong), FakeEngine('{"ok": false}'))
        assert (await kit.node.answer(ask(tools=(), response_schema=schema))).reason is Reason.DRAFT_INVALID


async def test_one_call_at_a_time_is_kept_to() -> None:
    kit = NodeKit(FakeEngine(NORTH + SOUTH))
    assert (await kit.node.answer(ask())).route is Route.EDGE
    assert (await kit.node.answer(ask(parallel=False))).reason is Reason.DRAFT_INVALID


def test_every_call_of_the_offered_tools_fits_the_grammars_schema_and_no_other() -> None:
    nested = {
        "type": "function",
        "function": {
            "name": "nest",
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "$defs": {"A": {"type": "integer"}},
            },
        },
    }
    schema = call_schema([MOVE, nested])
    assert schema_problem(schema) is None
    assert violation({"name": "move_slice", "arguments": {"to": "north"}}, schema) is None
    assert violation({"name": "nest", "arguments": {"a": 3}}, schema) is None
    assert violation({"name": "nest", "arguments": {"a": "x"}}, schema)
    assert violation({"name": "fly", "arguments": {}}, schema)


def test_the_grammars_schema_can_be_compiled_by_the_engines() -> None:
    from actors.grammar import json_grammar

    assert json_grammar(call_schema([MOVE]))


def test_only_an_open_call_is_closed() -> None:
    assert closed("<tool_call>{}") == "<tool_call>{}</tool_call>"
    assert closed(NORTH) == NORTH
    assert closed("prose") == "prose"


@pytest.mark.parametrize("arguments", ['{"to": 1e999}', '{"to": "\\ud800"}'])
async def test_arguments_json_can_spell_but_not_carry_are_invalid(arguments: str) -> None:
    text = f'<tool_call>{{"name": "set_alarm", "arguments": {arguments}}}</tool_call>'
    assert ask().problem(parse(text))
    kit = NodeKit(FakeEngine(text))
    assert (await kit.node.answer(ask())).route is Route.CLOUD


async def test_a_schema_that_runs_in_a_circle_makes_a_draft_invalid_and_nothing_else() -> None:
    circle = {"type": "object", "properties": {"to": {"$ref": "#/properties/to"}}}
    tool = {"type": "function", "function": {"name": "move_slice", "parameters": circle}}
    kit = NodeKit(FakeEngine(), FakeEngine("no"))
    assert (await kit.node.answer(ask(tools=[tool]))).reason is Reason.DRAFT_INVALID


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#"}, "recursion"),
        ({"$ref": "http://169.254.169.254/x"}, "leaves the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "leads nowhere"),
        ({"type": "objekt"}, "objekt"),
        ({"properties": {"a": {"pattern": "("}}}, "regular expression|regex"),
        ({"patternProperties": {"(": {}}}, "regular expression|regex"),
    ],
)
def test_schemas_that_would_hurt_are_refused_before_use(schema: dict[str, object], words: str) -> None:
    import re

    assert re.search(words, schema_problem(schema) or "")
