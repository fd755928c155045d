"""Rules between the fields of a body, as JSON Schema: what the models leave to code, for the OpenAPI document.

Each stands beside the name of the model it adds to and says what a check of ``chat_schema``, ``responses_schema`` or
``feedback`` does. Not here, because a schema cannot say it: that schemas and arguments inside a body can be used, that
names are used once, and that a tool that is wanted is among the tools.
"""

from __future__ import annotations

from typing import Any

from orchestrator.endpoint.chat_schema import HISTORY_ONLY

Json = dict[str, Any]
EMPTY: Json = {"enum": [None, False, 0, "", [], {}], "description": "Not supported: null or empty."}
OBJECT, NULL, YES = {"type": "object"}, {"type": "null"}, {"const": True}
ARGUMENTS: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": OBJECT}
FILLED_TEXT, FILLED_LIST = {"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}


def has(**fields: Json) -> Json:
    """An object in which these fields are there, and like this."""
    return {"properties": fields, "required": [*fields]}


def when(condition: Json, then: Json, otherwise: Json | None = None) -> Json:
    """``then`` holds of what fits ``condition``, ``otherwise`` of everything else."""
    return {"if": condition, "then": then, **({"else": otherwise} if otherwise else {})}


SAYS = has(content={"not": NULL})
CALLS_NOTHING: Json = {"properties": {"tool_calls": {"enum": [None, []]}}}
WANTS_A_CALL = has(tool_choice={"anyOf": [{"const": "required"}, OBJECT]})
# An item of an earlier answer comes back with every field the client knows, those that say nothing null.
AS_IT_CAME: Json = {"additionalProperties": NULL}

RULES: dict[str, Json] = {
    "ChatMessage": {
        "allOf": [
            when(
                has(role={"const": "assistant"}),
                {"anyOf": [SAYS, has(tool_calls=FILLED_LIST)]},
                {"allOf": [SAYS, CALLS_NOTHING]},
            ),
            when(has(role={"const": "tool"}), has(tool_call_id=FILLED_TEXT)),
        ]
    },
    "ChatBody": {
        "allOf": [
            when(WANTS_A_CALL, has(tools=FILLED_LIST)),
            when(has(top_logprobs={"type": "integer", "minimum": 1}), has(logprobs=YES)),
        ]
    },
    "ResponsesBody": {"allOf": [when(WANTS_A_CALL, has(tools=FILLED_LIST))]},
    "ResponseFormat": {"allOf": [when(has(type={"const": "json_schema"}), has(json_schema=OBJECT))]},
    "Format": {"allOf": [when(has(type={"const": "json_schema"}), has(schema=OBJECT))]},
    "NetGPTControls": {"not": has(route={"const": "cloud"}, private=YES)},
    "FeedbackBody": {
        "anyOf": [has(right={"type": "boolean"}), has(message=OBJECT)],
        "not": has(right=YES, message=OBJECT),
    },
    "RightMessage": {"anyOf": [has(content=FILLED_TEXT), has(tool_calls=FILLED_LIST)]},
    "Said": AS_IT_CAME,
    "Called": AS_IT_CAME,
    "Returned": AS_IT_CAME,
    "Text": AS_IT_CAME,
}
PROPERTIES: dict[str, Json] = {
    "ChatMessage": dict.fromkeys(sorted(HISTORY_ONLY), EMPTY),
    "CalledFunction": {"arguments": ARGUMENTS},
    "Called": {"arguments": ARGUMENTS},
    "Said": {"type": {"enum": ["message", None]}},
}
