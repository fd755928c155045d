"""The vote of K drafts: by meaning, with invalid drafts counted and never winning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agreement import NOBODY, meaning, vote
from policies.toolcalls import parse, same_answer
from policies.types import ParsedText, ToolCall

values = st.one_of(st.integers(0, 2), st.sampled_from([0.0, 1.0, 1.5, "1", "a"]), st.booleans())
calls = st.builds(ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("ab"), values, max_size=2))
readable = st.one_of(
    st.builds(ParsedText, st.sampled_from(["", "yes", " yes", "no  way", "no way"])),
    st.builds(ParsedText, st.just(""), st.lists(calls, min_size=1, max_size=2).map(tuple)),
)
drafts = st.lists(st.tuples(readable, st.booleans()), min_size=1, max_size=7)


def call(argument: object) -> ParsedText:
    return ParsedText("", (ToolCall("f", {"a": argument}),))


@settings(deadline=None)
@given(readable, readable)
def test_two_drafts_share_a_group_exactly_when_they_are_the_same_answer(left: ParsedText, right: ParsedText) -> None:
    assert (meaning(left) == meaning(right)) == same_answer(left, right)


def test_the_order_of_calls_and_keys_and_the_form_of_a_number_do_not_split_a_vote() -> None:
    texts = [
        '<tool_call>{"name":"f","arguments":{"a":5,"b":1}}</tool_call><tool_call>{"name":"g"}</tool_call>',
        '<tool_call>{"name":"g"}</tool_call> <tool_call>{"arguments":{"b":1,"a":5.0},"name":"f"}</tool_call>',
    ]
    assert vote([parse(text) for text in texts], [True, True]).groups == (0, 0)


@settings(deadline=None)
@given(drafts)
def test_the_winner_is_valid_first_of_its_group_and_no_group_is_larger(rows: list[tuple[ParsedText, bool]]) -> None:
    result = vote([draft for draft, _ in rows], [valid for _, valid in rows])
    if not any(valid for _, valid in rows):
        assert result.winner is None and result.share == 0.0
        return
    assert result.winner is not None and rows[result.winner][1]
    group = result.groups[result.winner]
    assert result.groups.index(group) == result.winner
    assert all(result.groups.count(group) >= result.groups.count(g) for g in result.groups if g != NOBODY)
    assert result.share == result.groups.count(group) / len(rows)
    assert result.raw_scores().argmax() == result.winner


@settings(deadline=None)
@given(drafts)
def test_entropy_lies_between_nought_and_log_k(rows: list[tuple[ParsedText, bool]]) -> None:
    entropy = vote([draft for draft, _ in rows], [valid for _, valid in rows]).entropy
    assert 0.0 <= entropy <= math.log(len(rows)) + 1e-12


def test_entropy_is_nought_in_agreement_and_log_k_when_all_differ() -> None:
    assert vote([call(1)] * 4, [True] * 4).entropy == 0.0
    assert vote([call(i) for i in range(4)], [True] * 4).entropy == pytest.approx(math.log(4))


def test_more_votes_never_score_lower_and_more_agreeing_drafts_score_higher() -> None:
    split = vote([call(1), call(1), call(2)], [True] * 3).raw_scores()
    assert split[0] == split[1] > split[2]
    unanimous = [vote([call(1)] * k, [True] * k).raw_scores()[0] for k in (1, 2, 3, 8)]
    assert unanimous == sorted(set(unanimous))


def test_an_invalid_draft_votes_for_nobody_but_is_counted() -> None:
    result = vote([call(1), call(1), call(2)], [False, False, True])
    assert (result.winner, result.share, result.groups) == (2, 1 / 3, (NOBODY, NOBODY, 0))
    assert np.all(result.raw_scores()[:2] < result.raw_scores()[2])


def test_what_cannot_be_parsed_never_votes_even_when_called_valid() -> None:
    unreadable = parse('<tool_call>{"name":')
    assert vote([unreadable, unreadable, call(1)], [True, True, True]).winner == 2


def test_no_drafts_have_no_winner() -> None:
    assert vote([], []).winner is None


def test_a_missing_validity_is_refused() -> None:
    with pytest.raises(ValueError, match="valid"):
        vote([call(1), call(2)], [True])
