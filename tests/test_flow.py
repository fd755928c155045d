"""A streamed answer of the cloud: what a client sees, when, and what it never sees."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from edge_fakes import NORTH, SOUTH, UNSURE, WEST, FakeEngine, NodeKit, SpeakingEngine, ask, until
from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from test_http import body, listening, serving
from test_remote_engine import SETTINGS, Cloud, completion

from actors.build import build_cloud_leg
from actors.engine import Prompt, Sampling
from actors.flow import Flow, settled
from actors.remote_engine import RemoteEngine
from policies.errors import EngineError, Refused, Unreachable
from policies.toolcalls import OPEN, parse
from policies.types import Decision, Reason, Route, ToolCall

ASK = Prompt([{"role": "user", "content": "move it"}])
DECISION = Decision(Route.CLOUD, Reason.SCORE_BELOW, 0.1, 0.9, 1.0)
PIECES = st.lists(
    st.sampled_from(["Hi", " ", "\n", "<", "<tool", "_call>", "tool_call>", "x < y", NORTH, SOUTH]), max_size=12
)


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.begun, self.text, self.calls = 0, "", []  # type: ignore[var-annotated]

    async def begin(self, route: Route, decision: Decision | None) -> None:
        assert (route, decision) == (Route.CLOUD, DECISION)
        self.begun += 1

    async def prose(self, text: str) -> None:
        assert text
        self.text += text

    async def call(self, call: ToolCall) -> None:
        self.calls.append(call)


@given(PIECES)
def test_what_flows_is_always_the_beginning_of_the_answer(pieces: list[str]) -> None:
    heard = Heard()
    flow = Flow(ask(), heard, Route.CLOUD, DECISION)

    async def hear() -> None:
        for piece in pieces:
            await flow.hear(piece)

    asyncio.run(hear())
    whole = parse("".join(pieces))
    assert (flow.prose, flow.calls) == (len(heard.text), len(heard.calls))
    assert heard.begun == int(flow.begun) == int(bool(heard.text or heard.calls))
    if whole.error is None:
        assert whole.content.startswith(heard.text)
        assert list(whole.calls[: flow.calls]) == heard.calls


@given(st.text(alphabet="<tol_cal> ab\n", max_size=30), st.text(alphabet="<tol_cal> ab\n", max_size=30))
def test_what_is_settled_stays(text: str, more: str) -> None:
    assert settled(text + more).startswith(settled(text))
    assert OPEN not in settled(text)


async def test_an_invalid_call_never_flows_nor_what_comes_after_it() -> None:
    heard = Heard()
    flow = Flow(ask(), heard, Route.CLOUD, DECISION)
    for part in ("On it.", NORTH, WEST, SOUTH, "more"):
        await flow.hear(part)
    assert (heard.text, heard.calls) == ("On it.", [ToolCall("move_slice", {"to": "north"})])


async def test_json_that_was_asked_for_waits_for_its_end() -> None:
    heard = Heard()
    await Flow(replace(ask(), response_schema={"type": "object"}), heard, Route.CLOUD, DECISION).hear('{"a": ')
    assert heard.begun == 0


# Over HTTP, with the openai client


def cloudy(*parts: str, breaks: Exception | None = None) -> NodeKit:
    """A node that sends everything to a cloud that speaks in parts."""
    return NodeKit(FakeEngine(SOUTH, logprobs=UNSURE), SpeakingEngine(*parts, breaks=breaks))


@pytest.mark.parametrize("parts", [("Just", " wor", "ds."), ("On it. ", NORTH, SOUTH), (NORTH,), ("  ", "Hi", "  ")])
async def test_a_streamed_answer_of_the_cloud_is_the_same_as_a_whole_one(parts: tuple[str, ...]) -> None:
    async with serving(cloudy(*parts)) as site, AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        whole = await client.chat.completions.create(**body())
        async with client.chat.completions.stream(**body(stream_options={"include_usage": True})) as stream:
            streamed = await stream.get_final_completion()
        logged = [record.answer for record in site.kit.log.records]
    one, other = whole.choices[0], streamed.choices[0]
    assert (other.message.content or None) == one.message.content
    calls = [[(c.function.name, c.function.arguments) for c in m.message.tool_calls or []] for m in (one, other)]  # type: ignore[union-attr]
    assert calls[0] == calls[1]
    assert (other.finish_reason, streamed.usage) == (one.finish_reason, whole.usage)
    assert logged == ["".join(parts)] * 2


async def test_the_first_words_come_before_the_last_are_written() -> None:
    kit = cloudy("First", " and last.")
    assert isinstance(kit.cloud, SpeakingEngine)
    kit.cloud.last = asyncio.Event()
    async with serving(kit) as site, site.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as got:
        assert (got.headers["x-netgpt-route"], got.headers["x-netgpt-score"][:2]) == ("cloud", "0.")
        lines = got.aiter_lines()
        deltas = [await next_delta(lines) for _ in range(2)]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "First"}]
        kit.cloud.last.set()
        assert await next_delta(lines) == {"content": " and last."}


async def next_delta(lines: AsyncIterator[str]) -> dict[str, Any]:
    async for line in lines:
        if line.startswith("data: {"):
            return dict(json.loads(line[6:])["choices"][0]["delta"])
    raise AssertionError("the stream ended")


async def test_an_invalid_answer_is_replaced_by_the_draft_while_nothing_was_said() -> None:
    async with serving(cloudy(WEST)) as site:
        reply = await site.client.post("/v1/chat/completions", json=body(stream=True))
    assert "south" in reply.text and "west" not in reply.text
    assert reply.headers["x-netgpt-route"] == "edge"
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_an_answer_that_breaks_off_says_so_and_is_not_logged() -> None:
    async with serving(cloudy("Half an ans", breaks=EngineError("the line went dead"))) as site:
        reply = await site.client.post("/v1/chat/completions", json=body(stream=True))
        last = reply.text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "answer_broke_off"
        assert site.kit.log.records == []
        assert site.kit.node.gauges()["refused"] == 1.0
        client = AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(Exception, match="broke off"):
            [chunk async for chunk in await client.chat.completions.create(**body(stream=True))]
        await client.close()


async def test_a_client_that_leaves_a_stream_ends_the_call_to_the_cloud(caplog: pytest.LogCaptureFixture) -> None:
    kit = cloudy("First", " and last.")
    assert isinstance(kit.cloud, SpeakingEngine)
    kit.cloud.last = asyncio.Event()
    async with serving(kit) as site:
        async with site.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as got:
            await next_delta(got.aiter_lines())
        await until(lambda: kit.cloud.cancelled == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# From a real endpoint


def event(delta: dict[str, Any], **more: Any) -> str:
    choice = {"index": 0, "delta": delta, **more}
    return f"data: {json.dumps({'model': 'cloud-7', 'choices': [choice]})}\n\n"


def call_part(index: int, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]}


USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 6}}\n\n'
DONE = "data: [DONE]\n\n"
CALLING = [
    event({"role": "assistant", "content": ""}), event({"content": "On "}), event({"content": "it."}),
    event(call_part(0, "move", '{"to": ')), event(call_part(0, arguments='"north"}')), event(call_part(1, "stop")),
    event({}, finish_reason="tool_calls"), USAGE, DONE,
]  # fmt: skip


class Streaming(Cloud):
    """A cloud that streams what the test says."""

    events: list[str] = []  # noqa: RUF012

    async def complete(self, request: Request) -> Any:
        self.asked.append(await request.json())
        self.clients.add((request.client.host, request.client.port))  # type: ignore[union-attr]
        if self.asked[-1].get("stream"):
            return StreamingResponse(iter(self.events), media_type="text/event-stream")
        return JSONResponse(completion("whole"))


async def heard_from(events: list[str], **more: Any) -> tuple[list[str], Any, Streaming]:
    cloud, said = Streaming(), []  # type: ignore[var-annotated]
    cloud.events = events

    async def hear(text: str) -> None:
        said.append(text)

    async with listening(cloud.app) as url:
        engine = RemoteEngine(f"{url}/v1", "big", SETTINGS)
        try:
            for _ in range(2):
                said.clear()
                made = await engine.generate(ASK, Sampling(hear=hear, **more))
        finally:
            await engine.close()
    return said, made, cloud


async def test_prose_is_heard_in_parts_and_calls_whole() -> None:
    said, made, cloud = await heard_from(CALLING)
    assert said[:2] == ["On ", "it."]
    assert [parse(text).calls for text in said[2:]] == [(ToolCall("move", {"to": "north"}),), (ToolCall("stop", {}),)]
    assert made.completions[0].text == "".join(said)
    assert (made.prompt_tokens, made.completions[0].tokens, made.version) == (20, 6, "cloud-7")
    assert made.down_bytes > sum(map(len, CALLING))
    assert len(cloud.clients) == 1  # the connection was used again
    assert (cloud.asked[0]["stream"], cloud.asked[0]["stream_options"]) == (True, {"include_usage": True})


async def test_an_endpoint_that_does_not_stream_is_understood() -> None:
    cloud = Cloud()
    async with listening(cloud.app) as url:
        engine = RemoteEngine(f"{url}/v1", "big", SETTINGS)
        said: list[str] = []

        async def hear(text: str) -> None:
            said.append(text)

        made = await engine.generate(ASK, Sampling(hear=hear))
        await engine.close()
    assert (made.completions[0].text, said) == ("hello", [])


async def test_log_probabilities_of_a_stream_add_up() -> None:
    tokens = [{"content": [{"token": t, "logprob": -0.5}]} for t in "ab"]
    events = [event({"content": t}, logprobs=told) for t, told in zip("ab", tokens, strict=True)]
    _, made, _ = await heard_from([*events, DONE], alternatives=0)
    assert (made.completions[0].logprobs, made.completions[0].named[1].text) == ((-0.5, -0.5), "b")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([event({"content": "half"})], "broke off"),
        ([event({"content": "half"}), "data: {\n\n"], "cannot be read"),
        (["data: [1]\n\n", DONE], "cannot be read"),
        (['data: {"choices": 5}\n\n', DONE], "cannot be read"),
        ([event({"content": 5}), DONE], "cannot be read"),
        ([event(call_part("x"))], "cannot be read"),  # type: ignore[arg-type]
    ],
)
async def test_a_stream_that_is_none_is_an_engine_error(events: list[str], words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        await heard_from(events)
    assert type(caught.value) is EngineError  # not to be asked again: a part was heard, or it makes no sense


async def test_a_stream_that_breaks_before_a_word_was_heard_is_asked_again() -> None:
    with pytest.raises(Unreachable, match="broke off"):
        await heard_from([event({"role": "assistant"})])


async def test_an_endless_stream_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.endpoint.MAX_ANSWER_BYTES", 1000)
    with pytest.raises(EngineError, match="longer than 1000 bytes"):
        await heard_from([event({"content": "x" * 100})] * 20)


async def test_a_refusal_of_a_stream_repeats_the_upstreams_words() -> None:
    cloud = Cloud()
    cloud.answer = lambda _: JSONResponse({"error": {"message": "no stream today"}}, status_code=400)

    async def hear(_: str) -> None:
        raise AssertionError

    async with listening(cloud.app) as url:
        leg = build_cloud_leg(f"{url}/v1", "big", SETTINGS)
        with pytest.raises(Refused, match="no stream today"):
            await leg.generate(ASK, Sampling(hear=hear))
        await leg.close()


async def test_the_whole_way_from_an_endpoint_to_the_openai_client() -> None:
    cloud = Streaming()
    cloud.events = [
        event({"content": "Hello "}),
        event({"content": "there."}),
        event({}, finish_reason="stop"),
        USAGE,
        DONE,
    ]
    async with listening(cloud.app) as url:
        leg = build_cloud_leg(f"{url}/v1", "big", SETTINGS)
        kit = NodeKit(FakeEngine(logprobs=UNSURE), leg)  # type: ignore[arg-type]
        async with serving(kit) as site, AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(**body(stream=True))
            chunks = [chunk async for chunk in stream]
        await leg.close()
    assert [c.choices[0].delta.content for c in chunks][:3] == ["", "Hello", " there."]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert kit.log.records[0].cloud == "Hello there."
