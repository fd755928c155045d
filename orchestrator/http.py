"""The OpenAI surface of one site: a FastAPI app around an ``EdgeNode``.

``POST /v1/chat/completions``, ``GET /v1/models``, ``/healthz`` (the process runs), ``/readyz`` (it can answer).
Bodies are read with a limit, requests in flight are bounded, a client that leaves cancels its request. Every error
has OpenAI's shape; the caller's mistakes are 4xx and name the field. Not here: decisions (``actors.edge_node``),
the fields (``openai_schema``, ``openai_reply``), the socket (``site``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from actors.answer import Answer
from actors.chat import ChatRequest
from orchestrator import openai_reply as reply
from orchestrator.json_body import read_json
from orchestrator.openai_schema import ChatBody, read_body, to_request
from policies.errors import BadRequest, EngineError, NetGPTError

logger = logging.getLogger(__name__)

DRAIN_BYTES = 64 << 20  # of a body that is too large, read and forgotten so that its sender can read the answer
DRAIN_S = 5.0
RETRY_AFTER_S = 2  # the breaker's and the link probe's own pace: sooner would only be refused again
TOO_LARGE = 413
CLIENT_GONE = 499  # nobody reads it; nginx's number for the access log


class Node(Protocol):
    """What the surface needs of ``actors.edge_node.EdgeNode``."""

    async def answer(self, request: ChatRequest) -> Answer:
        """Answer, or raise BadRequest or EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class SurfaceOptions:
    """What the surface lets in.

    Args:
        served_model: the name clients send as ``model``.
        body_limit_bytes: a larger body is answered 413.
        max_in_flight: requests at once; beyond it 503 with Retry-After, so a queue never grows unseen.
    """

    served_model: str = "netgpt"
    body_limit_bytes: int = 2 << 20
    max_in_flight: int = 64


def create_app(node: Node, options: SurfaceOptions | None = None, ready: Callable[[], bool] = lambda: True) -> FastAPI:
    """The app; ``ready`` says whether ``/readyz`` answers 200."""
    surface = _Surface(node, options or SurfaceOptions())
    app = FastAPI(title="NetGPT edge site", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_route("/v1/chat/completions", surface.chat, methods=["POST"])
    app.add_route("/v1/models", surface.models, methods=["GET"])
    app.add_route("/healthz", _healthz, methods=["GET"])
    app.add_route("/readyz", lambda _: _readyz(ready()), methods=["GET"])
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(NetGPTError, _netgpt_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _unexpected)
    return app


class _Surface:
    """The handlers; they hold no state but the number of requests in flight."""

    def __init__(self, node: Node, options: SurfaceOptions) -> None:
        self._node, self._options = node, options
        self._in_flight = 0
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        """Read, answer, write."""
        data = read_json(await _read(request, self._options.body_limit_bytes))
        body = read_body(data)
        self._check_model(body.model)
        answer = await self._answer(request, to_request(body, data, uuid.uuid4().hex))
        return self._response(answer, body)

    async def models(self, _: Request) -> Response:
        """The one model."""
        return JSONResponse(reply.models(self._options.served_model, self._started))

    def _check_model(self, model: str) -> None:
        served = self._options.served_model
        if model != served:
            message = f"the model {model!r} does not exist; this site serves {served!r}"
            raise BadRequest(message, "model", "model_not_found", 404)

    async def _answer(self, request: Request, chat: ChatRequest) -> Answer:
        if self._in_flight >= self._options.max_in_flight:
            raise EngineError(f"{self._in_flight} requests are in flight already")
        self._in_flight += 1
        try:
            return await _unless_gone(request, self._node.answer(chat))
        finally:
            self._in_flight -= 1

    def _response(self, answer: Answer, body: ChatBody) -> Response:
        served, created, headers = self._options.served_model, int(time.time()), reply.headers(answer)
        if not body.stream:
            return JSONResponse(reply.completion(answer, served, created), headers=headers)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = "".join(reply.chunks(answer, served, created, include_usage))
        return Response(events, headers=headers, media_type="text/event-stream")


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """Await the answer, and cancel it if the client leaves first."""
    answer = asyncio.create_task(answering)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnect
    finally:
        for task in (answer, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, limit: int) -> bytes:
    """The body, never more than ``limit`` bytes of it in memory."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        await _drain(request)
        raise _too_large(limit)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            await _drain(request)
            raise _too_large(limit)
    return bytes(body)


async def _drain(request: Request) -> None:
    left = DRAIN_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0 and (message := await request.receive()).get("more_body"):
                left -= len(message.get("body", b""))


def _too_large(limit: int) -> BadRequest:
    return BadRequest(f"the body is larger than {limit} bytes", "body", "request_too_large", TOO_LARGE)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _readyz(ready: bool) -> Response:
    return JSONResponse({"status": "ready" if ready else "starting"}, 200 if ready else 503)


async def _netgpt_error(_: Request, why: Exception) -> Response:
    assert isinstance(why, NetGPTError)
    if isinstance(why, BadRequest):
        # What a client still sends of a refused body is not the start of its next request.
        headers = {"connection": "close"} if why.status == TOO_LARGE else None
        return JSONResponse(reply.error(why, why.status), why.status, headers)
    if isinstance(why, EngineError):
        return JSONResponse(reply.error(why, 503), 503, {"retry-after": str(RETRY_AFTER_S)})
    logger.error("a request failed: %s", why)
    return JSONResponse(reply.error(why, 500), 500)


async def _http_error(_: Request, why: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(why, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(why.status_code)
    body = reply.error_body(str(why.detail), "invalid_request_error", None, code)
    return JSONResponse(body, why.status_code, why.headers)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, why: Exception) -> Response:
    """A mistake of ours: the log has the traceback, the client a sentence."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=why)
    return JSONResponse(reply.error_body("internal error", "server_error", None, "internal_error"), 500)
