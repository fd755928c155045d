"""Strangers' JSON Schemas: the same verdicts as jsonschema's own, and none that takes for ever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from policies.json_schema import schema_problem, violation
from policies.toolcalls import check, parse, render
from policies.types import ToolCall

ENDLESS = {"type": "string", "pattern": "^(a|aa)+$"}
TRAP = "a" * 60 + "!"

WORDS = st.text(alphabet="ab1", max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
    lambda inner: st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
PATTERNS = st.sampled_from(["^a", "b$", "^[ab]+$", "1", "^$", "a|b", "(?=a)", r"\d"])
PLAIN = {"type": st.sampled_from(["string", "integer", "object"]), "pattern": PATTERNS}
SCHEMAS = st.recursive(
    st.booleans() | st.fixed_dictionaries({}, optional=PLAIN),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(WORDS, inner, max_size=3),
            "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
        },
    ),
    max_leaves=10,
)


@given(VALUES, SCHEMAS)
def test_the_verdict_is_that_of_the_library(value: Any, schema: Any) -> None:
    assert (violation(value, schema) is None) == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (ENDLESS, TRAP),
        ({"patternProperties": {"^(a|aa)+$": {"type": "string"}}}, {TRAP: "x"}),
        ({"patternProperties": {"^(a|aa)+$": True}, "additionalProperties": False}, {TRAP: "x"}),
        ({"propertyNames": ENDLESS}, {TRAP: 1}),
        ({"properties": {"x": {"items": ENDLESS}}}, {"x": [TRAP]}),
    ],
)
def test_a_pattern_that_takes_for_ever_is_a_reason_and_soon(schema: dict[str, Any], value: Any) -> None:
    assert schema_problem(schema) is None
    began = time.monotonic()
    assert "takes too long" in (violation(value, schema) or "")
    assert time.monotonic() - began < 1.0


def test_the_learners_check_has_the_same_bound() -> None:
    tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": {"x": ENDLESS}}}}
    assert "takes too long" in (check(parse(render([ToolCall("f", {"x": TRAP})])), [tool]) or "")


def test_what_could_not_be_bounded_is_refused() -> None:
    both = {"patternProperties": {"^a": True}, "unevaluatedProperties": False}
    assert "cannot be used together" in (schema_problem({"properties": {"x": both}}) or "")
