"""What is answered, as JSON Schema: for the OpenAPI document, which a test holds against real answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.endpoint.openapi_rules import ARGUMENTS, OBJECT, Json

TEXT, NUMBER, INTEGER, FLAG = ({"type": name} for name in ("string", "number", "integer", "boolean"))


def replies() -> Json:
    """Every schema by its name."""
    return {**_shared(), **_chat(), **_responses()}


def reference(name: str) -> Json:
    """To a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(*values: str) -> Json:
    """One of these words."""
    return {"enum": [*values]}


def _shared() -> Json:
    error = _object({"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": _or_null(TEXT)})
    decided = {"route": one_of("edge", "cloud"), "reason": TEXT, "score": NUMBER, "threshold": NUMBER}
    weights = {"version": TEXT, "edge_version": TEXT, "degraded": FLAG}
    spent = {"cost_usd": NUMBER, "latency_ms": _object(dict.fromkeys(("draft", "cloud", "total"), NUMBER))}
    return {
        "Error": _object({"error": error}),
        "Model": _object({"id": TEXT, "object": one_of("model"), "created": INTEGER, "owned_by": TEXT}),
        "Models": _object({"object": one_of("list"), "data": _list(reference("Model"))}),
        "Feedback": _object({"object": one_of("feedback"), "id": TEXT}),
        "NetGPT": _object({**decided, **weights, **spent, "link": OBJECT}),
    }


def _chat() -> Json:
    function = _object({"name": TEXT, "arguments": ARGUMENTS})
    call = _object({"id": TEXT, "type": one_of("function"), "function": function})
    said = {"role": one_of("assistant"), "content": _or_null(TEXT), "refusal": {"type": "null"}}
    ends, logprobs = one_of("stop", "length", "tool_calls"), _or_null(OBJECT)
    message = _object(said, {"tool_calls": _list(call)})
    choice = {"index": INTEGER, "message": message, "finish_reason": ends, "logprobs": logprobs}
    grown = {"index": INTEGER, "delta": OBJECT, "finish_reason": _or_null(ends), "logprobs": logprobs}
    usage = _object(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), INTEGER))
    head, told = {"id": TEXT, "created": INTEGER, "model": TEXT}, {"netgpt": reference("NetGPT")}
    choices, whole = _list(_object(choice, told)), one_of("chat.completion")
    last = _written({"anyOf": [reference("ChatChunk"), reference("Error")]})
    return {
        "ChatCompletion": _object(
            {**head, "object": whole, "system_fingerprint": TEXT, "choices": choices, "usage": usage, **told}
        ),
        "ChatChunk": _object(
            {**head, "object": one_of("chat.completion.chunk"), "choices": _list(_object(grown))},
            {"system_fingerprint": TEXT, "usage": _or_null(usage), **told},
        ),
        "ChatEvent": _object({"data": {"anyOf": [one_of("[DONE]"), last]}}),
    }


def _responses() -> Json:
    text = _object({"type": one_of("output_text"), "text": TEXT, "annotations": _list({}), "logprobs": _list({})})
    status = one_of("completed", "incomplete")
    item: Json = {"id": TEXT, "status": status}
    said = _object({**item, "type": one_of("message"), "role": one_of("assistant"), "content": _list(text)})
    called = _object({**item, "type": one_of("function_call"), "call_id": TEXT, "name": TEXT, "arguments": ARGUMENTS})
    usage = _object(dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), INTEGER))
    output, told = _list({"anyOf": [said, called]}), reference("NetGPT")
    head = {"id": TEXT, "object": one_of("response"), "created_at": INTEGER, "model": TEXT, "status": status}
    return {
        "Response": _object({**head, "output": output, "usage": usage, "netgpt": told}),
        "ResponseStep": _object({"type": TEXT, "sequence_number": INTEGER}),
        "ResponseEvent": _object({"event": TEXT, "data": _written(reference("ResponseStep"))}),
    }


def _written(schema: Json) -> Json:
    """Text that is JSON."""
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _list(items: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Mapping[str, Any]) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}
