"""An answer on its way to a client while its model still writes it: the cloud's, or the edge's where nothing competes.

Prose goes on at once. A tool call goes on once it is whole and passes the validity gate, so that no invalid one is ever
served; JSON that was asked for (``response_schema``) waits for its end. What went on is always the beginning of the
answer as it will be served, so whoever listens can be given the rest. Nothing here raises for what the model says: an
answer that turns out invalid simply stops flowing, and ``edge_node`` decides what becomes of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from actors.chat import ChatRequest
from policies.errors import EngineError
from policies.help_marker import may_begin
from policies.toolcalls import CLOSE, OPEN, parse, uncut
from policies.types import Decision, ParsedText, Reason, Route, ToolCall


class Listener(Protocol):
    """A client that wants its answer as it comes; every method may wait until it has taken what it was given."""

    async def begin(self, route: Route, decision: Decision | None) -> None:
        """Who is answering, and by which decision: None where there was none to make, and no score is known yet."""
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

    def __init__(
        self, request: ChatRequest, listener: Listener, route: Route, decision: Decision | None = None
    ) -> None:
        self._request, self._listener = request, listener
        self._route, self._decision = route, decision
        self._outside, self._rest = "", ""  # of whole calls, up to the last of them; and what follows it
        self._whole = ParsedText("")
        self._stopped = request.response_schema is not None
        self.prose = self.calls = 0

    @property
    def begun(self) -> bool:
        """Whether the client has seen something of it."""
        return bool(self.prose or self.calls)

    def of_cloud(self, decision: Decision) -> Flow:
        """The same client's flow of the cloud's answer."""
        return Flow(self._request, self._listener, Route.CLOUD, decision)

    def kept(self, decision: Decision) -> Decision:
        """The decision for this answer of the edge: it began when nothing competed with it, and has to stay."""
        if self.begun and decision.route is Route.CLOUD:
            return replace(decision, route=Route.EDGE, reason=Reason.LINK_DOWN, propensity=0.0)
        return decision

    async def hear(self, text: str) -> None:
        """Take the next part of the model's text (``actors.engine.Hear``)."""
        if self._stopped:
            return
        self._rest += text
        while not self._stopped and CLOSE in self._rest:
            await self._take_call()
        if not self._stopped:
            await self._take_prose(self._outside + self._rest)

    async def _take_call(self) -> None:
        before, _, inside = self._rest.partition(OPEN)
        inside, _, self._rest = inside.partition(CLOSE)
        self._outside += before
        await self._take_prose(self._outside)
        parsed = parse(OPEN + inside + CLOSE)
        self._whole = ParsedText(self._outside.strip(), (*self._whole.calls, *parsed.calls))
        if CLOSE in before or parsed.error or self._request.problem(self._whole):
            self._stopped = True
            return
        for call in parsed.calls:
            await self._begin()
            self.calls += 1
            await self._listener.call(call)

    async def _take_prose(self, text: str) -> None:
        sure = settled(text)
        if news := sure[self.prose :]:
            await self._begin()
            self.prose = len(sure)
            await self._listener.prose(news)

    async def _begin(self) -> None:
        if not self.begun:
            await self._listener.begin(self._route, self._decision)


def broken_off(why: str) -> EngineError:
    """What ends an answer of which the client has a part."""
    return EngineError(f"the answer broke off: {why}")


def settled(text: str) -> str:
    """What of ``text`` will stand in the answer whatever follows: no space around it, no tag or plea that begins."""
    text = uncut(text.split(OPEN, 1)[0].split(CLOSE, 1)[0])
    return text[: may_begin(text)].strip()
