"""Twenty thousand bodies that nobody meant: every one is answered or refused, in OpenAI's shape, at once."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_fakes import ALARM, MOVE, NodeKit

from actors.feedback_log import FeedbackLog
from orchestrator.endpoint.app import Surface, SurfaceOptions

COUNT, LONGEST_S = 20_000, 2.0
TOOL = {"type": "function", **MOVE["function"]}  # type: ignore[dict-item]
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {
            "model": "netgpt",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "move it"}]},
                {"role": "assistant", "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "move_slice", "arguments": '{"to":"north"}'}}
                ]},
                {"role": "tool", "tool_call_id": "1", "content": "done"},
            ],
            "tools": [MOVE, ALARM], "tool_choice": "auto", "parallel_tool_calls": True, "n": 1, "stop": ["x"],
            "temperature": 0.5, "top_p": 1, "seed": 1, "max_tokens": 5, "stream": True, "logprobs": True,
            "stream_options": {"include_usage": True}, "top_logprobs": 1, "user": "u", "netgpt": {"route": "auto"},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        },
    ],
    "/v1/responses": [
        {
            "model": "netgpt",
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "function_call", "call_id": "1", "name": "move_slice", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "done"},
            ],
            "instructions": "i", "tools": [TOOL], "tool_choice": "auto", "max_output_tokens": 5, "stream": False,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}, "top_logprobs": 1,
        },
    ],
    "/v1/feedback": [{"id": "0" * 32, "right": False, "message": {"content": "c", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]}}],
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**53, 10**30, "", "x" * 5000, "\u0000", "\ud83d\ude00", "<tool_call>", [], {}, [[]],
    {"$ref": "#"}, {"type": 5}, {"pattern": "("}, {"$ref": "#/x"}, {"enum": []}, {"anyOf": [{}] * 50}, "NaN", "1e999",
    {"properties": {"a": {"pattern": "^(a|aa)+$"}}}, {"type": "object", "additionalProperties": {"$ref": "#"}},
]  # fmt: skip
BYTES = [b"\xff", b"\x00", b"1e400", b"NaN", b"-", b"[" * 300, b"{" * 300, b'"\\ud800"', b"\\", b'{"a":1,"a":2}', b""]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside ``value``."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*at, key)
        yield from places(inner, (*at, key))


def mutated(rng: random.Random, seed: dict[str, Any]) -> bytes:
    """``seed`` with a few places changed, and now and then a few bytes."""
    body = copy.deepcopy(seed)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = list(places(body))
        if not found:
            break
        *way, last = rng.choice(found)
        owner = body
        for key in way:
            owner = owner[key]
        match rng.randrange(5):
            case 0:
                del owner[last]
            case 1 if isinstance(owner, dict):
                owner[rng.choice(["colour", "strict", "$ref", "type", ""])] = copy.deepcopy(rng.choice(ODD))
            case 2:
                owner[last] = [copy.deepcopy(owner[last])] * rng.choice([1, 2, 200])
            case 3:
                owner[last] = {"x": copy.deepcopy(owner[last])}
            case _:
                owner[last] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(body).encode()
    if rng.random() < 0.2:
        start = rng.randrange(len(text))
        text = text[:start] + rng.choice(BYTES) + text[start + rng.randrange(20) :]
    return text


async def asked(app: Surface, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of one request, without a socket."""
    said: list[Any] = []
    waiting = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not said and not getattr(receive, "read", False):
            receive.read = True  # type: ignore[attr-defined]
            return {"type": "http.request", "body": body}
        await waiting.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        said.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])


@pytest.mark.parametrize("path", SEEDS)
async def test_no_body_makes_the_endpoint_fail_or_hang(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.feedback_log.os.fsync", lambda _: None)
    app = Surface(NodeKit().node, SurfaceOptions(body_limit_bytes=1 << 18), keep=FeedbackLog(tmp_path, "a").append)
    rng, found = random.Random(7), Counter[int]()
    for number in range(COUNT // len(SEEDS)):
        body = mutated(rng, rng.choice(SEEDS[path]))
        began = time.monotonic()
        status, answer = await asked(app, path, body)
        assert time.monotonic() - began < LONGEST_S, (number, body)
        assert b"Traceback" not in answer
        # 503: no valid draft and no cloud's either, for tools or formats that no answer of the fakes can fit.
        assert status in (200, 400, 404, 413, 503), (number, status, body, answer)
        if status >= 400:
            assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
        found[status] += 1
    assert found[200] and found[400]
    assert not [record for record in caplog.records if record.exc_info]
