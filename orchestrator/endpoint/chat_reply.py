"""An ``Answer`` as OpenAI writes it: the completion object, the stream of chunks, the error object, the headers.

Beside OpenAI's own fields every answer carries a ``netgpt`` object and ``x-netgpt-*`` headers that say who answered
and why. Pure functions; ``orchestrator.endpoint.app`` sends what they return.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from actors.answer import Answer
from policies.errors import BadRequest, Busy, NetGPTError
from policies.toolcalls import compact
from policies.types import Decision, Route, ToolCall

Json = Mapping[str, Any]
EMPTY: Json = {}
UNAUTHORIZED = 401
CODES = {503: "service_unavailable", 504: "deadline_exceeded"}
LEAST_LOGPROB = -9999.0  # what OpenAI writes for impossible; JSON has no infinity


def headers(answer: Answer) -> dict[str, str]:
    """Who answered, with which score against which threshold, from which weights."""
    known = decision_headers(answer.request.request_id, answer.route, answer.decision)
    return {**known, "x-netgpt-version": answer.served.version}


def decision_headers(request_id: str, route: Route, decision: Decision | None) -> dict[str, str]:
    """What of it is known when an answer begins; score and threshold are not where there was nothing to decide."""
    known = {"x-netgpt-route": str(route), "x-request-id": request_id}
    if decision is None:
        return known
    return {
        **known,
        "x-netgpt-score": f"{decision.score:.6f}",
        "x-netgpt-threshold": f"{decision.threshold:.6f}",
    }


def completion(answers: Sequence[Answer], model: str, created: int) -> Json:
    """The ``chat.completion`` object; one choice an answer, ``usage`` is theirs together."""
    choices = [_choice(index, answer, len(answers)) for index, answer in enumerate(answers)]
    return {**_head(answers[0], model, created, "chat.completion"), "choices": choices, **_tail(answers)}


@dataclass(frozen=True, slots=True)
class Told:
    """What of a stream's first choice its client has: whether anything, characters of the text, calls."""

    begun: bool = False
    prose: int = 0
    calls: int = 0


NOTHING = Told()


def chunks(
    answers: Sequence[Answer], model: str, created: int, include_usage: bool, told: Told = NOTHING
) -> Iterator[bytes]:
    """The same as server-sent events, without what was told; ``netgpt`` comes with the chunk that ends the choice."""
    head = _head(answers[0], model, created, "chat.completion.chunk")
    for index, answer in enumerate(answers):
        for delta, more in _deltas(answer, NOTHING if index else told):
            last = {"netgpt": netgpt(answer)} if "finish_reason" in more else {}
            yield chunk(head, delta, include_usage, index, more, last)
    if include_usage:
        yield _event({**head, "choices": [], **_tail(answers)})
    yield b"data: [DONE]\n\n"


def chunk(
    head: Json, delta: Json, include_usage: bool, index: int = 0, more: Json = EMPTY, last: Json = EMPTY
) -> bytes:
    """One event of a stream: what choice ``index`` grows by, ``more`` about the choice, ``last`` about the chunk."""
    choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
    usage: Json = {"usage": None} if include_usage else {}
    return _event({**head, "choices": [choice], **usage, **last})


def head(request_id: str, model: str, created: int, kind: str) -> Json:
    """The fields of every object that is about the same request."""
    return {"id": f"chatcmpl-{request_id}", "object": kind, "created": created, "model": model}


def tool_call(request_id: str, number: int, call: ToolCall) -> Json:
    """The ``number``-th call of an answer."""
    function = {"name": call.name, "arguments": compact(call.arguments)}
    return {"id": f"call_{request_id}_{number}", "type": "function", "function": function}


def broken_off(why: str) -> bytes:
    """The event that ends a stream whose answer cannot be finished."""
    return _event(error_body(why, "server_error", None, "answer_broke_off"))


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
        kind = "authentication_error" if why.status == UNAUTHORIZED else "invalid_request_error"
        return error_body(why.message, kind, why.field, why.code)
    if isinstance(why, Busy):
        return error_body(why.message, "rate_limit_error", None, "rate_limit_exceeded")
    return error_body(str(why), "server_error", None, CODES.get(status, "internal_error"))


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
    return {**head(answer.request.request_id, model, created, kind), "system_fingerprint": answer.served.version}


def _tail(answers: Sequence[Answer]) -> Json:
    prompt, tokens = answers[0].served.prompt_tokens, sum(answer.served.tokens for answer in answers)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"usage": usage, "netgpt": netgpt(answers[0])}


def _choice(index: int, answer: Answer, of: int) -> Json:
    message: dict[str, Any] = {"role": "assistant", "content": _content(answer), "refusal": None}
    if answer.served.parsed.calls:
        message["tool_calls"] = _tool_calls(answer)
    choice = {
        "index": index,
        "message": message,
        "finish_reason": _finish_reason(answer),
        "logprobs": logprobs(answer),
    }
    return choice if of == 1 else {**choice, "netgpt": netgpt(answer)}


def _deltas(answer: Answer, told: Told) -> Iterator[tuple[Json, Json]]:
    """What a choice still grows by, and what else its chunk says."""
    content, told_tokens = _content(answer), logprobs(answer)
    if not told.begun:
        yield {"role": "assistant", "content": "" if content is not None else None}, {}
    if rest := (content or "")[told.prose :]:
        yield {"content": rest}, {"logprobs": told_tokens}
    for number, call in list(enumerate(_tool_calls(answer)))[told.calls :]:
        yield {"tool_calls": [{"index": number, **call}]}, {}
    yield {}, {"finish_reason": _finish_reason(answer), "logprobs": None if rest else told_tokens}


def logprobs(answer: Answer) -> Json | None:
    """Every token the model wrote, those of its tool calls too, where the client asked for them."""
    if answer.request.sampling.alternatives is None:
        return None
    tokens = [
        {**_token(token.text, token.logprob), "top_logprobs": [_token(text, logprob) for text, logprob in token.top]}
        for token in answer.served.named
    ]
    return {"content": tokens, "refusal": None}


def _token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text.encode())}


def _content(answer: Answer) -> str | None:
    parsed = answer.served.parsed
    return parsed.content if parsed.content or not parsed.calls else None


def _tool_calls(answer: Answer) -> list[Json]:
    calls = enumerate(answer.served.parsed.calls)
    return [tool_call(answer.request.request_id, number, call) for number, call in calls]


def _finish_reason(answer: Answer) -> str:
    if answer.served.finish_reason == "length":
        return "length"
    return "tool_calls" if answer.served.parsed.calls else "stop"


def _event(data: Json) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)
