"""The OpenAPI document of the endpoint, made from the models that read the bodies, so that it cannot say otherwise.

What the models leave to code (fields that are ignored, fields that must be empty) is written in from the same sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic.json_schema import models_json_schema

from orchestrator.endpoint import chat_schema, responses_schema
from orchestrator.endpoint.chat_schema import ChatBody
from orchestrator.endpoint.feedback import FeedbackBody
from orchestrator.endpoint.responses_schema import ResponsesBody

Json = dict[str, Any]
EMPTY: Json = {"enum": [None, False, 0, "", [], {}], "description": "Not supported: null or empty."}
IGNORED = {"description": "Taken and ignored: it does not change an answer."}
TEXT, NUMBER, INTEGER, FLAG = ({"type": name} for name in ("string", "number", "integer", "boolean"))


@lru_cache(maxsize=1)  # it takes some milliseconds, and whoever reaches the port may ask for it
def document() -> Json:
    """The document, OpenAPI 3.1."""
    pairs: Any = [(model, "validation") for model in (ChatBody, ResponsesBody, FeedbackBody)]
    _, bodies = models_json_schema(pairs, ref_template="#/components/schemas/{model}")
    schemas: Json = {**bodies["$defs"], **_replies()}
    for name, dialect in (("ChatBody", chat_schema), ("ResponsesBody", responses_schema)):
        extra = dict.fromkeys(sorted(dialect.IGNORED), IGNORED) | dict.fromkeys(sorted(dialect.EMPTY_ONLY), EMPTY)
        schemas[name]["properties"] = extra | schemas[name]["properties"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "NetGPT edge site", "version": _version()},
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/chat/completions": _asking("ChatBody", "ChatCompletion", "Answer a conversation."),
            "/v1/responses": _asking("ResponsesBody", "Response", "Answer in the dialect of the Responses API."),
            "/v1/feedback": {"post": _operation("Say whether an answer was right.", "Feedback", _body("FeedbackBody"))},
            "/v1/models": {"get": _operation("List the one model.", "Models")},
            "/openapi.json": {"get": _open("This document.")},
            "/healthz": {"get": _open("Whether the process runs.")},
            "/readyz": {"get": _open("Whether it can answer.", {"503": {"description": "Not yet."}})},
        },
    }


def _asking(body: str, reply: str, summary: str) -> Json:
    operation = _operation(summary, reply, _body(body))
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": TEXT}
    refused = {"404": "There is no such model.", "429": "Too many requests; see Retry-After.", "504": "Too late."}
    refused |= {"503": "No valid answer was to be had; see Retry-After."}
    operation["responses"] |= {status: _error(words) for status, words in refused.items()}
    return {"post": operation}


def _operation(summary: str, reply: str, body: Json | None = None) -> Json:
    answers = {"200": {"description": "The answer.", "content": _json(_reference(reply))}}
    refused = {"401": "The API key is missing or unknown.", "403": "It is for other sites."}
    refused |= {"400": "A field cannot be used; param names it.", "413": "The body is too large."} if body else {}
    return {
        "summary": summary,
        **({"requestBody": body} if body else {}),
        "responses": answers | {status: _error(words) for status, words in refused.items()},
    }


def _open(summary: str, more: Json | None = None) -> Json:
    """An operation that needs no key."""
    answer = {"description": "Yes.", "content": _json({"type": "object"})}
    return {"summary": summary, "security": [{}], "responses": {"200": answer, **(more or {})}}


def _body(model: str) -> Json:
    return {"required": True, "content": _json(_reference(model))}


def _error(words: str) -> Json:
    return {"description": words, "content": _json(_reference("Error"))}


def _json(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _list(items: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Mapping[str, Any]) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*values: str) -> Json:
    return {"enum": [*values]}


def _replies() -> Json:
    """The schemas of what is answered."""
    function = _object({"name": TEXT, "arguments": TEXT})
    call = _object({"id": TEXT, "type": _one_of("function"), "function": function})
    message = _object(
        {"role": _one_of("assistant"), "content": _or_null(TEXT), "refusal": {"type": "null"}},
        {"tool_calls": _list(call)},
    )
    choice = _object(
        {
            "index": INTEGER,
            "message": message,
            "finish_reason": _one_of("stop", "length", "tool_calls"),
            "logprobs": _or_null({"type": "object"}),
        },
        {"netgpt": _reference("NetGPT")},
    )
    usage = _object(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), INTEGER))
    return {
        "Error": _object(
            {"error": _object({"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": _or_null(TEXT)})}
        ),
        "Models": _object({"object": _one_of("list"), "data": _list({"type": "object"})}),
        "Feedback": _object({"object": _one_of("feedback"), "id": TEXT}),
        "NetGPT": _object(
            {"route": _one_of("edge", "cloud"), "reason": TEXT, "score": NUMBER, "threshold": NUMBER, "version": TEXT}
            | {"edge_version": TEXT, "degraded": FLAG, "cost_usd": NUMBER}
            | {"latency_ms": _object(dict.fromkeys(("draft", "cloud", "total"), NUMBER)), "link": {"type": "object"}}
        ),
        "ChatCompletion": _object(
            {"id": TEXT, "object": _one_of("chat.completion"), "created": INTEGER, "model": TEXT}
            | {"system_fingerprint": TEXT, "choices": _list(choice), "usage": usage, "netgpt": _reference("NetGPT")}
        ),
        "Response": _object(
            {"id": TEXT, "object": _one_of("response"), "created_at": INTEGER, "model": TEXT}
            | {"status": _one_of("completed", "incomplete"), "output": _list({"type": "object"})}
            | {"usage": {"type": "object"}, "netgpt": _reference("NetGPT")}
        ),
    }


def _version() -> str:
    try:
        return version("netgpt-orchestrator")
    except PackageNotFoundError:
        return "0"
