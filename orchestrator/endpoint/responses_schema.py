"""The body of ``POST /v1/responses``: pydantic models, and the chat completion that asks the same.

Text and function calls only, and nothing is stored: what would need a store (``previous_response_id``, ``store: true``,
``background``) is refused by name, as everything else that would change an answer and is not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from orchestrator.endpoint.chat_schema import (
    MAX_TOOLS,
    NAME,
    Alternatives,
    ChatBody,
    NetGPTControls,
    Tokens,
    choice_tag,
    read_body,
)
from orchestrator.endpoint.fields import Strict, first_problem, known_fields
from orchestrator.endpoint.json_body import read_json
from policies.errors import BadRequest

# Fields that do not change an answer.
IGNORED = frozenset({"user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
# Fields that would, and are not supported; null, false and empty are harmless.
EMPTY_ONLY = frozenset(
    {"previous_response_id", "conversation", "background", "store", "prompt", "reasoning", "max_tool_calls"}
    | {"stream_options"}
)
LOGPROBS = "message.output_text.logprobs"
# Where the chat dialect names a field, and where this one has it.
_PLACES = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("tool_choice.function", "tool_choice"),
    ("messages", "input"),
)


class Text(Strict):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


def _text_tag(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[list[Text], Tag("<parts>")], Discriminator(_text_tag)]


class Said(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: str | None = None


class Called(Strict):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class Returned(Strict):
    """What the called function returned."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: Content
    id: str | None = None
    status: str | None = None


def _item_tag(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    return f"<{kind}>" if kind in ("function_call", "function_call_output") else "<message>"


Item = Annotated[
    Annotated[Said, Tag("<message>")]
    | Annotated[Called, Tag("<function_call>")]
    | Annotated[Returned, Tag("<function_call_output>")],
    Discriminator(_item_tag),
]


def _input_tag(value: Any) -> str:
    return "<items>" if isinstance(value, list) else "<text>"


class Function(Strict):
    """A function on offer."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenFunction(Strict):
    """The function a client wants called."""

    type: Literal["function"]
    name: str


class Format(Strict):
    """What an answer without calls looks like."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    """About the text."""

    format: Format = Format()
    verbosity: None = None


class ResponsesBody(Strict):
    """The body of ``POST /v1/responses``."""

    model: str
    input: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[list[Item], Field(min_length=1), Tag("<items>")],
        Discriminator(_input_tag),
    ]
    instructions: str | None = None
    tools: list[Function] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("<mode>")] | Annotated[ChosenFunction, Tag("<named>")],
            Discriminator(choice_tag),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    max_output_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: Alternatives | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    netgpt: NetGPTControls = NetGPTControls()


def read_responses(data: Mapping[str, Any]) -> ResponsesBody:
    """The typed body.

    Raises:
        BadRequest: the first field that cannot be used, by its path.
    """
    known = known_fields(data, IGNORED, EMPTY_ONLY)
    if isinstance(items := known.get("input"), list):
        known["input"] = [_without_nulls(item) for item in items]
    try:
        return ResponsesBody.model_validate(known)
    except ValidationError as why:
        raise first_problem(why) from None


def to_chat(body: ResponsesBody) -> ChatBody:
    """The chat completion that asks the same.

    Raises:
        BadRequest: what only shows now (schemas, names), by its path in ``body``.
    """
    asked = {
        "model": body.model,
        "messages": _messages(body),
        "tools": [_tool(tool) for tool in body.tools or ()] or None,
        "tool_choice": _choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _format(body.text.format),
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": bool(LOGPROBS in (body.include or ()) or body.top_logprobs) or None,
        "top_logprobs": body.top_logprobs,
        "netgpt": body.netgpt.model_dump(),
    }
    try:
        return read_body({name: value for name, value in asked.items() if value is not None})
    except BadRequest as why:
        raise BadRequest(why.message, _place(why.field), why.code, why.status) from None


def _without_nulls(item: Any) -> Any:
    """An item of an earlier answer, sent back by a client that writes every field it knows."""
    if isinstance(item, dict):
        return {key: _without_nulls(value) for key, value in item.items() if value is not None}
    return [_without_nulls(part) for part in item] if isinstance(item, list) else item


def _place(field: str | None) -> str | None:
    if field is None:
        return None
    for theirs, ours in _PLACES:
        if field.startswith(theirs):
            field = ours + field.removeprefix(theirs)
            break
    return field.replace("].function", "]")


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        if isinstance(item, Said):
            messages.append({"role": item.role, "content": _plain(item.content)})
        elif isinstance(item, Returned):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _plain(item.output)})
        else:
            read_json(item.arguments.encode() or b"{}", f"input[{index}].arguments")
            _add_call(messages, item)
    return messages


def _add_call(messages: list[dict[str, Any]], item: Called) -> None:
    """Calls of one turn belong to one message of the assistant's."""
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "tool_calls": [call]})


def _plain(content: str | list[Text]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _tool(tool: Function) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _choice(body: ResponsesBody) -> Any:
    choice = body.tool_choice
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, ChosenFunction) else choice


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise BadRequest("type json_schema needs schema", "text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema_}}
