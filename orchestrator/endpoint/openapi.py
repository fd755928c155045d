"""The OpenAPI document of the endpoint, made from the models that read the bodies, so that it cannot say otherwise.

What the models leave to code is written in: fields that are ignored and fields that must be empty from the same sets,
rules between fields from ``openapi_rules``; what is answered from ``openapi_replies``.
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
from orchestrator.endpoint.openapi_replies import INTEGER, NUMBER, TEXT, one_of, reference, replies
from orchestrator.endpoint.openapi_rules import EMPTY, OBJECT, PROPERTIES, RULES, Json
from orchestrator.endpoint.responses_schema import ResponsesBody

IGNORED = {"description": "Taken and ignored: it does not change an answer."}


@lru_cache(maxsize=1)  # it takes some milliseconds, and whoever reaches the port may ask for it
def document(model: str) -> Json:
    """The document of a site that serves ``model``, OpenAPI 3.2."""
    pairs: Any = [(body, "validation") for body in (ChatBody, ResponsesBody, FeedbackBody)]
    _, bodies = models_json_schema(pairs, ref_template="#/components/schemas/{model}")
    schemas: Json = {**bodies["$defs"], **replies()}
    for name, dialect in (("ChatBody", chat_schema), ("ResponsesBody", responses_schema)):
        extra = dict.fromkeys(sorted(dialect.IGNORED), IGNORED) | dict.fromkeys(sorted(dialect.EMPTY_ONLY), EMPTY)
        schemas[name]["properties"] = extra | schemas[name]["properties"] | {"model": {"const": model}}
    for name, fields in PROPERTIES.items():
        schemas[name]["properties"] |= fields
    for name, rules in RULES.items():
        schemas[name] |= rules
    return {
        "openapi": "3.2.0",
        "info": {"title": "NetGPT edge site", "version": _version()},
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/chat/completions": _asking("ChatBody", "ChatCompletion", "ChatEvent", "Answer a conversation."),
            "/v1/responses": _asking("ResponsesBody", "Response", "ResponseEvent", "Answer, by the Responses API."),
            "/v1/feedback": _telling("FeedbackBody", "Feedback", "Say whether an answer was right."),
            "/v1/models": {"get": _operation("List the one model.", "Models")},
            "/v1/models/{model}": {"get": _named(_operation("Tell of a model.", "Model"), model)},
            "/openapi.json": {"get": _open("This document.")},
            "/healthz": {"get": _open("Whether the process runs.")},
            "/readyz": {"get": _open("Whether it can answer.", {"503": _answer("Not yet.")})},
        },
    }


def _asking(body: str, reply: str, event: str, summary: str) -> Json:
    operation = _operation(summary, reply, _body(body))
    answer = operation["responses"]["200"]
    answer["content"]["text/event-stream"] = {"itemSchema": reference(event)}
    answer["headers"] = _headers({"x-netgpt-route": one_of("edge", "cloud"), "x-request-id": TEXT}, required=True)
    answer["headers"] |= _headers({"x-netgpt-score": NUMBER, "x-netgpt-threshold": NUMBER, "x-netgpt-version": TEXT})
    operation["responses"] |= {
        "404": _error("There is no such model."),
        "429": _later("Too many requests."),
        "503": _later("No valid answer was to be had."),
        "504": _error("Too late."),
    }
    return {"post": operation}


def _telling(body: str, reply: str, summary: str) -> Json:
    operation = _operation(summary, reply, _body(body))
    operation["responses"] |= {"404": _error("The site takes none."), "503": _later("It cannot be written down now.")}
    return {"post": operation}


def _operation(summary: str, reply: str, body: Json | None = None) -> Json:
    answers = {"200": {"description": "The answer.", "content": _json(reference(reply))}}
    refused = {
        "401": "The API key is missing or unknown.",
        "403": "It is for other sites.",
        "500": "A mistake of ours.",
    }
    if body:
        refused |= {"400": "A field cannot be used; param names it.", "408": "The body takes too long."}
        refused |= {"413": "The body is too large."}
    return {
        "summary": summary,
        **({"requestBody": body} if body else {}),
        "responses": answers | {status: _error(words) for status, words in sorted(refused.items())},
    }


def _named(operation: Json, model: str) -> Json:
    """An operation on what its path names."""
    name = {"name": "model", "in": "path", "required": True, "schema": {"const": model}}
    responses = operation["responses"] | {"404": _error("There is no such model.")}
    return {**operation, "parameters": [name], "responses": responses}


def _open(summary: str, more: Json | None = None) -> Json:
    """An operation that needs no key."""
    return {"summary": summary, "security": [{}], "responses": {"200": _answer("Yes."), **(more or {})}}


def _answer(words: str) -> Json:
    return {"description": words, "content": _json(OBJECT)}


def _body(model: str) -> Json:
    return {"required": True, "content": _json(reference(model))}


def _error(words: str) -> Json:
    return {"description": words, "content": _json(reference("Error"))}


def _later(words: str) -> Json:
    return {**_error(words), "headers": _headers({"retry-after": INTEGER}, required=True)}


def _headers(schemas: Json, required: bool = False) -> Json:
    return {name: {"schema": schema, "required": required} for name, schema in schemas.items()}


def _json(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}


def _version() -> str:
    try:
        return version("netgpt-orchestrator")
    except PackageNotFoundError:
        return "0"
