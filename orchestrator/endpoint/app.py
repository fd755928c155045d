"""The OpenAI surface of one site: an ASGI app around an ``EdgeNode``.

``POST /v1/chat/completions`` and ``/v1/responses``, ``GET /v1/models`` and ``/v1/models/{model}``, ``/healthz`` (the
process runs), ``/readyz`` (it can answer). Bodies are read with a limit, requests in flight and in line are bounded, a
client that leaves cancels its request. Every error has OpenAI's shape; the caller's mistakes are 4xx and name the
field. Not here: decisions (``actors.edge_node``), who may ask (``gatekeeper``, ``admission``), the fields (``asked``
and the dialects behind it), bytes (``asgi``), the socket (``site``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson

from actors.answer import Answer
from actors.chat import ChatRequest
from actors.feedback_log import Verdict
from actors.flow import Listener
from orchestrator.endpoint import chat_reply as reply
from orchestrator.endpoint.admission import Admission, Priority
from orchestrator.endpoint.asgi import TOO_LARGE, TOO_SLOW, Call, ClientGone, Receive, Reply, Send
from orchestrator.endpoint.asked import Read, chat_asked, responses_asked
from orchestrator.endpoint.feedback import read_feedback_body
from orchestrator.endpoint.gatekeeper import OpenDoor, Pass
from orchestrator.endpoint.json_body import read_json
from orchestrator.endpoint.openapi import document
from policies.errors import BadRequest, Busy, EngineError, LogError, NetGPTError, Refused

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2  # the breaker's and the link probe's own pace: sooner would only be refused again
TOO_MANY, TIMED_OUT = 429, 504
INTERNAL = "internal error"
ID_BYTES, IDS_AT_ONCE = 16, 64
ONE_MODEL = "/v1/models/"  # the name follows; it may hold slashes
Handler = Callable[[Call], Awaitable[Reply | None]]
"""Answers a call: returns the reply, or None when it has sent one by itself."""


class Door(Protocol):
    """Says who may come in; ``orchestrator.endpoint.gatekeeper`` has two."""

    def admit(self, authorization: bytes) -> Pass:
        """The pass of whoever sent this header, or BadRequest."""
        ...


class Node(Protocol):
    """What the surface needs of ``actors.edge_node.EdgeNode``."""

    async def answer(self, request: ChatRequest, listener: Listener | None = None) -> Answer:
        """Answer, or raise BadRequest or EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class SurfaceOptions:
    """What the surface lets in.

    Args:
        served_model: the name clients send as ``model``.
        body_limit_bytes: a larger body is answered 413.
        max_in_flight: requests at once.
        max_waiting: requests that wait for one of these to end; beyond it 429 with Retry-After.
    """

    served_model: str = "netgpt"
    body_limit_bytes: int = 2 << 20
    max_in_flight: int = 64
    max_waiting: int = 256


class Surface:
    """The app.

    Args:
        node: what answers.
        ready: says whether ``/readyz`` answers 200.
        door: who may ask.
        keep: writes a client's verdict down, blocking; None for a site that does not take any.
    """

    def __init__(
        self,
        node: Node,
        options: SurfaceOptions | None = None,
        ready: Callable[[], bool] = lambda: True,
        door: Door | None = None,
        keep: Callable[[Verdict], None] | None = None,
    ) -> None:
        self._node, self._options, self._ready = node, options or SurfaceOptions(), ready
        self._door, self._keep = door or OpenDoor(), keep
        self._admission = Admission(self._options.max_in_flight, self._options.max_waiting)
        self._started = int(time.time())
        self._ids = _ids()
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", partial(self._serve, chat_asked)),
            "/v1/responses": ("POST", partial(self._serve, responses_asked)),
            "/v1/feedback": ("POST", self._feedback),
            "/v1/models": ("GET", self._models),
            ONE_MODEL: ("GET", self._model),
            "/openapi.json": ("GET", self._openapi),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
        }

    def gauges(self) -> dict[str, float]:
        """Requests inside, in line and turned away."""
        return self._admission.gauges()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, whatever it is."""
        assert scope["type"] == "http", "the server is told to speak nothing else"
        try:
            answer = await self._handler(scope)(Call(scope, receive, send))
        except NetGPTError as why:
            answer = _refusal(why)
        except ClientGone:
            return
        except Exception as why:  # a mistake of ours: the log has the traceback, the client a sentence
            logger.error("%s %s failed", scope["method"], scope["path"], exc_info=why)
            answer = _json(reply.error_body(INTERNAL, "server_error", None, "internal_error"), 500)
        if answer is not None:
            await answer.send(send)

    def _handler(self, scope: Mapping[str, Any]) -> Handler:
        path = ONE_MODEL if scope["path"].startswith(ONE_MODEL) else scope["path"]
        if path not in self._routes:
            raise BadRequest(f"there is no {path}", None, "not_found", 404)
        method, handler = self._routes[path]
        return handler if scope["method"] == method else partial(_wrong_method, method)

    async def _serve(self, read: Read, call: Call) -> Reply | None:
        """Read, answer, write."""
        let_in = self._door.admit(call.header(b"authorization"))
        data = read_json(await call.body(self._options.body_limit_bytes))
        asked = read(data, next(self._ids), call.send).changed(let_in.within)
        self._check_model(asked.model)
        stream, taken = asked.stream, let_in.take(asked.requests)
        answers: tuple[Answer, ...] = ()
        try:
            answers = await call.unless_gone(self._in_turn(asked.requests, let_in.priority, stream))
        except Exception as why:
            if isinstance(why, BadRequest):
                asked.rename(why)
            if stream is None or not stream.begun or isinstance(why, ClientGone):
                raise
            if not isinstance(why, NetGPTError):
                logger.error("a stream failed", exc_info=why)
            await stream.break_off(str(why) if isinstance(why, NetGPTError) else INTERNAL)
            return None
        finally:
            let_in.settle(taken, answers)
        if stream is None:
            return _json(asked.whole(answers), headers=reply.headers(answers[0]))
        await stream.end(answers)
        return None

    async def _feedback(self, call: Call) -> Reply:
        """A verdict, on disk before it is acknowledged."""
        self._door.admit(call.header(b"authorization"))
        if self._keep is None:
            raise BadRequest("this site takes no feedback", None, "not_found", 404)
        verdict = read_feedback_body(read_json(await call.body(self._options.body_limit_bytes)))
        try:
            await asyncio.to_thread(self._keep, verdict)
        except LogError as why:
            logger.error("%s", why)
            raise EngineError("the feedback cannot be written down now") from None
        return _json({"object": "feedback", "id": verdict.request_id})

    async def _openapi(self, _: Call) -> Reply:
        """What this endpoint takes and gives."""
        return _json(document(self._options.served_model))

    async def _models(self, call: Call) -> Reply:
        """The one model."""
        self._door.admit(call.header(b"authorization"))
        return _json(reply.models(self._options.served_model, self._started))

    async def _model(self, call: Call) -> Reply:
        """It by its name."""
        self._door.admit(call.header(b"authorization"))
        self._check_model(call.scope["path"].removeprefix(ONE_MODEL))
        [model] = reply.models(self._options.served_model, self._started)["data"]
        return _json(model)

    async def _healthz(self, _: Call) -> Reply:
        return _json({"status": "ok"})

    async def _readyz(self, _: Call) -> Reply:
        ready = self._ready()
        return _json({"status": "ready" if ready else "starting"}, 200 if ready else 503)

    def _check_model(self, model: str) -> None:
        served = self._options.served_model
        if model != served:
            message = f"the model {model!r} does not exist; this site serves {served!r}"
            raise BadRequest(message, "model", "model_not_found", 404)

    async def _in_turn(
        self, asked: Sequence[ChatRequest], priority: Priority, stream: Listener | None
    ) -> tuple[Answer, ...]:
        await self._admission.enter(priority)
        began = time.perf_counter()
        try:
            return await _all(self._node, asked, stream)
        finally:
            self._admission.leave(time.perf_counter() - began)


def _ids() -> Iterator[str]:
    """Request ids, 32 hexadecimal digits that nobody can guess; the system is asked for many at once."""
    while True:
        digits = os.urandom(ID_BYTES * IDS_AT_ONCE).hex()
        for start in range(0, len(digits), 2 * ID_BYTES):
            yield digits[start : start + 2 * ID_BYTES]


async def _all(node: Node, asked: Sequence[ChatRequest], stream: Listener | None) -> tuple[Answer, ...]:
    """Every answer, or the first failure; a single one may be heard while it comes."""
    if len(asked) == 1:
        return (await node.answer(asked[0], stream),)
    answering = [asyncio.create_task(node.answer(request)) for request in asked]
    try:
        return tuple(await asyncio.gather(*answering))
    finally:
        for one in answering:
            one.cancel()


async def _wrong_method(allowed: str, call: Call) -> Reply:
    message = f"{call.scope['path']} takes {allowed}, not {call.scope['method']}"
    body = reply.error_body(message, "invalid_request_error", None, "method_not_allowed")
    return _json(body, 405, {"allow": allowed})


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(orjson.dumps(data), status, headers)


def _refusal(why: NetGPTError) -> Reply:
    if isinstance(why, BadRequest):
        # What a client still sends of a refused body is not the start of its next request.
        headers = {"connection": "close"} if why.status in (TOO_LARGE, TOO_SLOW) else None
        return _json(reply.error(why, why.status), why.status, headers)
    if isinstance(why, Busy):
        return _json(reply.error(why, TOO_MANY), TOO_MANY, {"retry-after": str(why.retry_after_s)})
    if isinstance(why, EngineError):
        if isinstance(why, Refused) and why.status == TIMED_OUT:
            return _json(reply.error(why, TIMED_OUT), TIMED_OUT)
        return _json(reply.error(why, 503), 503, {"retry-after": str(RETRY_AFTER_S)})
    logger.error("a request failed: %s", why)
    return _json(reply.error(why, 500), 500)
