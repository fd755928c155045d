"""What an ``openai`` client is to see of any server that speaks its language: one list of cases, each a function.

A case takes a client and a model's name, and asserts. Nothing in it belongs to one server or asks that the model be
right: tools are named in what the user says, and a sampled text is only text. ``test_openai_client`` runs the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

from orchestrator.tasks.tools import TOOLS as TASK_TOOLS

Case = Callable[[OpenAI, str], None]

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
ASK: list[Any] = [{"role": "user", "content": "restart the node at depot"}]
JSON: list[Any] = [{"role": "user", "content": "give me json"}]


# Two that the bundled model knows. vLLM holds a call to its schema only where the schema is called strict.
TOOLS: list[Any] = [TASK_TOOLS[name] for name in ("restart_node", "query_cell")]
STRICT: list[Any] = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
RESTART: Any = {"type": "function", "function": {"name": "restart_node"}}


class Setting(BaseModel):
    """A structured answer."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["low", "high"]
    on: bool


class Restart(BaseModel):
    """The arguments of a call."""

    site: str


def say(client: OpenAI, model: str, messages: Any = HELLO, **fields: Any) -> ChatCompletion:
    """A short greedy answer, unless ``fields`` say otherwise."""
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 32, **fields}
    answer = client.chat.completions.create(model=model, messages=messages, **given)
    assert isinstance(answer, ChatCompletion)
    return answer


def text_of(answer: ChatCompletion, index: int = 0) -> str:
    """The text of a choice that has some."""
    content = answer.choices[index].message.content
    assert content
    return content


def call_of(answer: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the one call."""
    [call] = answer.choices[0].message.tool_calls
    assert call.id and call.type == "function"
    return call.function.name, json.loads(call.function.arguments)


def a_chat_is_answered(client: OpenAI, model: str) -> None:
    answer = say(client, model)
    assert (answer.object, answer.model, answer.choices[0].index) == ("chat.completion", model, 0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert text_of(answer) and answer.id and answer.created
    assert answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def a_chat_of_many_turns_and_roles_is_answered(client: OpenAI, model: str) -> None:
    first = say(client, model)
    turns = [
        {"role": "system", "content": "You run a network."},
        {"role": "developer", "content": "Be brief."},
        *HELLO,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "user", "content": "and again", "name": "ann"},
    ]
    answer = say(client, model, turns)
    assert text_of(answer)
    assert answer.usage and first.usage and answer.usage.prompt_tokens > first.usage.prompt_tokens


def content_may_come_in_parts(client: OpenAI, model: str) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": " there"}]
    assert text_of(say(client, model, [{"role": "user", "content": parts}]))


def a_tool_is_called(client: OpenAI, model: str) -> None:
    for choice in ("auto", openai.omit):
        answer = say(client, model, ASK, tools=TOOLS, tool_choice=choice, max_tokens=64)
        assert call_of(answer) == ("restart_node", {"site": "depot"})
        assert answer.choices[0].finish_reason == "tool_calls"


def a_call_can_be_required(client: OpenAI, model: str) -> None:
    answer = say(client, model, HELLO, tools=STRICT, tool_choice="required", max_tokens=64)
    name, arguments = call_of(answer)
    assert arguments.keys() >= ({"site"} if name == "restart_node" else {"cell_id", "metric"})


def a_tool_can_be_named(client: OpenAI, model: str) -> None:
    name, arguments = call_of(say(client, model, HELLO, tools=STRICT, tool_choice=RESTART, max_tokens=64))
    assert name == "restart_node" and "site" in arguments


def tools_can_be_kept_out(client: OpenAI, model: str) -> None:
    answer = say(client, model, ASK, tools=TOOLS, tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert text_of(answer)


def a_text_that_looks_like_a_call_is_text(client: OpenAI, model: str) -> None:
    """Nobody offered a tool, and the bundled model ends its answer with the tag that ends a call."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert text_of(say(client, model, question, max_tokens=200))


def one_call_at_a_time_can_be_asked_for(client: OpenAI, model: str) -> None:
    call_of(say(client, model, ASK, tools=STRICT, parallel_tool_calls=False, max_tokens=64))


def results_of_calls_are_sent_back(client: OpenAI, model: str) -> None:
    first = say(client, model, ASK, tools=TOOLS, max_tokens=64).choices[0].message
    assert first.tool_calls
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "done"}
    for earlier in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        turns = [*ASK, earlier, result, {"role": "user", "content": "restart the node at hill"}]
        assert call_of(say(client, model, turns, tools=TOOLS, max_tokens=64))


def text_is_streamed(client: OpenAI, model: str) -> None:
    whole = text_of(say(client, model))
    with client.chat.completions.create(
        model=model, messages=HELLO, temperature=0, max_tokens=32, stream=True
    ) as stream:
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] in (["stop"], ["length"])
    assert all(chunk.usage is None for chunk in chunks)


def a_call_is_streamed(client: OpenAI, model: str) -> None:
    name, arguments, ends = "", "", []
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 64, "tools": TOOLS}
    for chunk in client.chat.completions.create(model=model, messages=ASK, stream=True, **given):
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.index == 0 and call.function
            name, arguments = name + (call.function.name or ""), arguments + (call.function.arguments or "")
        ends += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
    assert (name, json.loads(arguments), ends) == ("restart_node", {"site": "depot"}, ["tool_calls"])


def the_stream_helper_adds_up(client: OpenAI, model: str) -> None:
    given: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 64}
    stop = text_of(say(client, model))[8:12]  # the helper raises where an answer ends by its length
    with client.chat.completions.stream(messages=HELLO, stop=stop, **given) as stream:
        told = "".join(event.delta for event in stream if event.type == "content.delta")
        assert told == stream.get_final_completion().choices[0].message.content
    tools = [openai.pydantic_function_tool(Restart, name="restart_node")]
    with client.chat.completions.stream(messages=ASK, tools=tools, tool_choice=RESTART, **given) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["restart_node"]
    assert isinstance(done[0].parsed_arguments, Restart)


def a_stream_tells_its_usage(client: OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8}
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, temperature=0, **asked))
    assert chunks[-1].choices == [] and chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])


def two_choices_are_given(client: OpenAI, model: str) -> None:
    answer = say(client, model, n=2, temperature=1, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)
    asked: dict[str, Any] = {"n": 2, "temperature": 1, "max_tokens": 8, "stream": True}
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, **asked))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def log_probabilities_are_given(client: OpenAI, model: str) -> None:
    answer = say(client, model, logprobs=True, top_logprobs=3, max_tokens=5)
    told = answer.choices[0].logprobs
    assert told and told.content and len(told.content) == 5
    assert "".join(token.token for token in told.content) == text_of(answer)
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in told.content)
    assert told.content[0].top_logprobs[0].logprob == pytest.approx(told.content[0].logprob)
    assert say(client, model).choices[0].logprobs is None


def a_stop_text_ends_the_answer(client: OpenAI, model: str) -> None:
    whole = text_of(say(client, model))
    end = whole[8:12]
    for stop in (end, [end, "never said"]):
        answer = say(client, model, stop=stop)
        assert answer.choices[0].finish_reason == "stop"
        assert text_of(answer) == whole[: whole.index(end)]


def a_seed_repeats_the_answer(client: OpenAI, model: str) -> None:
    drawn = [text_of(say(client, model, temperature=1, top_p=0.9, seed=seed)) for seed in (7, 7, 8, 9)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def the_length_is_bounded(client: OpenAI, model: str) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        answer = say(client, model, **{"max_tokens": openai.omit, field: 5})
        assert answer.usage and answer.usage.completion_tokens == 5
        assert answer.choices[0].finish_reason == "length"


def an_answer_that_is_cut_says_so(client: OpenAI, model: str) -> None:
    """In the middle of a call, and of the JSON that was asked for."""
    for wanted in ({"tools": TOOLS}, {"response_format": {"type": "json_object"}}):
        assert say(client, model, ASK, max_tokens=4, **wanted).choices[0].finish_reason == "length"


def json_is_given(client: OpenAI, model: str) -> None:
    answer = say(client, model, JSON, response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(text_of(answer)), dict)


def json_of_a_schema_is_given(client: OpenAI, model: str) -> None:
    schema = {"name": "setting", "strict": True, "schema": Setting.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    assert Setting.model_validate_json(text_of(say(client, model, response_format=wanted, max_tokens=64)))


def answers_and_calls_are_parsed(client: OpenAI, model: str) -> None:
    given: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 64}
    answer = client.chat.completions.parse(messages=HELLO, response_format=Setting, **given)
    assert isinstance(answer.choices[0].message.parsed, Setting)
    tools = [openai.pydantic_function_tool(Restart, name="restart_node")]
    called = client.chat.completions.parse(messages=ASK, tools=tools, tool_choice=RESTART, **given)
    [call] = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Restart)


def penalties_are_taken(client: OpenAI, model: str) -> None:
    assert text_of(say(client, model, frequency_penalty=0.5, presence_penalty=0.5))


def biases_are_taken(client: OpenAI, model: str) -> None:
    assert text_of(say(client, model, logit_bias={"5": -1}))


CASES: tuple[Case, ...] = (
    a_chat_is_answered,
    a_chat_of_many_turns_and_roles_is_answered,
    content_may_come_in_parts,
    a_tool_is_called,
    a_call_can_be_required,
    a_tool_can_be_named,
    tools_can_be_kept_out,
    a_text_that_looks_like_a_call_is_text,
    one_call_at_a_time_can_be_asked_for,
    results_of_calls_are_sent_back,
    text_is_streamed,
    a_call_is_streamed,
    the_stream_helper_adds_up,
    a_stream_tells_its_usage,
    two_choices_are_given,
    log_probabilities_are_given,
    a_stop_text_ends_the_answer,
    a_seed_repeats_the_answer,
    the_length_is_bounded,
    an_answer_that_is_cut_says_so,
    json_is_given,
    json_of_a_schema_is_given,
    answers_and_calls_are_parsed,
    penalties_are_taken,
    biases_are_taken,
)
