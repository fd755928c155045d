"""A streamed answer: chunks sent while its model writes, or all at once where the edge's draft had to be judged first.

Nothing is sent before it is decided who answers. ``ChatStream`` is the listener of ``actors.flow``; the events
themselves are ``chat_reply``'s. A client that reads slowly slows the cloud's answer down or gets larger parts of the
edge's, and nothing piles up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.answer import Answer
from orchestrator.endpoint import chat_reply as reply
from orchestrator.endpoint.asgi import EVENTS, Send, start
from orchestrator.endpoint.chat_reply import Told
from policies.types import Decision, Route, ToolCall


class ChatStream:
    """One response.

    Args:
        request_id: of the (first) choice.
        model: as clients know it.
        created: Unix time.
        include_usage: whether the last chunk says what was used.
    """

    def __init__(self, send: Send, request_id: str, model: str, created: int, include_usage: bool) -> None:
        self._send, self._id, self._model = send, request_id, model
        self._created, self._include_usage = created, include_usage
        self._head = reply.head(request_id, model, created, "chat.completion.chunk")
        self.told = Told()

    @property
    def begun(self) -> bool:
        """Whether the client has seen anything of it."""
        return self.told.begun

    async def begin(self, route: Route, decision: Decision | None) -> None:
        """See ``Listener``."""
        await self._start(reply.decision_headers(self._id, route, decision))
        await self._write(reply.chunk(self._head, {"role": "assistant", "content": ""}, self._include_usage))
        self.told = Told(begun=True)

    async def prose(self, text: str) -> None:
        """See ``Listener``."""
        await self._write(reply.chunk(self._head, {"content": text}, self._include_usage))
        self.told = Told(True, self.told.prose + len(text), self.told.calls)

    async def call(self, call: ToolCall) -> None:
        """See ``Listener``."""
        number = self.told.calls
        delta = {"tool_calls": [{"index": number, **reply.tool_call(self._id, number, call)}]}
        await self._write(reply.chunk(self._head, delta, self._include_usage))
        self.told = Told(True, self.told.prose, number + 1)

    async def end(self, answers: Sequence[Answer]) -> None:
        """Send what was not told yet, and the end."""
        if not self.told.begun:
            await self._start(reply.headers(answers[0]))
        rest = reply.chunks(answers, self._model, self._created, self._include_usage, self.told)
        await self._write(b"".join(rest), more=False)

    async def break_off(self, why: str) -> None:
        """End a stream that has begun, saying that it is not whole."""
        await self._write(reply.broken_off(why), more=False)

    async def _start(self, headers: Mapping[str, str]) -> None:
        await self._send(start(200, EVENTS, headers))

    async def _write(self, events: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": more})
