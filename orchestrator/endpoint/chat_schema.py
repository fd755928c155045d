"""The OpenAI request this program understands: pydantic models, and their translation into a ``ChatRequest``.

Strict where a field would change the answer: what is not supported is refused by its name, never ignored. Tolerant
where it would not: bookkeeping fields and empty values that the ``openai`` client and chat histories carry. Every
refusal is one ``BadRequest`` with the JSON path of the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from actors.chat import DEFAULT_MAX_TOKENS, ChatRequest
from actors.controls import Controls
from actors.engine import Sampling
from orchestrator.endpoint.fields import WHOLE, Strict, first_problem, known_fields
from orchestrator.endpoint.json_body import read_json
from policies.errors import BadRequest
from policies.json_schema import schema_problem
from policies.types import Route

MAX_TOOLS = 128  # as OpenAI
MAX_TOKENS = 1 << 20
MAX_CHOICES = 16  # each is decided and logged as a request of its own
MAX_ALTERNATIVES = 20  # as OpenAI
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"  # OpenAI's and the dot, which methods of modules have
# Fields that do not change an answer.
IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
# Fields that would change an answer and are not supported; null, false, 0 and empty are harmless.
EMPTY_ONLY = frozenset(
    {"logit_bias", "functions", "function_call"}  # a bias names tokens, which edge and cloud number differently
    | {"audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"}
)
# What an assistant message of an earlier answer may carry besides content and calls; dropped when empty.
HISTORY_ONLY = frozenset({"refusal", "annotations", "audio", "function_call", "reasoning_content"})


Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE]
Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES), WHOLE]


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _content_tag(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>")], Discriminator(_content_tag)
]


class CalledFunction(Strict):
    """Name and JSON arguments of an earlier call."""

    name: str
    arguments: str


class CalledTool(Strict):
    """An earlier call in an assistant message."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int, Field(ge=0, lt=2**31), WHOLE] | None = None


class ChatMessage(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None


class FunctionSpec(Strict):
    """A function on offer; ``parameters`` is a JSON Schema."""

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Strict):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Strict):
    """The function a client wants called."""

    name: str


class NamedTool(Strict):
    """The tool a client wants called."""

    type: Literal["function"]
    function: NamedFunction


def choice_tag(value: Any) -> str:
    """Which form of ``tool_choice`` this is; of both dialects."""
    return "<named>" if isinstance(value, dict) else "<mode>"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")] | Annotated[NamedTool, Tag("<named>")],
    Discriminator(choice_tag),
]


def _stop_tag(value: Any) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


StopText = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    Annotated[StopText, Tag("<one>")] | Annotated[list[StopText], Field(max_length=4), Tag("<several>")],
    Discriminator(_stop_tag),
]


class SchemaSpec(Strict):
    """The JSON Schema an answer must satisfy."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What an answer without tool calls looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaSpec | None = None


class StreamOptions(Strict):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class NetGPTControls(Strict):
    """What a client may say about the way of its request; ``extra_body={"netgpt": {...}}`` in the ``openai`` client."""

    route: Literal["auto", "edge", "cloud"] = "auto"
    max_cost_usd: float | None = Field(default=None, ge=0)
    deadline_ms: float | None = Field(default=None, gt=0)
    private: bool = False


class ChatBody(Strict):
    """The body of ``POST /v1/chat/completions``."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[ToolSpec] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    modalities: list[Literal["text"]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    netgpt: NetGPTControls = NetGPTControls()


def read_body(data: Mapping[str, Any]) -> ChatBody:
    """The typed request.

    Raises:
        BadRequest: the first field that cannot be used, by its path.
    """
    known = known_fields(data, IGNORED, EMPTY_ONLY)
    try:
        body = ChatBody.model_validate(_without_history(known))
    except ValidationError as why:
        raise first_problem(why) from None
    for rule in (_check_messages, _check_tools, _check_choice, _check_format, _check_controls):
        rule(body)
    return body


def to_request(body: ChatBody, data: Mapping[str, Any], request_id: str) -> ChatRequest:
    """What the edge node answers; messages and tools go on as the client wrote them, without empty fields."""
    choice = body.tool_choice
    return ChatRequest(
        messages=[message.model_dump(exclude_none=True) for message in body.messages],
        tools=data.get("tools") or (),
        tool_choice=choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        sampling=_sampling(body),
        response_schema=_response_schema(body.response_format),
        parallel=body.parallel_tool_calls is not False,
        request_id=request_id,
        controls=_controls(body.netgpt),
    )


def choices(request: ChatRequest, count: int) -> list[ChatRequest]:
    """``request`` as ``count`` requests, alike but for their names and seeds."""
    seed = request.sampling.seed
    return [request, *(_again(request, n, None if seed is None else seed + n) for n in range(1, count))]


def _again(request: ChatRequest, number: int, seed: int | None) -> ChatRequest:
    return replace(request, request_id=f"{request.request_id}-{number}", sampling=replace(request.sampling, seed=seed))


def _controls(asked: NetGPTControls) -> Controls:
    route = None if asked.route == "auto" else Route(asked.route)
    deadline_s = None if asked.deadline_ms is None else asked.deadline_ms / 1e3
    return Controls(route, asked.max_cost_usd, deadline_s, asked.private)


def _sampling(body: ChatBody) -> Sampling:
    return Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=body.temperature if body.temperature is not None else 0.0,
        top_p=body.top_p if body.top_p is not None else 1.0,
        seed=body.seed,
        stop=tuple([body.stop] if isinstance(body.stop, str) else body.stop or ()),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        alternatives=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _response_schema(wanted: ResponseFormat | None) -> Mapping[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    return wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}


def _without_history(data: dict[str, Any]) -> dict[str, Any]:
    messages = data.get("messages")
    if not isinstance(messages, list):
        return data
    return {**data, "messages": [_without_empty(message) for message in messages]}


def _without_empty(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if value or key not in HISTORY_ONLY}


def _check_messages(body: ChatBody) -> None:
    for index, message in enumerate(body.messages):
        where = f"messages[{index}]"
        if message.content is None and (message.role != "assistant" or not message.tool_calls):
            raise BadRequest(f"a message of role {message.role} needs content", f"{where}.content")
        if message.tool_calls and message.role != "assistant":
            raise BadRequest("only an assistant's message has tool_calls", f"{where}.tool_calls")
        if message.role == "tool" and not message.tool_call_id:
            raise BadRequest("a tool's message needs tool_call_id", f"{where}.tool_call_id")
        for number, call in enumerate(message.tool_calls or ()):
            read_json(call.function.arguments.encode() or b"{}", f"{where}.tool_calls[{number}].function.arguments")


def _check_tools(body: ChatBody) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(body.tools or ()):
        field, function = f"tools[{index}].function", tool.function
        if function.name in seen:
            raise BadRequest(f"the name {function.name!r} is used twice", f"{field}.name")
        seen.add(function.name)
        if function.parameters and (why := _parameters_problem(function.parameters)):
            raise BadRequest(f"parameters of {function.name!r} are not usable: {why}", f"{field}.parameters")


def _parameters_problem(parameters: dict[str, Any]) -> str | None:
    if parameters.get("type", "object") != "object":
        return f"type must be 'object', not {parameters['type']!r}"
    return schema_problem(parameters)


def _check_choice(body: ChatBody) -> None:
    choice, names = body.tool_choice, [tool.function.name for tool in body.tools or ()]
    if choice == "required" and not names:
        raise BadRequest("tool_choice is required, but tools is empty", "tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise BadRequest(f"{choice.function.name!r} is not among tools", "tool_choice.function.name")


def _check_format(body: ChatBody) -> None:
    wanted = body.response_format
    if wanted is None or wanted.type != "json_schema":
        return
    if wanted.json_schema is None:
        raise BadRequest("type json_schema needs json_schema", "response_format.json_schema")
    if why := schema_problem(wanted.json_schema.schema_):
        raise BadRequest(f"not a usable JSON schema: {why}", "response_format.json_schema.schema")


def _check_controls(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
    if body.netgpt.private and body.netgpt.route == "cloud":
        raise BadRequest("a private request does not leave the edge: route may be edge or auto", "netgpt.route")
