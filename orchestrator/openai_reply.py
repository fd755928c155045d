"""An ``Answer`` as OpenAI writes it: the completion object, the stream of chunks, the error object, the headers.

Beside OpenAI's own fields every answer carries a ``netgpt`` object and ``x-netgpt-*`` headers that say who answered
and why. Pure functions; ``orchestrator.http`` sends what they return.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from actors.answer import Answer
from policies.errors import BadRequest, NetGPTError
from policies.toolcalls import compact

Json = dict[str, Any]


def headers(answer: Answer) -> dict[str, str]:
    """Who answered, with which score against which threshold, from which weights."""
    return {
        "x-netgpt-route": str(answer.route),
        "x-netgpt-score": f"{answer.decision.score:.6f}",
        "x-netgpt-threshold": f"{answer.decision.threshold:.6f}",
        "x-netgpt-version": answer.served.version,
        "x-request-id": answer.request.request_id,
    }


def completion(answer: Answer, model: str, created: int) -> Json:
    """The ``chat.completion`` object."""
    message: Json = {"role": "assistant", "content": _content(answer), "refusal": None}
    if answer.served.parsed.calls:
        message["tool_calls"] = _tool_calls(answer)
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer), "logprobs": None}
    return {**_head(answer, model, created, "chat.completion"), "choices": [choice], **_tail(answer)}


def chunks(answer: Answer, model: str, created: int, include_usage: bool) -> Iterator[bytes]:
    """The same as server-sent events; ``netgpt`` comes with the chunk that ends the choice."""
    head = _head(answer, model, created, "chat.completion.chunk")
    usage: Json = {"usage": None} if include_usage else {}

    def event(delta: Json, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event({**head, "choices": [choice], **usage, **more})

    yield event({"role": "assistant", "content": "" if _content(answer) is not None else None})
    if content := _content(answer):
        yield event({"content": content})
    for index, call in enumerate(_tool_calls(answer)):
        yield event({"tool_calls": [{"index": index, **call}]})
    yield event({}, _finish_reason(answer), netgpt=netgpt(answer))
    if include_usage:
        yield _event({**head, "choices": [], **_tail(answer)})
    yield b"data: [DONE]\n\n"


def netgpt(answer: Answer) -> Json:
    """The route and everything that decided it; records in it are left to orjson."""
    return {
        "route": str(answer.route),
        "reason": str(answer.reason),
        "score": answer.decision.score,
        "threshold": answer.decision.threshold,
        "version": answer.served.version,
        "edge_version": answer.draft.version,
        "degraded": answer.degraded,
        "cost_usd": answer.cost_usd,
        "latency_ms": {
            "draft": answer.draft.seconds * 1e3,
            "cloud": answer.cloud.seconds * 1e3 if answer.cloud else 0.0,
            "total": answer.seconds * 1e3,
        },
        "link": answer.situation.state.link,
    }


def error(why: NetGPTError, status: int) -> Json:
    """The error object."""
    if isinstance(why, BadRequest):
        return error_body(why.message, "invalid_request_error", why.field, why.code)
    return error_body(str(why), "server_error", None, "service_unavailable" if status == 503 else "internal_error")


def error_body(message: str, kind: str, param: str | None, code: str | None) -> Json:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models(served: str, created: int) -> Json:
    """The list of the one model that is served."""
    return {
        "object": "list",
        "data": [{"id": served, "object": "model", "created": created, "owned_by": "netgpt"}],
    }


def _head(answer: Answer, model: str, created: int, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{answer.request.request_id}",
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": answer.served.version,
    }


def _tail(answer: Answer) -> Json:
    served = answer.served
    usage = {
        "prompt_tokens": served.prompt_tokens,
        "completion_tokens": served.tokens,
        "total_tokens": served.prompt_tokens + served.tokens,
    }
    return {"usage": usage, "netgpt": netgpt(answer)}


def _content(answer: Answer) -> str | None:
    parsed = answer.served.parsed
    return parsed.content if parsed.content or not parsed.calls else None


def _tool_calls(answer: Answer) -> list[Json]:
    return [
        {
            "id": f"call_{answer.request.request_id}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": compact(call.arguments)},
        }
        for index, call in enumerate(answer.served.parsed.calls)
    ]


def _finish_reason(answer: Answer) -> str:
    if answer.served.finish_reason == "length":
        return "length"
    return "tool_calls" if answer.served.parsed.calls else "stop"


def _event(data: Json) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)
