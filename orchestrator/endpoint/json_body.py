"""A JSON object from the network: parsed within limits, or refused in one sentence.

orjson is strict where Python's own parser is not: NaN, numbers beyond any float and half a surrogate pair end there.
What is left is a depth that would break recursion later. Nothing behind this file has to expect any of it.
"""

from __future__ import annotations

from typing import Any

import orjson

from policies.errors import BadRequest

MAX_DEPTH = 64  # arrays and objects inside each other; OpenAI's own schemas stop at 10, recursion at about 900
CODE = "invalid_json"


def read_json(text: bytes, field: str = "body") -> dict[str, Any]:
    """The JSON object in ``text``; ``field`` is what errors call it.

    Raises:
        BadRequest: not JSON in UTF-8, not an object, too deep, or with a number or string that cannot be passed on.
    """
    try:
        data = orjson.loads(text)
        problem = _problem(data)
    except orjson.JSONDecodeError as why:
        problem = f"not valid JSON: {why}"
    if problem:
        raise BadRequest(f"{field}: {problem}", field, CODE)
    assert isinstance(data, dict)
    return data


def _problem(data: Any) -> str | None:
    """What is wrong with parsed JSON; level by level, so that depth breaks nothing."""
    if not isinstance(data, dict):
        return "not a JSON object"
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return None
    return f"nested deeper than {MAX_DEPTH} levels"
