"""One chat request as the edge node sees it: what is asked, what an answer must be, how a model is prompted.

``ChatRequest`` is what the HTTP surface builds from an OpenAI body. Drafts are made without a grammar, because
a grammar hides the model's doubt (a forced token has log-probability 0), and pass ``problem`` as a gate;
``strict_prompt`` is the grammar-bound way to ask the same, for when no other valid answer is to be had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from actors.controls import FREE, Controls
from actors.engine import Message, Prompt, Sampling, Tool
from policies.help_marker import asks_for_help
from policies.json_schema import violation
from policies.toolcalls import CLOSE, OPEN, check, compact, parse, uncut
from policies.types import ParsedText, ToolCall

DEFAULT_MAX_TOKENS = 256  # a tool call takes 20-80 tokens; what a client does not ask for it does not wait for


@dataclass(frozen=True)
class ChatRequest:
    """A validated request.

    ``tool_choice`` is ``none``, ``auto``, ``required`` or a JSON object that names a tool, as the client sent it;
    ``response_schema`` is what an answer without tool calls must satisfy, read as JSON; ``parallel`` allows more
    than one call.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=DEFAULT_MAX_TOKENS))
    response_schema: Mapping[str, Any] | None = None
    parallel: bool = True
    request_id: str = ""
    controls: Controls = FREE

    @property
    def shown_tools(self) -> Sequence[Tool]:
        """The tools a model gets to see: all, none, or the one that was named."""
        if self.tool_choice == "none":
            return ()
        if isinstance(self.tool_choice, str):
            return self.tools
        wanted = self.tool_choice["function"]["name"]
        return [tool for tool in self.tools if tool["function"]["name"] == wanted]

    @property
    def question(self) -> str:
        """What the user said last, as plain text."""
        return question(self.messages)

    @property
    def must_call(self) -> bool:
        """Whether prose is no answer."""
        return self.tool_choice == "required" or not isinstance(self.tool_choice, str)

    @property
    def prompt(self) -> Prompt:
        """How the edge model is asked for a draft."""
        choice = self.tool_choice if self.shown_tools else None
        return Prompt(self.messages, self.shown_tools, None, OPEN if self.must_call else "", choice)

    def strict_prompt(self, draft: str) -> Prompt | None:
        """The same under a grammar, where one can say what a valid answer is; else None.

        A ``draft`` that tried to call a tool and failed says that a call is what the model wants; one that asked for
        help where none is to be had gets this second attempt.
        """
        if self.must_call:
            return replace(self.prompt, schema=call_schema(self.shown_tools))
        if self.shown_tools and (OPEN in draft or asks_for_help(draft)):
            return replace(self.prompt, schema=call_schema(self.shown_tools), prefill=OPEN, tool_choice="required")
        return None if self.response_schema is None else replace(self.prompt, schema=self.response_schema)

    @property
    def cloud_prompt(self) -> Prompt:
        """How the cloud is asked; the far end does its own constrained decoding."""
        choice = self.tool_choice if self.shown_tools else None
        return Prompt(self.messages, self.shown_tools, self.response_schema, tool_choice=choice)

    @cached_property
    def messages_json(self) -> str:
        """The messages as compact JSON."""
        return compact(list(self.messages))

    @cached_property
    def tools_json(self) -> str:
        """The tools on offer as compact JSON."""
        return compact(list(self.tools))

    @cached_property
    def payload(self) -> bytes:
        """Messages and tools as compact JSON in UTF-8: about what an offload sends."""
        tools = self.tools_json if self.shown_tools is self.tools else compact(list(self.shown_tools))
        return f'{{"messages":{self.messages_json},"tools":{tools}}}'.encode()

    @property
    def question_hash(self) -> str:
        """Equal questions have equal hashes, whatever the sampling; 32 hexadecimal digits."""
        choice = compact(self.tool_choice).encode()
        return hashlib.sha256(self.payload + choice).hexdigest()[:32]

    def read(self, text: str) -> ParsedText:
        """What a model's ``text`` says; where no tool was offered, tags that make up no call are text."""
        parsed = parse(text)
        return ParsedText(text.strip()) if parsed.error and not self.shown_tools else parsed

    def remainder(self, text: str, cut: bool) -> ParsedText | None:
        """What can be served of a draft that is not valid where nothing better is to be had; None for nothing.

        Of one that its length ``cut`` off it is prose and whole calls; where no tool was offered, tags that make up no
        call are text.
        """
        parsed = self.read(uncut(text) if cut else text)
        if parsed.error or asks_for_help(text) or (self.problem(parsed) and (parsed.calls or not cut)):
            return None
        return parsed

    def problem(self, answer: ParsedText) -> str | None:
        """The validity gate: why ``answer`` may not be served, or None when it may."""
        why = check(answer, [_named(tool) for tool in self.shown_tools], self.must_call)
        if why is None:
            why = next((found for call in answer.calls if (found := self._bad_arguments(call))), None)
        if why is None and len(answer.calls) > 1 and not self.parallel:
            why = "more than one tool call, but parallel_tool_calls is false"
        if why is None and self.response_schema is not None and not answer.calls:
            why = _json_problem(answer.content, self.response_schema)
        return why

    def _bad_arguments(self, call: ToolCall) -> str | None:
        try:
            compact(call.arguments).encode()
        except ValueError as unwritable:  # 1e999, or half a surrogate pair: JSON can spell what JSON cannot carry
            return f"arguments of {call.name!r}: {unwritable}"
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in self.shown_tools}
        why = violation(call.arguments, schemas[call.name] or {})
        return f"arguments of {call.name!r}: {why}" if why else None


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON Schema of one call of one of ``tools``, as the text between the tool-call tags.

    Each tool's own references are kept by moving its parameters, whole, under ``$defs``.
    """
    functions = [tool["function"] for tool in tools]
    parameters = [f.get("parameters") or {"type": "object"} for f in functions]
    return {
        "anyOf": [_one_call(f["name"], index) for index, f in enumerate(functions)],
        "$defs": {f"tool{index}": _moved(schema, index) for index, schema in enumerate(parameters)},
    }


def closed(text: str) -> str:
    """``text`` with the tool call that it is closed: a grammar ends with the JSON and never writes the tag."""
    return text + CLOSE if text.startswith(OPEN) and not text.endswith(CLOSE) else text


def _named(tool: Tool) -> Tool:
    """The tool without its parameters: a stranger's schema is only ever applied by ``violation``."""
    return {"type": "function", "function": {"name": tool["function"]["name"]}}


def _one_call(name: str, index: int) -> dict[str, Any]:
    properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/tool{index}"}}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, index: int) -> Any:
    """``schema`` with its references rewritten for its new place."""
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, index) for key, value in schema.items()}
        if isinstance(reference := schema.get("$ref"), str):
            moved["$ref"] = f"#/$defs/tool{index}" + reference.removeprefix("#")
        return moved
    return [_moved(item, index) for item in schema] if isinstance(schema, list) else schema


def _json_problem(content: str, schema: Mapping[str, Any]) -> str | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as why:
        return f"JSON was asked for and this is none: {why}"
    why_not = violation(value, schema)
    return f"the answer does not fit response_format: {why_not}" if why_not else None


def question(messages: Sequence[Message]) -> str:
    """What the user said last, as plain text."""
    said = (message.get("content") for message in reversed(messages) if message["role"] == "user")
    content = next(said, None) or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
