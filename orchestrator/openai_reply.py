"""An ``Answer`` as OpenAI writes it: the completion object, the stream of chunks, the error object, the headers.

Beside OpenAI's own fields every answer carries a ``netgpt`` object and ``x-netgpt-*`` headers that say who answered
and why. Pure functions; ``orchestrator.http`` sends what they return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from actors.answer import Answer
from policies.errors import BadRequest, Busy, NetGPTError
from policies.toolcalls import compact

Json = dict[str, Any]
UNAUTHORIZED = 401
CODES = {503: "service_unavailable", 504: "deadline_exceeded"}
LEAST_LOGPROB = -9999.0  # what OpenAI writes for impossible; JSON has no infinity


def headers(answer: Answer) -> dict[str, str]:
    """Who answered, with which score against which threshold, from which weights."""
    return {
        "x-netgpt-route": str(answer.route),
        "x-netgpt-score": f"{answer.decision.score:.6f}",
        "x-netgpt-threshold": f"{answer.decision.threshold:.6f}",
        "x-netgpt-version": answer.served.version,
        "x-request-id": answer.request.request_id,
    }


def completion(answers: Sequence[Answer], model: str, created: int) -> Json:
    """The ``chat.completion`` object; one choice an answer, ``usage`` is theirs together."""
    choices = [_choice(index, answer, len(answers)) for index, answer in enumerate(answers)]
    return {**_head(answers[0], model, created, "chat.completion"), "choices": choices, **_tail(answers)}


def chunks(answers: Sequence[Answer], model: str, created: int, include_usage: bool) -> Iterator[bytes]:
    """The same as server-sent events; ``netgpt`` comes with the chunk that ends the choice."""
    head = _head(answers[0], model, created, "chat.completion.chunk")
    usage: Json = {"usage": None} if include_usage else {}
    for index, answer in enumerate(answers):
        for delta, more in _deltas(answer):
            choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
            told = {"netgpt": netgpt(answer)} if choice["finish_reason"] else {}
            yield _event({**head, "choices": [choice], **usage, **told})
    if include_usage:
        yield _event({**head, "choices": [], **_tail(answers)})
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
    return {
        "id": f"chatcmpl-{answer.request.request_id}",
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": answer.served.version,
    }


def _tail(answers: Sequence[Answer]) -> Json:
    prompt, tokens = answers[0].served.prompt_tokens, sum(answer.served.tokens for answer in answers)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"usage": usage, "netgpt": netgpt(answers[0])}


def _choice(index: int, answer: Answer, of: int) -> Json:
    message: Json = {"role": "assistant", "content": _content(answer), "refusal": None}
    if answer.served.parsed.calls:
        message["tool_calls"] = _tool_calls(answer)
    choice = {
        "index": index,
        "message": message,
        "finish_reason": _finish_reason(answer),
        "logprobs": _logprobs(answer),
    }
    return choice if of == 1 else {**choice, "netgpt": netgpt(answer)}


def _deltas(answer: Answer) -> Iterator[tuple[Json, Json]]:
    """What a choice grows by, and what else its chunk says."""
    content, logprobs = _content(answer), _logprobs(answer)
    yield {"role": "assistant", "content": "" if content is not None else None}, {}
    if content:
        yield {"content": content}, {"logprobs": logprobs}
    for number, call in enumerate(_tool_calls(answer)):
        yield {"tool_calls": [{"index": number, **call}]}, {}
    yield {}, {"finish_reason": _finish_reason(answer), "logprobs": None if content else logprobs}


def _logprobs(answer: Answer) -> Json | None:
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
