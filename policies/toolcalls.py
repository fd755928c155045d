"""Tool calls as text: parse, render, compare, check.

The syntax is the one Qwen and Hermes models speak: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``,
repeated for several calls, prose outside. Everything that reads or compares an answer goes through here, so
the edge, the cloud, the learner and the verifier agree on what "the same answer" means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policies.json_schema import violation
from policies.types import ParsedText, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_QUOTES = re.compile(r'\\.|"', re.DOTALL)
MAX_DEPTH = 64  # of a call's arguments; what compares and writes them recurses, and ends at about 300
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse(text: str) -> ParsedText:
    """Split a model's text into prose and calls; never raises (see ``ParsedText.error``)."""
    content, blocks = _split(text)
    if OPEN in content or CLOSE in content:
        return ParsedText(content, error="a tool call is not closed")
    try:
        calls = tuple(map(_call, blocks))
    except (ValueError, RecursionError) as why:
        return ParsedText(content, error=f"a tool call is not valid: {why}")
    return ParsedText(content, calls)


def uncut(text: str) -> str:
    """``text`` without the call, or the tag, that it breaks off in."""
    if (start := text.rfind(OPEN)) > text.rfind(CLOSE):
        return text[:start]
    last = text.rfind("<")
    begins = last >= 0 and any(tag.startswith(text[last:]) and tag != text[last:] for tag in (OPEN, CLOSE))
    return text[:last] if begins else text


def render(calls: Iterable[ToolCall]) -> str:
    """The text a model writes for ``calls``: compact JSON, keys in the given order."""
    return "".join(OPEN + compact({"name": c.name, "arguments": c.arguments}) + CLOSE for c in calls)


def canonical(calls: Iterable[ToolCall]) -> str:
    """One string per meaning: order of calls and keys, and 5 against 5.0, do not matter."""
    return compact(sorted(compact(_plain({"n": c.name, "a": c.arguments})) for c in calls))


def same_answer(left: ParsedText, right: ParsedText) -> bool:
    """Whether two answers mean the same: equal calls, or equal prose where neither calls a tool."""
    if left.error or right.error:
        return False
    if left.calls or right.calls:
        return canonical(left.calls) == canonical(right.calls)
    return left.content.split() == right.content.split()


def check(answer: ParsedText, tools: Sequence[Mapping[str, Any]], required: bool = False) -> str | None:
    """Why ``answer`` may not be served with these OpenAI ``tools``, or None when it may."""
    if answer.error:
        return answer.error
    if required and not answer.calls:
        return "a tool call was required and none was made"
    if not answer.calls and not answer.content:
        return "the answer is empty"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    return next((why for call in answer.calls if (why := _check_call(call, schemas))), None)


def compact(value: Any) -> str:
    """JSON without spaces, so that the tokens of a value do not depend on its neighbours."""
    return _COMPACT.encode(value)


def _split(text: str) -> tuple[str, list[str]]:
    """What is outside the calls, and the inside of each; in one pass, for a hostile text opens a million."""
    outside, blocks, at = [], [], 0
    while (start := text.find(OPEN, at)) >= 0 and (end := _end_of_call(text, start + len(OPEN))) >= 0:
        outside.append(text[at:start])
        blocks.append(text[start + len(OPEN) : end])
        at = end + len(CLOSE)
    return "".join([*outside, text[at:]]).strip(), blocks


def _end_of_call(text: str, start: int) -> int:
    """Where the tag is that ends the call; one inside a string of its JSON is text. -1: nowhere."""
    first = end = text.find(CLOSE, start)
    within = False
    while end >= 0:
        within ^= sum(found == '"' for found in _QUOTES.findall(text, start, end)) % 2 == 1
        if not within:
            return end
        start = end
        end = text.find(CLOSE, end + len(CLOSE))
    return first


def _call(block: str) -> ToolCall:
    data = json.loads(block, parse_constant=_no_constant, parse_float=_finite)
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ValueError("it has no name")
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError("its arguments are not an object")
    if _deeper(arguments, MAX_DEPTH):
        raise ValueError(f"its arguments are nested deeper than {MAX_DEPTH} levels")
    return ToolCall(data["name"], arguments)


def _deeper(value: Any, levels: int) -> bool:
    """Whether JSON is nested deeper than ``levels``; level by level, so that depth breaks nothing."""
    level = [value]
    for _ in range(levels):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is too large")
    return value


def _check_call(call: ToolCall, schemas: Mapping[str, Any]) -> str | None:
    if call.name not in schemas:
        return f"tool {call.name!r} was not offered"
    schema = schemas[call.name]
    if not schema:
        return None
    why = violation(call.arguments, schema)
    return f"arguments of {call.name!r}: {why}" if why else None


def _plain(value: Any) -> Any:
    """Sort keys and write integral floats as integers, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
