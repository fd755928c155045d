"""The cloud leg against real servers on real sockets: answers, errors, slowness, resets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from actors.build import build_cloud_leg
from actors.engine import Prompt, Sampling, Token
from actors.engine_settings import RemoteSettings
from actors.remote_engine import RemoteEngine
from policies.breaker import BreakerPolicy
from policies.errors import EngineError, Refused, Unreachable
from policies.toolcalls import parse
from policies.types import ToolCall

KEY = "sk-very-secret"
TOOL = {"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}}
ASK = Prompt([{"role": "user", "content": "move it"}], tools=[TOOL], tool_choice="required")
SETTINGS = RemoteSettings(api_key=KEY, connect_s=1.0, idle_s=1.0, deadline_s=2.0)

Answer = Callable[[dict[str, Any]], Response | dict[str, Any] | Awaitable[Response]]


class Cloud:
    """A small OpenAI-like server that answers what the test says and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: completion("hello")
        self.asked: list[dict[str, Any]] = []
        self.clients: set[tuple[str, int]] = set()
        self.keys: list[str] = []
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)
        self.base_url = ""

    async def complete(self, request: Request) -> Response:
        assert request.client is not None
        self.clients.add((request.client.host, request.client.port))
        self.keys.append(request.headers.get("authorization", ""))
        self.asked.append(await request.json())
        answer = self.answer(self.asked[-1])
        answer = await answer if isinstance(answer, Awaitable) else answer
        return JSONResponse(answer) if isinstance(answer, dict) else answer


def completion(content: str | None, calls: list[tuple[str, str]] = (), **extra: Any) -> dict[str, Any]:  # type: ignore[assignment]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": str(i), "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]
    usage = {"prompt_tokens": 20, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 16}}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"model": "cloud-7", "choices": [{**choice, **extra}], "usage": usage}


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    fake = Cloud()
    async with listening(fake.app) as port:
        fake.base_url = f"http://127.0.0.1:{port}/v1"
        yield fake


@pytest.fixture
async def remote(cloud: Cloud) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(cloud.base_url, "big", SETTINGS)
    yield engine
    await engine.close()


async def test_an_answer_carries_text_usage_version_and_bytes(cloud: Cloud, remote: RemoteEngine) -> None:
    generation = await remote.generate(ASK, Sampling(max_tokens=9, temperature=0.5, seed=3, stop=("x",)))
    assert [c.text for c in generation.completions] == ["hello"]
    assert (generation.prompt_tokens, generation.cached_tokens, generation.version) == (20, 16, "cloud-7")
    assert (generation.completions[0].tokens, generation.completions[0].logprobs) == (6, ())
    asked = cloud.asked[0]
    assert (asked["model"], asked["max_tokens"], asked["seed"], asked["stop"]) == ("big", 9, 3, ["x"])
    assert (asked["tools"], asked["tool_choice"]) == ([TOOL], "required")
    assert "logprobs" not in asked and "response_format" not in asked
    assert cloud.keys == [f"Bearer {KEY}"]
    assert len(json.dumps(asked)) < generation.up_bytes < len(json.dumps(asked)) + 600
    assert len(json.dumps(completion("hello"))) - 40 < generation.down_bytes < 1000
    assert 0 < generation.seconds < 1


async def test_calls_reuse_one_connection(cloud: Cloud, remote: RemoteEngine) -> None:
    for _ in range(3):
        await remote.generate(ASK, Sampling())
    assert len(cloud.clients) == 1


async def test_tool_calls_become_text(cloud: Cloud, remote: RemoteEngine) -> None:
    cloud.answer = lambda body: completion("I move it.", [("move", '{"to": "north"}'), ("stop", "")])
    parsed = parse((await remote.generate(ASK, Sampling())).completions[0].text)
    assert parsed.content == "I move it."
    assert parsed.calls == (ToolCall("move", {"to": "north"}), ToolCall("stop", {}))


@pytest.mark.parametrize(
    "arguments", ['{"to": ', '{}, "b": 1', "[1]", "7", '{"x": NaN}', "[" * 100_000, "</tool_call>"]
)
async def test_malformed_arguments_stay_in_sight(cloud: Cloud, remote: RemoteEngine, arguments: str) -> None:
    cloud.answer = lambda body: completion(None, [("move", arguments)])
    text = (await remote.generate(ASK, Sampling())).completions[0].text
    assert "move" in text
    assert parse(text).error is not None
    assert parse(text).calls == ()


async def test_log_probabilities_and_schema_are_asked_for_and_read(cloud: Cloud) -> None:
    content = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    cloud.answer = lambda body: completion("ab", logprobs={"content": content}, finish_reason="length")
    settings = RemoteSettings(logprobs=True, body={"reasoning_effort": "low", "top_p": None})
    engine = RemoteEngine(cloud.base_url + "/", "big", settings)
    prompt = Prompt(ASK.messages, schema={"type": "object"})
    answer = (await engine.generate(prompt, Sampling(n=1))).completions[0]
    await engine.close()
    assert (answer.logprobs, answer.finish_reason, answer.tokens) == ((-0.5, -1.5), "length", 2)
    asked = cloud.asked[0]
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (asked["logprobs"], asked["reasoning_effort"]) == (True, "low")
    assert "top_p" not in asked and "tool_choice" not in asked and cloud.keys == [""]


async def test_tokens_are_named_where_that_is_asked_for(cloud: Cloud, remote: RemoteEngine) -> None:
    content = [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]
    cloud.answer = lambda body: completion("a", logprobs={"content": content})
    answer = (await remote.generate(ASK, Sampling(alternatives=1))).completions[0]
    assert answer.named == (Token("a", -0.5, (("a", -0.5),)),)
    assert (cloud.asked[0]["logprobs"], cloud.asked[0]["top_logprobs"]) == (True, 1)
    await remote.generate(ASK, Sampling(alternatives=0))
    assert cloud.asked[1]["logprobs"] is True and "top_logprobs" not in cloud.asked[1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model: big"}}', "no such model: big"),
        (b'{"detail": "wrong path"}', "wrong path"),
        (b"<html>Bad gateway</html>", "Bad gateway"),
        (b"", "no message"),
        (b"[1]", "1"),
    ],
)
async def test_an_error_status_names_endpoint_and_upstreams_words(
    cloud: Cloud, remote: RemoteEngine, body: bytes, words: str
) -> None:
    cloud.answer = lambda _: Response(body, status_code=502)
    with pytest.raises(Refused, match=words) as caught:
        await remote.generate(ASK, Sampling())
    assert caught.value.status == 502
    assert str(caught.value).startswith(f"{cloud.base_url}/chat/completions answered 502")


async def test_a_password_in_the_url_is_sent_but_not_named(cloud: Cloud) -> None:
    engine = RemoteEngine(cloud.base_url.replace("http://", "http://user:hush@"), "big")
    await engine.generate(ASK, Sampling())
    await engine.close()
    assert cloud.keys[0].startswith("Basic ")
    assert "hush" not in engine.endpoint


async def test_the_api_key_never_leaks(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cloud.answer = lambda _: JSONResponse({"error": {"message": f"wrong key {KEY}"}}, status_code=401)
    engine = RemoteEngine(cloud.base_url.replace("http://", "http://user:hush@"), "big", SETTINGS)
    with pytest.raises(Refused) as caught:
        await engine.generate(ASK, Sampling())
    await engine.close()
    seen = str(caught.value) + repr(caught.value) + repr(SETTINGS) + engine.endpoint + caplog.text
    assert KEY not in seen
    assert "hush" not in seen


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"choices": 5}', b"not json", b'{"choices": [{"message": null}]}'])
async def test_an_answer_that_is_no_completion_is_an_engine_error(
    cloud: Cloud, remote: RemoteEngine, body: bytes
) -> None:
    cloud.answer = lambda _: Response(body, media_type="application/json")
    with pytest.raises(EngineError, match="not a chat completion") as caught:
        await remote.generate(ASK, Sampling())
    assert type(caught.value) is EngineError


async def test_an_endless_answer_is_cut(cloud: Cloud, remote: RemoteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.endpoint.MAX_ANSWER_BYTES", 1000)
    cloud.answer = lambda _: Response(b"x" * 2000)
    with pytest.raises(EngineError, match="longer than 1000 bytes"):
        await remote.generate(ASK, Sampling())


async def test_a_silent_server_is_unreachable(cloud: Cloud, remote: RemoteEngine) -> None:
    async def never(_: Any) -> Response:
        await asyncio.sleep(1.6)
        return Response()

    cloud.answer = never
    with pytest.raises(Unreachable, match=f"{cloud.base_url}.*SocketTimeoutError"):
        await remote.generate(ASK, Sampling())


async def test_a_server_that_drips_is_cut_at_the_deadline() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async with talking(drip) as port:
        with pytest.raises(Unreachable, match="no answer within 2 s"):
            await ask_once(port)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", b"SSH-2.0-hello\r\n"])
async def test_a_connection_that_breaks_is_unreachable(said: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with talking(hang_up) as port:
        with pytest.raises(Unreachable):
            await ask_once(port)


async def test_a_closed_port_is_unreachable_and_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port}.*ClientConnectorError"):
            await ask_once(port)


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8000", "http://", "http://host:port/v1"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(EngineError, match="endpoint"):
        RemoteEngine(url, "big")


async def test_what_a_remote_model_cannot_do_is_said(remote: RemoteEngine) -> None:
    with pytest.raises(EngineError, match="prefill"):
        await remote.generate(Prompt(ASK.messages, prefill="<tool_call>"), Sampling())
    with pytest.raises(EngineError, match="weights"):
        await remote.load(Path("anywhere"), "v2")


async def test_the_cloud_leg_survives_a_hiccup_and_stops_asking_a_dead_cloud(cloud: Cloud) -> None:
    statuses = iter([503, 200] + [500] * 20)
    cloud.answer = lambda _: JSONResponse(completion("hello"), status_code=next(statuses))
    settings = RemoteSettings(attempts=2, backoff_s=0.001, backoff_max_s=0.002, breaker=BreakerPolicy(failures=2))
    leg = build_cloud_leg(cloud.base_url, "big", settings)
    assert (await leg.generate(ASK, Sampling())).completions[0].text == "hello"
    for _ in range(2):
        with pytest.raises(Refused):
            await leg.generate(ASK, Sampling())
    with pytest.raises(Unreachable, match="not asked"):
        await leg.generate(ASK, Sampling())
    await leg.close()
    assert len(cloud.asked) == 6


@asynccontextmanager
async def talking(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A bare TCP server that hangs up when ``handle`` has said what it has to say."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handle(reader, writer)
        writer.close()
        done.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await done.wait()


async def ask_once(port: int) -> None:
    engine = RemoteEngine(f"http://127.0.0.1:{port}/v1", "big", SETTINGS)
    try:
        await engine.generate(ASK, Sampling())
    finally:
        await engine.close()
