"""An ``Answer`` as OpenAI's Responses API writes it: the response object, its items, its events.

The same facts as ``chat_reply`` writes, in the other dialect. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from actors.answer import Answer
from orchestrator.endpoint.chat_reply import logprobs, netgpt
from orchestrator.endpoint.responses_schema import ResponsesBody
from policies.toolcalls import compact
from policies.types import ToolCall

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Echo:
    """What every object about one response repeats of its request."""

    request_id: str
    created: int
    body: ResponsesBody


def response(echo: Echo, answer: Answer) -> Json:
    """The ``response`` object, finished."""
    cut, served = answer.served.finish_reason == "length", answer.served
    usage = {
        "input_tokens": served.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": served.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": served.prompt_tokens + served.tokens,
    }
    return {
        **begun(echo),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": items(echo, answer),
        "usage": usage,
        "netgpt": netgpt(answer),
    }


def begun(echo: Echo) -> Json:
    """The ``response`` object while nothing is answered yet."""
    body = echo.body
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{echo.request_id}",
        "object": "response",
        "created_at": echo.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 0.0 if body.temperature is None else body.temperature,
        "text": body.text.model_dump(by_alias=True, exclude_none=True),
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "metadata": body.metadata or {},
    }


def items(echo: Echo, answer: Answer) -> Sequence[Json]:
    """The output: the text, where there is one, then the calls."""
    parsed = answer.served.parsed
    status = "incomplete" if answer.served.finish_reason == "length" else "completed"
    texts = [message(echo, parsed.content, status, _told(answer))] if parsed.content or not parsed.calls else []
    first = len(texts)
    return [*texts, *(function_call(echo, first + n, call) for n, call in enumerate(parsed.calls))]


def message(echo: Echo, text: str | None, status: str, told: Sequence[Json] = ()) -> Json:
    """A message item, always the first; ``text`` None is one that begins."""
    content = [] if text is None else [part(text, told)]
    return {
        "type": "message",
        "id": f"msg_{echo.request_id}",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def part(text: str, told: Sequence[Json] = ()) -> Json:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(told)}


def function_call(echo: Echo, place: int, call: ToolCall, status: str = "completed") -> Json:
    """A call item; one ``in_progress`` has no arguments yet."""
    return {
        "type": "function_call",
        "id": f"fc_{echo.request_id}_{place}",
        "call_id": f"call_{echo.request_id}_{place}",
        "name": call.name,
        "arguments": compact(call.arguments) if status == "completed" else "",
        "status": status,
    }


def call_events(echo: Echo, place: int, call: ToolCall) -> Iterator[Json]:
    """A call from its first event to its last."""
    item = function_call(echo, place, call)
    where = {"item_id": item["id"], "output_index": place}
    yield {
        "type": "response.output_item.added",
        "output_index": place,
        "item": function_call(echo, place, call, "in_progress"),
    }
    yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
    yield {
        "type": "response.function_call_arguments.done",
        **where,
        "name": call.name,
        "arguments": item["arguments"],
    }
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def event(number: int, data: Json) -> bytes:
    """One server-sent event, the ``number``-th of its stream."""
    return b"event: %b\ndata: %b\n\n" % (
        str(data["type"]).encode(),
        orjson.dumps({**data, "sequence_number": number}),
    )


def _told(answer: Answer) -> Sequence[Json]:
    told = logprobs(answer)
    return told["content"] if told else ()
