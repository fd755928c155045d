"""The floor of the HTTP surface: a body within a limit, a reply, a client that leaves. Plain ASGI, as uvicorn speaks.

A framework's routing, middlewares and response objects would cost more than deciding does. What is asked and answered
is not known here (``app``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from policies.errors import BadRequest

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

TOO_LARGE, TOO_SLOW = 413, 408
DRAIN_BYTES = 64 << 20  # of a body that is too large, read and forgotten so that its sender can read the answer
DRAIN_S = 5.0
UNWATCHED_S = 0.01  # most answers of a cache or a small model are there sooner than a watch pays
BODY_S = 30.0  # for a whole body; a slow link carries two megabytes in that time
JSON, EVENTS = b"application/json", b"text/event-stream; charset=utf-8"
_UNFIT = re.compile(rb"[^\x20-\x7e]")


class ClientGone(Exception):
    """Nobody reads the answer any more."""


def start(status: int, media_type: bytes, headers: Mapping[str, str]) -> Message:
    """The message that begins a response; characters that have no place in a header arrive as ``?``."""
    lines = [(name.encode(), _UNFIT.sub(b"?", value.encode("ascii", "replace"))) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type), *lines]}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response, in JSON."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] | None = None

    async def send(self, send: Send) -> None:
        """Write it."""
        length = {"content-length": str(len(self.body))}
        await send(start(self.status, JSON, {**length, **(self.headers or {})}))
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it comes in."""

    scope: Mapping[str, Any]
    receive: Receive
    send: Send

    def header(self, name: bytes) -> bytes:
        """Its value, empty where there is none; ``name`` in lower case."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")

    async def body(self, limit: int) -> bytes:
        """Never more than ``limit`` bytes of it in memory.

        Raises:
            BadRequest: (413) it is larger, (408) it takes too long.
            ClientGone: it never came whole.
        """
        try:
            async with asyncio.timeout(BODY_S):
                return await self._body(limit)
        except TimeoutError:
            raise BadRequest(f"the body took more than {BODY_S:g} s", "body", "request_too_slow", TOO_SLOW) from None

    async def unless_gone(self, answering: Awaitable[T]) -> T:
        """Await the answer, and cancel it if the client leaves first.

        Raises:
            ClientGone: it did.
        """
        watch = _Watch(self.receive, asyncio.current_task())
        beginning = asyncio.get_running_loop().call_later(UNWATCHED_S, watch.begin)
        try:
            return await answering
        except asyncio.CancelledError:
            if watch.left:
                raise ClientGone from None
            raise
        finally:
            beginning.cancel()
            watch.end()

    async def _body(self, limit: int) -> bytes:
        announced = self.header(b"content-length")
        if announced.isdigit() and int(announced) > limit:
            await self._drain()
            raise _too_large(limit)
        parts, size, more = [], 0, True
        while more:
            message = await self._next()
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > limit:
                if more:
                    await self._drain()
                raise _too_large(limit)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _next(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def _drain(self) -> None:
        left = DRAIN_BYTES
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(DRAIN_S):
                while left > 0 and (message := await self._next()).get("more_body"):
                    left -= len(message.get("body", b""))


class _Watch:
    """Cancels ``task`` when the client leaves."""

    def __init__(self, receive: Receive, task: asyncio.Task[Any] | None) -> None:
        self._receive, self._task, self.left = receive, task, False
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._watching = asyncio.create_task(self._run())

    def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._task is not None:
            self._task.cancel()


def _too_large(limit: int) -> BadRequest:
    return BadRequest(f"the body is larger than {limit} bytes", "body", "request_too_large", TOO_LARGE)
