"""A response of the Responses API, sent as events while its answer comes; the listener of ``actors.flow``.

As with chat completions nothing is sent before it is decided who answers, prose flows and calls come whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.answer import Answer
from orchestrator.endpoint import chat_reply, responses_reply
from orchestrator.endpoint.asgi import EVENTS, Send, start
from orchestrator.endpoint.responses_reply import Echo
from policies.types import Decision, Route, ToolCall

Json = Mapping[str, Any]


class ResponsesStream:
    """One response."""

    def __init__(self, send: Send, echo: Echo) -> None:
        self._send, self._echo = send, echo
        self._number = 0  # of the next event
        self._text: str | None = None  # so far; None: no message has begun
        self._calls = 0
        self._closed = False  # the message
        self.begun = False

    async def begin(self, route: Route, decision: Decision | None) -> None:
        """See ``Listener``."""
        await self._start(chat_reply.decision_headers(self._echo.request_id, route, decision))

    async def prose(self, text: str) -> None:
        """See ``Listener``; words after a call are in the last event alone, for the message comes before the calls."""
        if self._calls:
            return
        opening = [] if self._text is not None else self._opening()
        self._text = (self._text or "") + text
        delta = {"type": "response.output_text.delta", **self._where, "delta": text, "logprobs": []}
        await self._write([*opening, delta])

    async def call(self, call: ToolCall) -> None:
        """See ``Listener``."""
        closing = self._closing(self._text or "", ())
        place = self._calls + (self._text is not None)
        self._calls += 1
        await self._write([*closing, *responses_reply.call_events(self._echo, place, call)])

    async def end(self, answers: Sequence[Answer]) -> None:
        """Send what was not told yet, and the end."""
        answer = answers[0]
        if not self.begun:
            await self._start(chat_reply.headers(answer))
        parsed = answer.served.parsed
        if rest := parsed.content[len(self._text or "") :]:
            await self.prose(rest)
        elif self._text is None and not parsed.calls:
            self._text = ""
            await self._write(self._opening())
        told = chat_reply.logprobs(answer)
        await self._write(self._closing(parsed.content, told["content"] if told else ()))
        for call in parsed.calls[self._calls :]:
            await self.call(call)
        whole = responses_reply.response(self._echo, answer)
        await self._write([{"type": f"response.{whole['status']}", "response": whole}], more=False)

    async def break_off(self, why: str) -> None:
        """Say that the rest will not come."""
        error = {"code": "server_error", "message": why}
        failed = {**responses_reply.begun(self._echo), "status": "failed", "error": error}
        await self._write([{"type": "response.failed", "response": failed}], more=False)

    @property
    def _where(self) -> Json:
        return {"item_id": f"msg_{self._echo.request_id}", "output_index": 0, "content_index": 0}

    def _opening(self) -> list[Json]:
        """The events before the first word."""
        item = responses_reply.message(self._echo, None, "in_progress")
        return [
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **self._where, "part": responses_reply.part("")},
        ]

    def _closing(self, text: str, told: Sequence[Json]) -> list[Json]:
        """The events after the last word, once."""
        if self._text is None or self._closed:
            return []
        self._closed = True
        item = responses_reply.message(self._echo, text, "completed", told)
        return [
            {"type": "response.output_text.done", **self._where, "text": text, "logprobs": list(told)},
            {"type": "response.content_part.done", **self._where, "part": responses_reply.part(text, told)},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
        ]

    async def _start(self, headers: Mapping[str, str]) -> None:
        self.begun = True
        await self._send(start(200, EVENTS, headers))
        kinds = ("response.created", "response.in_progress")
        await self._write([{"type": kind, "response": responses_reply.begun(self._echo)} for kind in kinds])

    async def _write(self, events: Sequence[Json], more: bool = True) -> None:
        written = b"".join(responses_reply.event(self._number + n, one) for n, one in enumerate(events))
        self._number += len(events)
        await self._send({"type": "http.response.body", "body": written, "more_body": more})
