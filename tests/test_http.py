"""The OpenAI surface over a real socket: what the ``openai`` client sees, and what bad input gets."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from edge_fakes import ALARM, DOWN, MOVE, NORTH, SOUTH, UNSURE, FakeEngine, NodeKit, until
from openai import AsyncOpenAI, OpenAI

from actors.engine import Completion, Token
from orchestrator.endpoint.app import Surface, SurfaceOptions
from orchestrator.site import HostedServer
from policies.errors import ContextTooLong, Unreachable

LIMIT = 64 << 10


class Site:
    """A served node: its fakes, its address, a plain client."""

    def __init__(self, kit: NodeKit, url: str, client: httpx.AsyncClient, surface: Surface) -> None:
        self.kit, self.url, self.client, self.surface = kit, url, client, surface

    async def post(self, body: Any = None, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return await self.client.post("/v1/chat/completions", content=content, **more)


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The address of ``app`` on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = HostedServer(uvicorn.Config(app, http="httptools", lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def serving(kit: NodeKit, max_in_flight: int = 64, max_waiting: int = 256) -> AsyncIterator[Site]:
    app = Surface(kit.node, SurfaceOptions("netgpt", LIMIT, max_in_flight, max_waiting))
    async with listening(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=10.0) as client:
        yield Site(kit, url, client, app)


@pytest.fixture(name="site")
async def site_fixture() -> AsyncIterator[Site]:
    async with serving(NodeKit()) as served:
        yield served


@pytest.fixture(name="surface")
async def surface_fixture() -> AsyncIterator[Site]:
    """The same app without a socket, for the many tests that need none."""
    kit = NodeKit()
    app = Surface(kit.node, SurfaceOptions("netgpt", LIMIT))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        yield Site(kit, "http://site", client, app)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "netgpt", "messages": [{"role": "user", "content": "move it north"}], "tools": [MOVE], **fields}


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error object, after checking its shape."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in reply.text
    return dict(error)


async def test_the_openai_client_reads_a_tool_call(site: Site) -> None:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        raw = await client.chat.completions.with_raw_response.create(**body(temperature=0, seed=7, max_tokens=64, n=1))
    answer = raw.parse()
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("move_slice", {"to": "north"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 108
    assert raw.headers["x-netgpt-route"] == "edge"
    assert raw.headers["x-netgpt-version"] == "edge-0001-aaaaaaaa"
    assert 0 <= float(raw.headers["x-netgpt-threshold"]) <= float(raw.headers["x-netgpt-score"]) <= 1
    told = (answer.model_extra or {})["netgpt"]
    assert (told["route"], told["reason"], told["degraded"], told["cost_usd"]) == ("edge", "score_passed", False, 0.0)
    assert told["link"]["rtt_ms"] == 40.0
    assert told["latency_ms"]["total"] >= told["latency_ms"]["draft"]
    sampling = site.kit.edge.asked[0][1]
    assert (sampling.max_tokens, sampling.temperature, sampling.seed, sampling.n) == (64, 0.0, 7, 1)


async def test_the_sync_client_reads_prose(site: Site) -> None:
    site.kit.edge.reply = "Nothing to do."
    with OpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        answer = await asyncio.to_thread(client.chat.completions.create, **body())
    assert answer.choices[0].message.content == "Nothing to do."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize("text", [NORTH + SOUTH, "On it. " + NORTH, "Just words."])
async def test_a_stream_carries_the_same_answer(site: Site, text: str) -> None:
    site.kit.edge.reply = text
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        whole = await client.chat.completions.create(**body())
        async with client.chat.completions.stream(**body(stream_options={"include_usage": True})) as stream:
            chunks = [event.chunk async for event in stream if event.type == "chunk"]
            final = await stream.get_final_completion()
    assert (final.choices[0].message.content or None) == whole.choices[0].message.content
    calls = [(c.function.name, c.function.arguments) for c in final.choices[0].message.tool_calls or []]
    whole_calls = whole.choices[0].message.tool_calls or []
    assert calls == [(c.function.name, c.function.arguments) for c in whole_calls if c.type == "function"]
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage == whole.usage
    assert any((chunk.model_extra or {}).get("netgpt") for chunk in chunks)


async def test_a_stream_ends_with_done_and_has_its_headers(site: Site) -> None:
    reply = await site.post(body(stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-netgpt-route"] == "edge"
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_a_conversation_with_tool_results_can_be_sent_back(site: Site) -> None:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        first = await client.chat.completions.create(**body())
        message = first.choices[0].message
        assert message.tool_calls
        history = [
            *body()["messages"],
            message.model_dump(),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [{"type": "text", "text": "done"}]},
        ]
        second = await client.chat.completions.create(**body(messages=history))
    assert second.choices[0].message.tool_calls
    sent = site.kit.edge.asked[1][0].messages
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert "refusal" not in sent[1]


async def test_models_and_health(site: Site) -> None:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        assert [model.id async for model in client.models.list()] == ["netgpt"]
    assert (await site.client.get("/healthz")).json() == {"status": "ok"}
    assert (await site.client.get("/readyz")).status_code == 200


async def test_a_site_that_is_not_ready_says_so() -> None:
    app = Surface(NodeKit().node, ready=lambda: False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200


async def test_every_choice_is_decided_and_logged_by_itself(site: Site) -> None:
    texts = iter([NORTH, "No.", SOUTH])
    site.kit.edge.reply = lambda prompt: next(texts)
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(**body(n=3, seed=5))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls", "stop", "tool_calls"]
    assert [sampling.seed for _, sampling in site.kit.edge.asked] == [5, 6, 7]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 24)
    assert len({record.request_id for record in site.kit.log.records}) == 3
    assert all((choice.model_extra or {})["netgpt"]["route"] == "edge" for choice in answer.choices)


async def test_a_stream_carries_every_choice(site: Site) -> None:
    client = AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none")
    async with client, client.chat.completions.stream(**body(n=2)) as stream:
        final = await stream.get_final_completion()
    assert [len(choice.message.tool_calls or []) for choice in final.choices] == [1, 1]


async def test_one_choice_that_fails_cancels_the_others() -> None:
    kit = NodeKit(FakeEngine("<tool_call>"), FakeEngine(Unreachable("no answer")))
    async with serving(kit) as site:
        assert (await site.post(body(n=3))).status_code == 503
        kit.edge.reply = NORTH
        assert (await site.post(body())).status_code == 200


async def test_log_probabilities_come_token_by_token_with_their_alternatives(site: Site) -> None:
    named = (Token("No", -0.5, (("No", -0.5), ("Yes", -1.0))), Token("\u00e9", -math.inf, ()))
    site.kit.edge.reply = lambda prompt: Completion("No\u00e9", (-0.5, -9.0), "stop", 2, named)
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        asked = body(tools=[], logprobs=True, top_logprobs=2)
        whole = await client.chat.completions.create(**asked)
        async with client.chat.completions.stream(**asked) as stream:
            streamed = await stream.get_final_completion()
    assert site.kit.edge.asked[0][1].alternatives == 2
    for answer in (whole, streamed):
        told = answer.choices[0].logprobs
        assert told is not None and told.content is not None
        first, second = told.content
        assert (first.token, first.logprob, first.bytes) == ("No", -0.5, [78, 111])
        assert [(other.token, other.logprob) for other in first.top_logprobs] == [("No", -0.5), ("Yes", -1.0)]
        assert (second.bytes, second.logprob) == ([0xC3, 0xA9], -9999.0)


async def test_without_being_asked_for_log_probabilities_are_null(surface: Site) -> None:
    assert (await surface.post(body())).json()["choices"][0]["logprobs"] is None
    assert surface.kit.edge.asked[0][1].alternatives is None


async def test_a_client_may_say_who_answers_and_within_what(site: Site) -> None:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:

        async def told(**netgpt: Any) -> dict[str, Any]:
            answer = await client.chat.completions.create(**body(), extra_body={"netgpt": netgpt})
            return dict((answer.model_extra or {})["netgpt"])

        assert (await told(route="cloud"))["reason"] == "cloud_asked"
        assert (await told(route="edge"))["reason"] == "edge_asked"
        assert (await told(private=True))["route"] == "edge"
        site.kit.edge.logprobs = UNSURE
        assert (await told(max_cost_usd=0.0))["reason"] == "too_dear"
        assert (await told(deadline_ms=50))["reason"] == "too_late"
        assert (await told())["route"] == "cloud"


async def test_a_deadline_that_passes_is_504(site: Site) -> None:
    site.kit.edge.gate = asyncio.Event()
    reply = await site.post(body(netgpt={"deadline_ms": 50}))
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline_exceeded")
    assert site.kit.edge.cancelled == 1


async def test_a_degraded_answer_says_so() -> None:
    async with serving(NodeKit(FakeEngine(logprobs=UNSURE), link=DOWN)) as site:
        told = (await site.post(body())).json()["netgpt"]
    assert (told["degraded"], told["reason"], told["link"]["up"]) == (True, "link_down", False)


async def test_nothing_to_answer_with_is_503_with_retry_after() -> None:
    kit = NodeKit(FakeEngine("<tool_call>"), FakeEngine(Unreachable("no answer")))
    async with serving(kit) as site:
        reply = await site.post(body())
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert error_of(reply)["type"] == "server_error"


async def test_a_length_cut_answer_says_length(surface: Site) -> None:
    surface.kit.edge.reply = lambda prompt: Completion("And so", (-0.001,) * 4, "length", 4)
    reply = await surface.post(body())
    assert reply.json()["choices"][0]["finish_reason"] == "length"


# Bad input: 4xx in OpenAI's shape, naming the field

BROKEN = {
    "empty": b"",
    "text": b"hello",
    "half": b'{"model": "netgpt", ',
    "list": b"[]",
    "number": b"3",
    "null": b"null",
    "not utf-8": b'{"model": "\xff\xfe"}',
    "nan": b'{"model": "netgpt", "temperature": NaN}',
    "infinity": b'{"model": "netgpt", "temperature": 1e999}',
    "deep": b'{"model":' + b"[" * 200 + b"]" * 200 + b"}",
    "deeper": b'{"model":' + b"[" * 20000 + b"]" * 20000 + b"}",
    "digits": b'{"seed": ' + b"9" * 6000 + b"}",
    "surrogate": b'{"model": "netgpt", "messages": [{"role": "user", "content": "\\ud800"}]}',
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_not_usable_json_is_400_and_names_the_body(surface: Site, name: str) -> None:
    reply = await surface.post(BROKEN[name])
    assert reply.status_code == 400
    assert error_of(reply)["param"] == "body"
    assert error_of(reply)["code"] == "invalid_json"


def tool(parameters: Any, name: Any = "t") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


USER = {"role": "user", "content": "hi"}
WRONG = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{**USER, "shoe": 1}]}, "messages[0].shoe"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "t", "arguments": "{"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "t", "arguments": {}}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [tool({"type": "object"}, "a b")]}, "tools[0].function.name"),
    ({"tools": [MOVE, MOVE]}, "tools[1].function.name"),
    ({"tools": [tool({"type": "objekt"})]}, "tools[0].function.parameters"),
    ({"tools": [tool({"type": "array"})]}, "tools[0].function.parameters"),
    ({"tools": [tool([])]}, "tools[0].function.parameters"),
    ({"tools": [MOVE, tool({"properties": {"a": {"type": 5}}})]}, "tools[1].function.parameters"),
    ({"tools": [tool({"$ref": "#"})]}, "tools[0].function.parameters"),
    ({"tools": [tool({"$ref": "http://127.0.0.1:1/x"})]}, "tools[0].function.parameters"),
    ({"tools": [tool({"properties": {"a": {"pattern": "("}}})]}, "tools[0].function.parameters"),
    ({"tools": [tool({}, f"t{i}") for i in range(129)]}, "tools"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice.function.name"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"n": 17}, "n"),
    ({"n": 0}, "n"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"seed": 2**63}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": 3}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"x": 1}}, "stream_options.x"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"netgpt": {"route": "moon"}}, "netgpt.route"),
    ({"netgpt": {"route": "cloud", "private": True}}, "netgpt.route"),
    ({"netgpt": {"deadline_ms": 0}}, "netgpt.deadline_ms"),
    ({"netgpt": {"max_cost_usd": -1}}, "netgpt.max_cost_usd"),
    ({"netgpt": {"shoe": 1}}, "netgpt.shoe"),
    ({"netgpt": None}, "netgpt"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"frequency_penalty": 2.5}, "frequency_penalty"),
    ({"presence_penalty": -2.5}, "presence_penalty"),
    ({"functions": [{}]}, "functions"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
        "response_format.json_schema.schema",
    ),
    ({"modalities": ["audio"]}, "modalities[0]"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[f"{i}-{param}" for i, (_, param) in enumerate(WRONG)])
async def test_a_wrong_field_is_400_and_named(surface: Site, fields: dict[str, Any], param: str) -> None:
    reply = await surface.post(body(**fields))
    assert reply.status_code == 400
    assert error_of(reply)["param"] == param
    assert error_of(reply)["type"] == "invalid_request_error"
    assert not surface.kit.edge.asked


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_a_missing_field_is_400_and_named(surface: Site, missing: str) -> None:
    fields = body()
    del fields[missing]
    reply = await surface.post(fields)
    assert (reply.status_code, error_of(reply)["param"]) == (400, missing)


async def test_harmless_fields_are_let_through(surface: Site) -> None:
    harmless = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1, "logprobs": False,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "parallel_tool_calls": True,
        "modalities": ["text"], "stop": None, "tool_choice": "auto", "response_format": {"type": "text"},
        "reasoning_effort": None, "top_p": 1, "temperature": 1, "max_completion_tokens": 9, "seed": None,
    }  # fmt: skip
    reply = await surface.post(body(**harmless))
    assert reply.status_code == 200
    assert surface.kit.edge.asked[0][1].max_tokens == 9


async def test_penalties_reach_the_engine(surface: Site) -> None:
    await surface.post(body(frequency_penalty=0.5, presence_penalty=-1))
    drawn = surface.kit.edge.asked[0][1]
    assert (drawn.frequency_penalty, drawn.presence_penalty) == (0.5, -1.0)


async def test_an_unknown_model_is_404_and_the_openai_client_knows_it(site: Site) -> None:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        with pytest.raises(openai.NotFoundError, match="gpt-9") as missing:
            await client.chat.completions.create(**body(model="gpt-9"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_a_prompt_longer_than_the_context_is_400_and_names_messages(surface: Site) -> None:
    surface.kit.edge.reply, surface.kit.link.now = ContextTooLong(5000, 1, 1024), DOWN
    reply = await surface.post(body())
    assert reply.status_code == 400
    assert (error_of(reply)["code"], error_of(reply)["param"]) == ("context_length_exceeded", "messages")


async def test_ten_megabytes_are_413_whether_announced_or_streamed(site: Site) -> None:
    large = b'{"model": "' + b"x" * (10 << 20) + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    for content in (large, parts()):
        reply = await site.client.post("/v1/chat/completions", content=content)
        assert reply.status_code == 413
        assert (error_of(reply)["code"], error_of(reply)["param"]) == ("request_too_large", "body")
    assert (await site.post(body())).status_code == 200


async def test_unknown_paths_and_methods_have_openais_error_shape(surface: Site) -> None:
    for reply in (await surface.client.get("/v1/nothing"), await surface.client.get("/v1/chat/completions")):
        assert reply.status_code in (404, 405)
        assert error_of(reply)["type"] == "invalid_request_error"


async def test_a_mistake_of_ours_is_500_without_a_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.kit.edge.reply = ZeroDivisionError("secret detail")
    reply = await site.post(body())
    assert reply.status_code == 500
    assert error_of(reply)["code"] == "internal_error"
    assert "secret" not in reply.text


async def test_a_client_that_leaves_cancels_its_draft(site: Site) -> None:
    site.kit.edge.gate = asyncio.Event()
    with pytest.raises(httpx.ReadTimeout):
        await site.post(body(), timeout=0.2)
    await until(lambda: site.kit.edge.cancelled == 1)
    assert site.kit.log.records == []


async def test_more_requests_than_may_wait_are_429_with_retry_after() -> None:
    kit = NodeKit()
    kit.edge.gate = asyncio.Event()
    async with serving(kit, max_in_flight=2, max_waiting=1) as site:
        held = [asyncio.create_task(site.post(body())) for _ in range(2)]
        await until(lambda: len(kit.edge.asked) == 2)
        held.append(asyncio.create_task(site.post(body())))
        await until(lambda: site.surface.gauges()["waiting"] == 1)
        refused = await site.post(body())
        kit.edge.gate.set()
        assert [reply.status_code for reply in await asyncio.gather(*held)] == [200, 200, 200]
        assert (await site.post(body())).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert error_of(refused)["type"] == "rate_limit_error"


async def test_who_leaves_while_it_waits_gives_its_place_in_line_back() -> None:
    kit = NodeKit()
    kit.edge.gate = asyncio.Event()
    async with serving(kit, max_in_flight=1, max_waiting=1) as site:
        held = asyncio.create_task(site.post(body()))
        await until(lambda: len(kit.edge.asked) == 1)
        with pytest.raises(httpx.ReadTimeout):
            await site.post(body(), timeout=0.2)
        await until(lambda: site.surface.gauges()["waiting"] == 0)
        kit.edge.gate.set()
        assert (await held).status_code == 200
        assert len(kit.log.records) == 1


async def test_many_requests_at_once_each_get_their_own_answer() -> None:
    def echo(prompt: Any) -> str:
        return f"answer to {prompt.messages[0]['content']}"

    async with serving(NodeKit(FakeEngine(echo))) as site:
        questions = [body(messages=[{"role": "user", "content": str(i)}], tools=[ALARM]) for i in range(50)]
        replies = await asyncio.gather(*(site.post(question) for question in questions))
    assert [reply.json()["choices"][0]["message"]["content"] for reply in replies] == [
        f"answer to {i}" for i in range(50)
    ]
