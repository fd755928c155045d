"""More of ``openai_cases``: transport, errors, models, the Responses API, the asynchronous client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai_cases import ASK, HELLO, TOOLS, Case, Setting, call_of, say, text_of

AsyncCase = Callable[[AsyncOpenAI, str], Awaitable[None]]

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 32}
BRIEF: dict[str, Any] = {"temperature": 0, "max_output_tokens": 32}
FUNCTIONS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
RESTART = "restart the node at depot"


def the_raw_response_can_be_had(client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, **GREEDY)
    assert (raw.status_code, raw.headers["content-type"]) == (200, "application/json")
    assert text_of(raw.parse())
    assert json.loads(raw.text)["object"] == "chat.completion"


def the_response_can_be_read_as_it_comes(client: OpenAI, model: str) -> None:
    with client.chat.completions.with_streaming_response.create(model=model, messages=HELLO, **GREEDY) as reply:
        assert json.loads(b"".join(reply.iter_bytes()))["object"] == "chat.completion"
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=HELLO, stream=True, **GREEDY
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def models_are_listed(client: OpenAI, model: str) -> None:
    listed = client.models.list()
    assert listed.object == "list"
    assert model in [one.id for one in listed]
    assert {one.object for one in listed.data} == {"model"}


def a_model_is_told_of(client: OpenAI, model: str) -> None:
    told = client.models.retrieve(model)
    assert (told.id, told.object) == (model, "model")
    assert told.created and told.owned_by
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def an_unknown_model_is_not_found(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9") as missing:
        say(client, "gpt-9")
    assert missing.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-9", input="hello")


def a_wrong_field_is_a_bad_request(client: OpenAI, model: str) -> None:
    for field, wrong in {"temperature": 9, "top_p": 5, "max_tokens": -1, "n": 0, "tool_choice": "maybe"}.items():
        with pytest.raises(openai.BadRequestError) as refused:
            say(client, model, **{field: wrong})
        assert refused.value.status_code == 400 and refused.value.message
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=model, input="hello", temperature=9)


def what_is_no_message_or_tool_is_a_bad_request(client: OpenAI, model: str) -> None:
    for wrong in ({"role": "wizard", "content": "hi"}, {"role": "user", "content": 5}, "hi"):
        with pytest.raises(openai.BadRequestError):
            say(client, model, [wrong])
    for tool in ({"type": "function"}, {"type": "retrieval"}, {"type": "function", "function": {"name": "a b"}}):
        with pytest.raises(openai.BadRequestError):
            say(client, model, tools=[tool])


def a_question_that_is_too_long_is_a_bad_request(client: OpenAI, model: str) -> None:
    long = "hello " * 3000
    with pytest.raises(openai.BadRequestError, match="context"):
        say(client, model, [{"role": "user", "content": long}])
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": long}], stream=True)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.responses.create(model=model, input=long)


def the_answer_may_take_what_the_question_leaves(client: OpenAI, model: str) -> None:
    """A question of most of the context, of a client that asks for a long answer or does not say."""
    long = [{"role": "user", "content": "hello " * 420}]
    for most in (openai.omit, 1000):
        answer = say(client, model, long, max_tokens=most)
        assert answer.usage and 800 < answer.usage.prompt_tokens < answer.usage.total_tokens <= 1024


def a_stream_can_be_left(client: OpenAI, model: str) -> None:
    for _ in range(3):
        stream = client.chat.completions.create(model=model, messages=HELLO, max_tokens=200, stream=True)
        next(iter(stream))
        stream.close()
    assert text_of(say(client, model))


def a_time_out_is_one(client: OpenAI, model: str) -> None:
    hasty = client.with_options(timeout=0.0001, max_retries=1)
    with pytest.raises(openai.APITimeoutError):
        say(hasty, model)
    assert text_of(say(client.with_options(timeout=60.0, max_retries=0), model))


def a_response_is_given(client: OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input="hello there", instructions="Be brief.", **BRIEF)
    assert (answer.object, answer.model) == ("response", model)
    assert answer.status in ("completed", "incomplete")
    assert answer.output_text and answer.usage and answer.usage.output_tokens
    parts: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "hello there"}]}]
    assert client.responses.create(model=model, input=parts, **BRIEF).output_text


def a_response_is_streamed(client: OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input="hello there", **BRIEF).output_text
    events = list(client.responses.create(model=model, input="hello there", stream=True, **BRIEF))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole


def a_response_calls_a_tool(client: OpenAI, model: str) -> None:
    given: dict[str, Any] = {"model": model, "tools": FUNCTIONS, "temperature": 0, "max_output_tokens": 64}
    answer = client.responses.create(input=RESTART, **given)
    [call] = answer.output
    assert call.type == "function_call" and call.call_id
    assert (call.name, json.loads(call.arguments)) == ("restart_node", {"site": "depot"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    history: list[Any] = [*ASK, call, result, {"role": "user", "content": "restart the node at hill"}]
    assert client.responses.create(input=history, **given).output
    events = list(client.responses.create(input=RESTART, stream=True, **given))
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(done.arguments) == {"site": "depot"}
    with client.responses.stream(input=RESTART, **given) as stream:
        [item] = stream.get_final_response().output
    assert item.type == "function_call" and item.name == "restart_node"


def a_response_is_parsed(client: OpenAI, model: str) -> None:
    given: dict[str, Any] = {"temperature": 0, "max_output_tokens": 64}
    answer = client.responses.parse(model=model, input="hello", text_format=Setting, **given)
    assert isinstance(answer.output_parsed, Setting)


async def the_asynchronous_client_sees_the_same(client: AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.create(model=model, messages=ASK, tools=TOOLS, temperature=0)
    assert call_of(answer) == ("restart_node", {"site": "depot"})
    parsed = await client.chat.completions.parse(model=model, messages=HELLO, response_format=Setting, **GREEDY)
    assert isinstance(parsed.choices[0].message.parsed, Setting)
    assert model in [one.id async for one in client.models.list()]
    response = await client.responses.create(model=model, input="hello there", **BRIEF)
    assert response.output_text


async def the_asynchronous_client_streams(client: AsyncOpenAI, model: str) -> None:
    whole = text_of(await client.chat.completions.create(model=model, messages=HELLO, **GREEDY))
    stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **GREEDY)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == whole
    async with client.chat.completions.stream(model=model, messages=ASK, tools=TOOLS, **GREEDY) as helped:
        assert call_of(await helped.get_final_completion()) == ("restart_node", {"site": "depot"})
    left = await client.chat.completions.create(model=model, messages=HELLO, max_tokens=200, stream=True)
    await anext(aiter(left))
    await left.close()


async def many_ask_at_once_and_one_gives_up(client: AsyncOpenAI, model: str) -> None:
    asking = [
        asyncio.create_task(client.chat.completions.create(model=model, messages=HELLO, **GREEDY)) for _ in range(12)
    ]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    answers = await asyncio.gather(*asking[1:])
    assert all(text_of(answer) for answer in answers)


MORE_CASES: tuple[Case, ...] = (
    the_raw_response_can_be_had,
    the_response_can_be_read_as_it_comes,
    models_are_listed,
    a_model_is_told_of,
    an_unknown_model_is_not_found,
    a_wrong_field_is_a_bad_request,
    what_is_no_message_or_tool_is_a_bad_request,
    a_question_that_is_too_long_is_a_bad_request,
    the_answer_may_take_what_the_question_leaves,
    a_stream_can_be_left,
    a_time_out_is_one,
    a_response_is_given,
    a_response_is_streamed,
    a_response_calls_a_tool,
    a_response_is_parsed,
)
ASYNC_CASES: tuple[AsyncCase, ...] = (
    the_asynchronous_client_sees_the_same,
    the_asynchronous_client_streams,
    many_ask_at_once_and_one_gives_up,
)
