"""What a call asks for, in the program's own terms, and how its answer is written in the client's dialect.

``chat_asked`` and ``responses_asked`` read a body into it; ``app`` serves it without knowing which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from actors.answer import Answer
from actors.chat import ChatRequest
from actors.flow import Listener
from orchestrator.endpoint import chat_reply, responses_reply
from orchestrator.endpoint.asgi import Send
from orchestrator.endpoint.chat_schema import choices, read_body, to_request
from orchestrator.endpoint.chat_stream import ChatStream
from orchestrator.endpoint.responses_schema import read_responses, to_chat
from orchestrator.endpoint.responses_stream import ResponsesStream
from policies.errors import BadRequest


class Stream(Listener, Protocol):
    """A response that is sent while its answer comes."""

    @property
    def begun(self) -> bool:
        """Whether the client has seen anything of it."""
        ...

    async def end(self, answers: Sequence[Answer]) -> None:
        """Send what is left."""
        ...

    async def break_off(self, why: str) -> None:
        """Say that the rest will not come."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: a request for each choice, all of ``model``.

    ``whole`` writes the answers as one object; ``stream`` sends them, where the client wants that. ``question`` is what
    the dialect calls the messages.
    """

    model: str
    requests: Sequence[ChatRequest]
    whole: Callable[[Sequence[Answer]], Mapping[str, Any]]
    stream: Stream | None
    question: str = "messages"

    def rename(self, why: BadRequest) -> None:
        """Have ``why`` call its field what this dialect does; the models behind know it by its common name."""
        if why.field == "messages":
            why.field = self.question

    def changed(self, change: Callable[[ChatRequest], ChatRequest]) -> Asked:
        """The same with every request changed."""
        return replace(self, requests=[change(request) for request in self.requests])


Read = Callable[[Mapping[str, Any], str, Send], Asked]
"""Reads a body of one dialect, given a new request's id and where a stream would go; raises BadRequest."""


def chat_asked(data: Mapping[str, Any], request_id: str, send: Send) -> Asked:
    """The body of a chat completion."""
    body, created = read_body(data), int(time.time())
    stream = None
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = ChatStream(send, request_id, body.model, created, include_usage)

    def whole(answers: Sequence[Answer]) -> Mapping[str, Any]:
        return chat_reply.completion(answers, body.model, created)

    return Asked(body.model, choices(to_request(body, data, request_id), body.n or 1), whole, stream)


def responses_asked(data: Mapping[str, Any], request_id: str, send: Send) -> Asked:
    """The body of a response."""
    body, created = read_responses(data), int(time.time())
    echo = responses_reply.Echo(request_id, created, body)
    chat = to_chat(body)
    request = to_request(chat, chat.model_dump(by_alias=True, exclude_none=True), request_id)

    def whole(answers: Sequence[Answer]) -> Mapping[str, Any]:
        return responses_reply.response(echo, answers[0])

    return Asked(body.model, [request], whole, ResponsesStream(send, echo) if body.stream else None, "input")
