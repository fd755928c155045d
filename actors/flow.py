"""An answer on its way to a client while the cloud still writes it.

Prose goes on at once. A tool call goes on once it is whole and passes the validity gate, so that no invalid one is ever
served; JSON that was asked for (``response_schema``) waits for its end. What went on is always the beginning of the
answer as it will be served, so whoever listens can be given the rest. Nothing here raises for what the cloud says: an
answer that turns out invalid simply stops flowing, and ``edge_node`` decides what becomes of it.
"""

from __future__ import annotations

from typing import Protocol

from actors.chat import ChatRequest
from policies.toolcalls import OPEN, parse
from policies.types import Decision, ParsedText, ToolCall


class Listener(Protocol):
    """A client that wants its answer as it comes; every method may wait until it has taken what it was given."""

    async def begin(self, decision: Decision) -> None:
        """The cloud is answering."""
        ...

    async def prose(self, text: str) -> None:
        """The next part of the text."""
        ...

    async def call(self, call: ToolCall) -> None:
        """The next tool call."""
        ...


class Flow:
    """One answer's way.

    ``prose`` and ``calls`` count what the listener was given: characters and calls.
    """

    def __init__(self, request: ChatRequest, decision: Decision, listener: Listener) -> None:
        self._request, self._decision, self._listener = request, decision, listener
        self._written, self._whole = "", ParsedText("")
        self._stopped = request.response_schema is not None
        self.prose = self.calls = 0

    @property
    def begun(self) -> bool:
        """Whether the client has seen something of it."""
        return bool(self.prose or self.calls)

    async def hear(self, text: str) -> None:
        """Take the next part of the model's text: prose, or a whole call (``actors.engine.Hear``)."""
        if self._stopped:
            return
        if text.startswith(OPEN):
            await self._take_calls(parse(text))
        else:
            self._written += text
            await self._take_prose()

    async def _take_calls(self, parsed: ParsedText) -> None:
        self._whole = ParsedText(self._written, (*self._whole.calls, *parsed.calls))
        if parsed.error or self._request.problem(self._whole):
            self._stopped = True
            return
        for call in parsed.calls:
            await self._begin()
            self.calls += 1
            await self._listener.call(call)

    async def _take_prose(self) -> None:
        sure = settled(self._written)
        self._stopped = OPEN in self._written  # a call within prose is told apart when all of it is there
        if news := sure[self.prose :]:
            await self._begin()
            self.prose = len(sure)
            await self._listener.prose(news)

    async def _begin(self) -> None:
        if not self.begun:
            await self._listener.begin(self._decision)


def settled(text: str) -> str:
    """What of ``text`` will stand in the answer whatever follows: no space around it, no tag that only begins."""
    text = text.split(OPEN, 1)[0].strip()
    for length in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if OPEN.startswith(text[-length:]):
            return text[:-length].rstrip()
    return text
