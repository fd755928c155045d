"""JSON Schema to the grammar that constrains decoding, the same for every local engine.

The grammar leaves a model its own style (compact like ours, or one space after a comma like Qwen) and no more
than that: with unlimited white space, a model unsure of the next value can spend its whole budget on blanks.
Keywords xgrammar does not know (``uniqueItems``) are not enforced; callers check the answer anyway. A required property
that is not described is described as anything, or xgrammar would not require it. Numbers stay within
what a float can be: ``-4E866`` is JSON, and nothing that could be passed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from policies.errors import BadRequest, EngineError

MAX_SPACES = 1
_DATA = frozenset({"const", "enum", "default", "examples"})  # what stands there is no schema
# What xgrammar lets a number be, and what it may be here: 18 digits, 15 more behind the point, exponents below 100.
_NUMBERS = (
    ("[1-9] [0-9]*", "[1-9] [0-9]{0, 17}"),
    ('"." basic_number_digits{1, -1}', '"." basic_number_digits{1, 15}'),
    ("[eE] basic_number_4 basic_number_digits{1, -1}", "[eE] basic_number_4 basic_number_digits{1, 2}"),
)


def json_grammar(schema: Mapping[str, Any]) -> str:
    """EBNF that accepts exactly the JSON texts ``schema`` allows.

    Raises:
        BadRequest: it is no schema that can be decoded against.
        EngineError: xgrammar is not installed.
    """
    return _ebnf(json.dumps(_described(schema)))


@lru_cache(maxsize=256)  # tool sets repeat from request to request; beyond 256 a schema is converted again (~1 ms)
def _ebnf(schema: str) -> str:
    try:
        import xgrammar  # noqa: PLC0415
    except ImportError as why:
        raise EngineError(f"decoding against a JSON schema needs the package xgrammar: {why}") from why
    try:
        grammar = str(xgrammar.Grammar.from_json_schema(schema, max_whitespace_cnt=MAX_SPACES))
    except (RuntimeError, ValueError) as why:
        raise BadRequest(f"this JSON schema cannot be decoded against: {why}", "response_format") from why
    return "\n".join(map(_bounded, grammar.splitlines()))


def _described(schema: Any) -> Any:
    """``schema`` with every required property among its properties."""
    if isinstance(schema, list):
        return [_described(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    whole = {key: value if key in _DATA else _described(value) for key, value in schema.items()}
    required, others = whole.get("required"), whole.get("additionalProperties", True)
    if isinstance(required, list) and others is not False:
        described = whole.get("properties") or {}
        missing = [name for name in required if isinstance(name, str) and name not in described]
        if missing:
            whole["properties"] = {**described, **dict.fromkeys(missing, others)}
    return whole


def _bounded(rule: str) -> str:
    if rule.startswith(("basic_number", "basic_integer")):  # and not where a client's own words look like one
        for wide, narrow in _NUMBERS:
            rule = rule.replace(wide, narrow)
    return rule
