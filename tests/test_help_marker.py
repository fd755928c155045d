"""Asking for help: read leniently at the end of an answer, never out of an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.help_marker import HELP, asks_for_help, may_begin, without_request
from policies.toolcalls import render
from policies.types import ToolCall

THOUGHT = "<think> 3 + 4 is 7 and nothing makes 9. </think>"


@pytest.mark.parametrize(
    "request_text",
    [
        HELP,
        "<unknown>I need external assistance</unknown>.",
        "<unknown> I need external assitance </unknown>",
        "<UNKNOWN> i need external assistance. </unknown>\n",
        "<unknown> too hard </unknown>",
        "<unknown></unknown>",
        "<unknown> I need exter",
        "I need external assistance.",
        "i need  external\nassistance",
        "So I need external assistance!",
        "<answer> I need external assistance </answer>",
        "<answer>" + HELP + "</answer>",
        "\\boxed{I need external assistance}.",
    ],
)
def test_the_ways_models_ask_are_read_and_not_shown(request_text: str) -> None:
    assert asks_for_help(request_text)
    assert without_request(request_text) == ""
    assert asks_for_help(f"{THOUGHT} {request_text}")
    assert without_request(f"{THOUGHT} {request_text}") == THOUGHT


def call(**arguments: str) -> str:
    return render([ToolCall("send", arguments)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The value is <unknown>.",
        '{"host": "<unknown>"}',
        '{"note": "I need external assistance"}',
        'The user wrote "I need external assistance"',
        f"{HELP} <answer> 3 * 3 </answer>",
        "I need external assistance is what the ticket says, so it goes to support.",
        call(text="I need external assistance"),
        call(text=HELP),
        call(text=HELP) + " Sent.",
        f"{HELP}{call(text='hello')}",
        call(text=HELP)[: -len('"}}</tool_call>')],
        call(text="I need external assistance")[: -len('"}}</tool_call>')],
    ],
)
def test_what_only_contains_the_words_does_not_ask_and_is_shown_whole(text: str) -> None:
    assert not asks_for_help(text)
    assert without_request(text) == text


def test_help_asked_for_after_a_call_counts_and_the_call_stays() -> None:
    made = call(text="hello")
    assert asks_for_help(made + HELP)
    assert without_request(made + "\n" + HELP) == made


def test_only_the_sentence_that_asks_is_removed() -> None:
    text = "Step 1: 3.5 is too small. Step 2: I see no way. I am sorry, I need external assistance."
    assert without_request(text) == "Step 1: 3.5 is too small. Step 2: I see no way."


@given(st.text(max_size=300), st.text(max_size=50))
def test_the_marker_at_the_end_always_asks_and_nothing_of_it_remains(before: str, space: str) -> None:
    if "<tool_call>" in before:
        return
    text = before + HELP + " " * len(space)
    assert asks_for_help(text)
    assert before.startswith(without_request(text))


@given(st.text(alphabet='<unkow>/ I need external assistance."}', max_size=400))
def test_what_may_be_shown_is_a_beginning_of_the_text_and_asks_for_nothing_less(text: str) -> None:
    shown = without_request(text)
    assert text.startswith(shown)
    assert (shown == text) or asks_for_help(text)


def test_a_long_text_is_read_in_no_time() -> None:
    assert not asks_for_help(("<unknown> I need " + " " * 80 + "external assistance") * 20_000 + " x")


@pytest.mark.parametrize(
    ("text", "sure"),
    [
        ("Hello", "Hello"),
        ("I need", ""),
        ("It is so: I need external", "It is so: "),
        ("I need help", "I need help"),
        ("I need external assistance.</answ", ""),
        ("I need external assistance is what", "I need external assistance is what"),
        ("x <unk", "x "),
        ("x <unkempt", "x <unkempt"),
        (call(text=HELP), call(text=HELP)),
    ],
)
def test_what_may_become_a_request_waits(text: str, sure: str) -> None:
    assert text[: may_begin(text)] == sure


@given(st.lists(st.sampled_from([*" .<>/*aix", "I need ", "external ", "assistance", HELP, "</answer>"])))
def test_a_request_is_held_back_whole_while_it_is_written(parts: list[str]) -> None:
    text = "".join(parts)
    out = max(may_begin(text[:length]) for length in range(len(text) + 1))
    assert asks_for_help(text[out:]) == asks_for_help(text)
