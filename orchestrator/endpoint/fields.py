"""What the bodies of every dialect have in common: strict models, integers, fields that do not matter, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from policies.errors import BadRequest


class Strict(BaseModel):
    """An object with no fields but these, and no values but of these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


EXACT = 2.0**53  # beyond it a float is not one integer but many


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < EXACT else value


WHOLE = BeforeValidator(_whole)
"""Of an integer: 5.0 is one in JSON."""


def known_fields(data: Mapping[str, Any], ignored: Set[str], empty_only: Set[str]) -> dict[str, Any]:
    """``data`` without the fields that do not matter.

    Raises:
        BadRequest: one that must be empty is not.
    """
    known = {key: value for key, value in data.items() if key not in ignored}
    for key in empty_only & known.keys():
        if known.pop(key):
            raise BadRequest(f"{key} is not supported", key, "unsupported_parameter")
    return known


def first_problem(why: ValidationError) -> BadRequest:
    """The refusal that names the first field that is wrong."""
    error = why.errors(include_url=False, include_input=False)[0]
    field = field_path(error["loc"])
    if error["type"] == "extra_forbidden":
        return BadRequest(f"{field} is not supported", field, "unsupported_parameter")
    return BadRequest(f"{field}: {error['msg']}", field)


def field_path(location: tuple[int | str, ...]) -> str:
    """``("tools", 0, "function")`` as ``tools[0].function``; tags of unions (``<text>``) are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            path += f".{part}" if path else part
    return path
