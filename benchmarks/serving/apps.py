"""The ASGI apps around the gateways under test: an upstream that answers at once, and the least a gateway can be.

``uvicorn benchmarks.serving.apps:upstream`` and ``...:forwarder``; the forwarder sends to ``$UPSTREAM``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import orjson

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

WORDS = "The capital of France is Paris, a city on the river Seine known for its museums and its light."
SPLIT = WORDS.split(" ")
HEAD = {"id": "chatcmpl-upstream", "created": 1_700_000_000, "model": "upstream"}
TOKENS: list[dict[str, Any]] = [{"token": word, "logprob": -0.01, "bytes": None, "top_logprobs": []} for word in SPLIT]
MESSAGE = {"role": "assistant", "content": WORDS}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": {"content": TOKENS}}
USAGE = {"prompt_tokens": 14, "completion_tokens": len(SPLIT), "total_tokens": 14 + len(SPLIT)}
WHOLE = orjson.dumps({**HEAD, "object": "chat.completion", "choices": [CHOICE], "usage": USAGE})
EVENTS = [
    orjson.dumps(
        {
            **HEAD,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}],
        }
    )
    for word in SPLIT
]


async def upstream(_: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """A chat completion that is always the same, whole or streamed."""
    body = await _body(receive)
    if b'"stream":true' in body or b'"stream": true' in body:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in (*EVENTS, b"[DONE]"):
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % event, "more_body": True})
        await send({"type": "http.response.body"})
        return
    await _answer(send, WHOLE)


async def forwarder(_: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Sends the body on and the answer back, and looks at neither."""
    body = await _body(receive)
    async with _client().post(f"{os.environ['UPSTREAM']}/chat/completions", data=body) as got:
        answer = await got.read()
    await _answer(send, answer)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_clients: list[aiohttp.ClientSession] = []


def _client() -> aiohttp.ClientSession:
    """One for the process, opened by its loop."""
    if not _clients:
        headers = {"content-type": "application/json"}
        _clients.append(aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=256)))
    return _clients[0]
