"""The body of ``POST /v1/feedback``: a client's verdict on an answer it got."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from actors.feedback_log import Verdict
from orchestrator.endpoint.chat_schema import MAX_TOOLS, CalledFunction
from orchestrator.endpoint.fields import Strict, first_problem
from orchestrator.endpoint.json_body import read_json
from policies.errors import BadRequest
from policies.toolcalls import render
from policies.types import ToolCall

# An id as an answer carries it; of the second choice and so on, with its number.
_ID = re.compile(r"(?:chatcmpl-|resp_)?([0-9a-f]{32}(?:-[0-9]{1,2})?)")


class RightCall(Strict):
    """A call that should have been made."""

    id: str | None = None
    type: str = Field(default="function", pattern="^function$")
    function: CalledFunction


class RightMessage(Strict):
    """What should have been answered, as an assistant's message."""

    role: str = Field(default="assistant", pattern="^assistant$")
    content: str | None = None
    tool_calls: list[RightCall] | None = Field(default=None, max_length=MAX_TOOLS)


class FeedbackBody(Strict):
    """The body of ``POST /v1/feedback``: at least one of ``right`` and ``message``."""

    id: str = Field(pattern=f"^{_ID.pattern}$")
    right: bool | None = None
    message: RightMessage | None = None


def read_feedback_body(data: Mapping[str, Any]) -> Verdict:
    """The verdict.

    Raises:
        BadRequest: the first field that cannot be used, by its path.
    """
    try:
        body = FeedbackBody.model_validate(data)
    except ValidationError as why:
        raise first_problem(why) from None
    if body.right is None and body.message is None:
        raise BadRequest("say whether the answer was right, or what it should have been", "right")
    if body.right and body.message:
        raise BadRequest("an answer that was right needs no other message", "message")
    found = _ID.fullmatch(body.id)
    assert found, "checked by the pattern"
    return Verdict(found[1], time.time_ns() // 1000, bool(body.right), _text(body.message))


def _text(message: RightMessage | None) -> str | None:
    """The message in the tool-call syntax."""
    if message is None:
        return None
    calls = [_call(index, call) for index, call in enumerate(message.tool_calls or ())]
    if not calls and not message.content:
        raise BadRequest("the message says nothing", "message.content")
    return (message.content or "") + render(calls)


def _call(index: int, call: RightCall) -> ToolCall:
    where = f"message.tool_calls[{index}].function.arguments"
    return ToolCall(call.function.name, read_json(call.function.arguments.encode() or b"{}", where))
