"""Numbers out of a JSON file that somebody may have changed: what cannot be computed with is refused by its name."""

from __future__ import annotations

import json
from typing import Any

LARGEST = 1e30  # a product of three such numbers is still one: an infinity would make a NaN


class Fields(dict[str, Any]):
    """A JSON object; a key that is missing is a ValueError that names it."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{key} is missing")


def loads(text: str) -> Fields:
    """The object in ``text``, and those within it.

    Raises:
        ValueError: it is not JSON, or something else than an object.
    """
    try:
        data = json.loads(text, object_hook=Fields)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, Fields):
        raise ValueError(f"it must be an object, got {type(data).__name__}")
    return data


def number(name: str, given: Any) -> float:
    """``given`` as a number of at most ``LARGEST`` in size; ValueError if it is none."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= LARGEST:
        raise ValueError(f"{name} must be a number of at most {LARGEST:g} in size, got {given!r:.40}")
    return float(given)


def numbers(name: str, given: Any) -> tuple[float, ...]:
    """``given`` as such numbers; ValueError if it is no list of them."""
    if not isinstance(given, list):
        raise ValueError(f"{name} must be a list of numbers, got {given!r:.40}")
    return tuple(number(f"{name}[{i}]", one) for i, one in enumerate(given))


def count(name: str, given: Any) -> int:
    """``given`` as a whole number >= 0; ValueError if it is none."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{name} must be a whole number >= 0, got {given!r:.40}")
    return given
