"""A JSON object from the network: parsed within limits, or refused in one sentence.

Python's parser takes more than JSON may carry: NaN, numbers beyond any float, half a surrogate pair, a depth that
breaks recursion later. All of that ends here, so nothing behind this file has to expect it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from policies.errors import BadRequest
from policies.toolcalls import compact

MAX_DEPTH = 64  # arrays and objects inside each other; OpenAI's own schemas stop at 10, recursion at about 900
CODE = "invalid_json"


def read_json(text: bytes, field: str = "body") -> dict[str, Any]:
    """The JSON object in ``text``; ``field`` is what errors call it.

    Raises:
        BadRequest: not JSON in UTF-8, not an object, too deep, or with a number or string that cannot be passed on.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant)
        problem = _problem(data)
    except RecursionError:
        problem = f"nested deeper than {MAX_DEPTH} levels"
    except ValueError as why:  # JSONDecodeError, UnicodeDecodeError and integers of thousands of digits
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
        values = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        if any(isinstance(v, float) and not math.isfinite(v) for v in values):
            return "a number in it is out of range"
        level = [v for v in values if isinstance(v, dict | list)]
    return f"nested deeper than {MAX_DEPTH} levels" if level else _unpaired(data)


def _unpaired(data: dict[str, Any]) -> str | None:
    try:
        compact(data).encode()
    except UnicodeEncodeError:
        return "a string in it holds half of a surrogate pair"
    return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
