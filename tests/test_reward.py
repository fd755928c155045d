"""Rewards: the gate holds whatever the other terms say, and the order of the hierarchy is the paper's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.reward import (
    CallWeights,
    Hierarchy,
    argument_f1,
    gated_reward,
    hierarchical_reward,
    length_excess,
    same_tools,
)
from policies.toolcalls import canonical, parse
from policies.types import ToolCall

unit = st.floats(0, 1)
call_lists = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from(["move", "scale"]),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([1, 1.0, "1", 2, True, [1, 2]])),
    ),
    max_size=3,
)
weightings = st.builds(
    lambda valid, tools, arguments, preference, share: CallWeights(valid, tools, arguments, preference, valid * share),
    st.floats(0.01, 2),
    *[st.floats(0, 2)] * 3,
    st.floats(0, 0.99),
)


@settings(deadline=None)  # the first call imports scipy
@given(weightings, call_lists, call_lists, call_lists, unit, unit, unit, unit)
def test_an_invalid_answer_never_earns_as_much_as_a_valid_one(
    weights: CallWeights,
    good: list[ToolCall],
    bad: list[ToolCall],
    reference: list[ToolCall],
    liked: float,
    disliked: float,
    long: float,
    short: float,
) -> None:
    invalid = gated_reward(False, bad, reference, weights, preference=liked, length=short)
    valid = gated_reward(True, good, reference, weights, preference=disliked, length=long)
    assert invalid < valid


@settings(deadline=None)
@given(weightings, call_lists, unit, unit)
def test_the_reference_itself_earns_most(
    weights: CallWeights, reference: list[ToolCall], preference: float, length: float
) -> None:
    best = gated_reward(True, reference, reference, weights, preference=1.0)
    assert best == pytest.approx(weights.valid + weights.tools + weights.arguments + weights.preference)
    assert gated_reward(True, reference, reference, weights, preference, length) <= best


@settings(deadline=None)
@given(call_lists, call_lists)
def test_the_argument_f1_is_a_symmetric_share(calls: list[ToolCall], reference: list[ToolCall]) -> None:
    score = argument_f1(calls, reference)
    assert 0 <= score <= 1
    assert score == argument_f1(reference, calls)


@settings(deadline=None)
@given(call_lists, call_lists)
def test_same_tools_and_full_f1_are_exactly_the_same_meaning(calls: list[ToolCall], reference: list[ToolCall]) -> None:
    full = same_tools(calls, reference) and argument_f1(calls, reference) == 1.0
    assert full == (canonical(calls) == canonical(reference))


@settings(deadline=None)
@given(call_lists, call_lists)
def test_the_order_of_calls_does_not_matter(calls: list[ToolCall], reference: list[ToolCall]) -> None:
    scores = {argument_f1(list(order), reference) for order in itertools.permutations(calls)}
    assert len(scores) == 1


def test_the_argument_f1_counts_arguments_of_partners() -> None:
    first, second = ToolCall("move", {"a": 1, "b": 2}), ToolCall("move", {"a": 3, "b": 4})
    assert argument_f1([ToolCall("move", {"a": 1, "b": 9})], [first]) == pytest.approx(0.5)
    assert argument_f1([ToolCall("move", {"a": 1})], [first]) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert argument_f1([second, first], [first, second]) == 1.0
    assert argument_f1([first], [first, second]) == pytest.approx(2 / 3)
    assert argument_f1([first, first], [first]) == pytest.approx(2 / 3)  # said twice, earned once
    assert argument_f1([ToolCall("scale", {"a": 1, "b": 2})], [first]) == 0.0
    assert argument_f1([], [first]) == 0.0
    assert argument_f1([], []) == 1.0
    assert argument_f1([], [ToolCall("stop", {})]) == 0.0
    # Greedy pairing in order would marry the first two and leave nothing for the third.
    calls = [ToolCall("move", {"a": 1, "b": 4}), ToolCall("move", {"a": 1, "b": 2})]
    assert argument_f1(calls, [first, ToolCall("move", {"a": 7, "b": 4})]) == pytest.approx(2 * 3 / 8)


def test_a_number_beyond_a_float_is_no_valid_call() -> None:
    answer = parse('<tool_call>{"name":"move","arguments":{"a":1e999}}</tool_call>')
    assert answer.error is not None and "1e999 is too large" in answer.error


@given(st.floats(0, 5), st.floats(0, 5))
def test_weights_under_which_length_could_beat_validity_are_refused(valid: float, length: float) -> None:
    assume(not length < valid)
    with pytest.raises(ValueError, match="length must be below valid"):
        CallWeights(valid=valid, length=length)


@pytest.mark.parametrize("field", ["preference", "length"])
def test_terms_outside_their_range_are_refused_by_name(field: str) -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=field):
            gated_reward(True, [], [], CallWeights(), **{field: value})
    with pytest.raises(ValueError, match="tools"):
        CallWeights(tools=-1.0)


def test_length_is_free_up_to_a_point_and_bounded_after_another() -> None:
    assert [length_excess(n, 10, 20) for n in (0, 10, 15, 20, 2000)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="free < limit"):
        length_excess(5, 20, 20)


def test_alone_beats_helped_beats_well_formed_beats_nothing() -> None:
    first = Hierarchy(2.0, 0.5, 0.2)
    earned = [
        hierarchical_reward(correct=True, assisted=False, formatted=True, hierarchy=first),
        hierarchical_reward(correct=True, assisted=False, formatted=False, hierarchy=first),
        hierarchical_reward(correct=True, assisted=True, formatted=True, hierarchy=first),
        hierarchical_reward(correct=False, assisted=False, formatted=True, hierarchy=first),
        hierarchical_reward(correct=False, assisted=True, formatted=True, hierarchy=first),
        hierarchical_reward(correct=False, assisted=False, formatted=False, hierarchy=first),
    ]
    assert earned == [2.2, 2.0, 0.5, 0.2, 0.0, 0.0]
    assert hierarchical_reward(False, False, True, Hierarchy()) == 0.0


@given(*[st.floats(-1, 3)] * 3)
def test_a_hierarchy_out_of_order_is_refused(alone: float, helped: float, formed: float) -> None:
    if alone >= helped >= formed >= 0 and alone > formed:
        assert Hierarchy(alone, helped, formed).alpha_c == helped
    else:
        with pytest.raises(ValueError, match="alpha_"):
            Hierarchy(alone, helped, formed)


def test_the_ends_of_the_hierarchy_are_where_asking_is_worth_nothing_or_as_much_as_solving() -> None:
    asked, alone = ({"correct": True, "assisted": assisted, "formatted": True} for assisted in (True, False))
    worthless, equal = Hierarchy(alpha_c=0.0), Hierarchy(alpha_c=1.0)
    assert hierarchical_reward(**asked, hierarchy=worthless) == 0.0
    assert hierarchical_reward(**asked, hierarchy=equal) == hierarchical_reward(**alone, hierarchy=equal) == 1.0
    with pytest.raises(ValueError, match="alpha_a > alpha_f"):
        Hierarchy(0.5, 0.5, 0.5)
