"""Strangers' JSON Schemas: the same verdicts as jsonschema's own, and none that takes for ever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from actors.grammar import json_grammar
from policies.json_schema import schema_problem, violation
from policies.toolcalls import check, parse, render
from policies.types import ParsedText, ToolCall

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


def test_a_grammar_asks_for_what_is_required_and_not_described() -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string as accepts

    inner = {"type": "object", "required": ["a", "b"], "properties": {"b": {"const": {"required": ["x"]}}}}
    grammar = Grammar.from_ebnf(json_grammar({"type": "object", "properties": {"p": inner}, "required": ["p"]}))
    assert accepts(grammar, '{"p":{"b":{"required":["x"]},"a":1}}')
    assert not accepts(grammar, '{"p":{"b":{"required":["x"]}}}') and not accepts(grammar, '{"p":{}}')


ARGUMENTS = st.dictionaries(st.text(max_size=5), st.text(alphabet='<>/\\"tol_ca ', max_size=30), max_size=2)


@given(st.lists(ARGUMENTS, max_size=3))
def test_tags_inside_the_strings_of_a_call_are_text(arguments: list[dict[str, str]]) -> None:
    calls = tuple(ToolCall("send", {**one, "note": "</tool_call>"}) for one in arguments)
    assert parse("On it." + render(calls)) == ParsedText("On it.", calls)


def test_a_text_of_calls_that_never_end_is_read_in_no_time() -> None:
    for hostile in ('<tool_call>"</tool_call>', "<tool_call></tool_call>", "<tool_call>", '</tool_call>"'):
        assert parse('<tool_call>"' + hostile * 50_000).error
