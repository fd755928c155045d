"""The Responses API as the ``openai`` client uses it: text, calls, conversations, streams, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from edge_fakes import DOWN, MOVE, NORTH, SOUTH, UNSURE, WEST, FakeEngine, NodeKit, SpeakingEngine
from openai import AsyncOpenAI
from pydantic import BaseModel
from test_http import Site, error_of, serving, site_fixture, surface_fixture  # noqa: F401

from actors.engine import Completion, Token
from policies.errors import ContextTooLong, EngineError

FUNCTION = {"type": "function", **MOVE["function"]}


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "netgpt", "input": "move it north", "tools": [FUNCTION], **fields}


async def create(site: Site, **fields: Any) -> Any:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0) as client:
        return await client.responses.create(**asked(**fields))


async def streamed(site: Site, **fields: Any) -> tuple[list[Any], Any]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0) as client:
        async with client.responses.stream(**asked(**fields)) as stream:
            events = [event async for event in stream]
        return events, events[-1].response


async def test_a_call_is_an_item(site: Site) -> None:
    answer = await create(site, instructions="Be brief.", max_output_tokens=9, metadata={"a": "b"})
    [call] = answer.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "move_slice", {"to": "north"})
    assert (answer.status, answer.store, answer.metadata) == ("completed", False, {"a": "b"})
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (100, 8, 108)
    assert answer.model_extra["netgpt"]["route"] == "edge"
    prompt, sampling = site.kit.edge.asked[0]
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.tools == [MOVE]
    assert sampling.max_tokens == 9


async def test_prose_is_a_message(site: Site) -> None:
    site.kit.edge.reply = "Nothing to do."
    answer = await create(site)
    assert answer.output_text == "Nothing to do."
    assert [item.type for item in answer.output] == ["message"]


async def test_what_was_answered_can_be_sent_back_with_results(site: Site) -> None:
    site.kit.edge.reply = "On it." + NORTH + SOUTH
    first = await create(site)
    assert [item.type for item in first.output] == ["message", "function_call", "function_call"]
    history: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "move it"}]}]
    history += [item.model_dump() for item in first.output]
    history += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "done"} for item in first.output[1:]
    ]
    await create(site, input=history)
    sent = site.kit.edge.asked[1][0].messages
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert [call["function"]["name"] for call in sent[1]["tool_calls"]] == ["move_slice"] * 2
    assert sent[2]["tool_call_id"] == first.output[1].call_id


async def test_a_format_is_asked_for_and_parsed(site: Site) -> None:
    class Where(BaseModel):
        to: str

    site.kit.edge.reply = '{"to":"north"}'
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        answer = await client.responses.parse(model="netgpt", input="where?", text_format=Where)
    assert answer.output_parsed == Where(to="north")


async def test_log_probabilities_come_with_the_text(site: Site) -> None:
    named = (Token("No", -0.5, (("No", -0.5),)),)
    site.kit.edge.reply = lambda prompt: Completion("No", (-0.5,), "stop", 1, named)
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "tools": []}
    answer = await create(site, **fields)
    [told] = answer.output[0].content[0].logprobs
    assert (told.token, told.logprob, told.top_logprobs[0].token) == ("No", -0.5, "No")
    _, final = await streamed(site, **fields)
    assert final.output[0].content[0].logprobs[0].token == "No"


async def test_an_answer_cut_by_its_length_is_incomplete(site: Site) -> None:
    site.kit.edge.reply = lambda prompt: Completion("And so", (-0.001,) * 4, "length", 4)
    answer = await create(site)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    events, _ = await streamed(site)
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize("parts", [("Just ", "words."), ("On it. ", NORTH, SOUTH), (NORTH,)])
@pytest.mark.parametrize("sure", [True, False])
async def test_a_stream_adds_up_to_the_whole_answer(parts: tuple[str, ...], sure: bool) -> None:
    edge = FakeEngine("".join(parts)) if sure else FakeEngine(WEST, logprobs=UNSURE)
    async with serving(NodeKit(edge, SpeakingEngine(*parts))) as site:
        whole = await create(site)
        events, final = await streamed(site)
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert final.output_text == whole.output_text
    calls = [[(i.name, i.arguments) for i in r.output if i.type == "function_call"] for r in (whole, final)]
    assert calls[0] == calls[1]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) == (2 if not sure and len(parts) == 2 else int(bool(whole.output_text)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in done] == [item.type for item in whole.output]


async def test_a_stream_that_breaks_off_fails(site: Site) -> None:
    kit = NodeKit(FakeEngine(WEST), SpeakingEngine("Half an ans", breaks=EngineError("the line went dead")))
    async with serving(kit) as broken:
        reply = await broken.client.post("/v1/responses", json=asked(stream=True))
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")


CALLED = {"type": "function_call", "call_id": "1", "name": "move_slice", "arguments": ""}
WRONG = [
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "call_id": "1", "name": "t"}]}, "input[0].arguments"),
    ({"input": [CALLED, {**CALLED, "arguments": "{"}]}, "input[1].arguments"),
    ({"input": [CALLED, {"type": "function_call_output", "call_id": "", "output": "x"}]}, "input[1].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**FUNCTION, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{**FUNCTION, "parameters": {"type": "objekt"}}]}, "tools[0].parameters"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools[1].name"),
    ({"tool_choice": {"type": "function", "name": "fly"}}, "tool_choice.name"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "objekt"}}}}, "text.format.schema"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"truncation": "auto"}, "truncation"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"netgpt": {"route": "moon"}}, "netgpt.route"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[f"{i}-{param}" for i, (_, param) in enumerate(WRONG)])
async def test_a_wrong_field_is_400_and_named(surface: Site, fields: dict[str, Any], param: str) -> None:
    reply = await surface.client.post("/v1/responses", json=asked(**fields))
    assert reply.status_code == 400
    assert error_of(reply)["param"] == param
    assert not surface.kit.edge.asked


async def test_harmless_fields_are_let_through(surface: Site) -> None:
    harmless = {
        "store": False, "background": False, "previous_response_id": None, "user": "u", "service_tier": "auto",
        "truncation": "disabled", "reasoning": None, "text": {"format": {"type": "text"}}, "parallel_tool_calls": True,
        "tool_choice": "auto", "include": [], "temperature": 1, "top_p": 1, "metadata": {},
    }  # fmt: skip
    assert (await surface.client.post("/v1/responses", json=asked(**harmless))).status_code == 200


async def test_an_unknown_model_is_404(site: Site) -> None:
    with pytest.raises(openai.NotFoundError):
        await create(site, model="gpt-9")


async def test_a_question_longer_than_the_context_names_input(surface: Site) -> None:
    surface.kit.edge.reply, surface.kit.link.now = ContextTooLong(5000, 1, 1024), DOWN
    reply = await surface.client.post("/v1/responses", json=asked())
    assert (reply.status_code, error_of(reply)["param"]) == (400, "input")
