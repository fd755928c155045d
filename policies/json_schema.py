"""JSON Schemas that strangers wrote: checked before use, then used without ever raising.

A schema from a request must not reach another host (``$ref`` to a URL), hang or crash the program (an endless
``$ref``, a pattern that is no regular expression, or one that takes for ever on some text). ``schema_problem`` says why
one is refused; ``violation`` checks a value against one and turns whatever still goes wrong into a reason. Patterns are
matched by the ``regex`` package, which can be told to give up. Draft 2020-12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import SchemaError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

Schema = Mapping[str, Any]

UNUSABLE = (Unresolvable, RecursionError, re.error, regex.error, TimeoutError)
PATTERN_S = 0.05  # for one match; what takes longer is not matching, it is going round in circles
CACHED = 512  # tool lists repeat from request to request; beyond this many a schema is compiled again (~1 ms)


def schema_problem(schema: Schema) -> str | None:
    """Why ``schema`` is refused, or None when values can be checked against it."""
    return _problem(_text(schema))


def violation(value: Any, schema: Schema) -> str | None:
    """Why ``value`` does not satisfy ``schema``, or None when it does; never raises on JSON data."""
    try:
        error = next(iter(_validator(_text(schema)).iter_errors(value)), None)
    except UNUSABLE as why:
        return f"the schema cannot be applied: {why}"
    return error.message if error else None


def parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of every object in ``schema``, without recursion."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


@lru_cache(maxsize=CACHED)
def _problem(text: str) -> str | None:
    schema = json.loads(text)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as why:
        return f"{'.'.join(map(str, why.absolute_path)) or 'the schema'}: {why.message}"
    except RecursionError:
        return "it is nested too deeply"
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    keys = {key for key, _ in parts(schema)}
    if {"patternProperties", "unevaluatedProperties"} <= keys:  # the one place where patterns would have no time limit
        return "patternProperties and unevaluatedProperties cannot be used together"
    found = (_bad_reference(key, value, resolver) or _bad_pattern(key, value) for key, value in parts(schema))
    return next((why for why in found if why), None) or _probe(text)


def _bad_reference(key: str, value: Any, resolver: Any) -> str | None:
    if key not in ("$ref", "$dynamicRef") or not isinstance(value, str):
        return None
    if not value.startswith("#"):
        return f"{key} {value!r} leaves the schema: only references that start with # are followed"
    try:
        resolver.lookup(value)
    except Unresolvable:
        return f"{key} {value!r} leads nowhere"
    return None


def _bad_pattern(key: str, value: Any) -> str | None:
    patterns = [value] if key == "pattern" else value if key == "patternProperties" else ()
    for pattern in patterns if isinstance(patterns, list | dict) else ():
        try:
            re.compile(pattern)
            regex.compile(pattern)
        except (re.error, regex.error, TypeError, RecursionError) as why:
            return f"pattern {pattern!r} is not a regular expression: {why}"
    return None


def _probe(text: str) -> str | None:
    """A reference in a circle shows when an empty object is checked."""
    try:
        list(_validator(text).iter_errors({}))
    except UNUSABLE as why:
        return f"it cannot be applied: {why}"
    return None


@lru_cache(maxsize=CACHED)
def _validator(text: str) -> Any:
    return _Bounded(json.loads(text), registry=Registry())  # an empty registry fetches nothing


def _found(pattern: str, text: str) -> bool:
    """Whether ``pattern`` is somewhere in ``text``; raises TimeoutError where that cannot be told in time."""
    try:
        return regex.search(pattern, text, timeout=PATTERN_S) is not None
    except TimeoutError:
        raise TimeoutError(f"pattern {pattern!r} takes too long on a text of {len(text)} characters") from None


def _pattern(_: Any, pattern: str, value: Any, __: Schema) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _found(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Schema, value: Any, __: Schema) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for pattern, schema in patterns.items():
            for key in (key for key in value if _found(pattern, key)):
                yield from validator.descend(value[key], schema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key in value:
        if key in known or any(_found(pattern, key) for pattern in patterns):
            continue
        if wanted is False:
            yield ValidationError(f"{key!r} is not among its properties")
        else:
            yield from validator.descend(value[key], wanted, path=key)


_Bounded = extend(
    Draft202012Validator,
    {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties},
)


def _text(schema: Schema) -> str:
    return json.dumps(schema, separators=(",", ":"))
