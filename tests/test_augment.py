"""Variants of labelled samples: other values on both sides, other tools beside the called ones, nothing else."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.augment import variants
from actors.training import Sample
from orchestrator.tasks.generator import Split, tasks
from policies.toolcalls import check, parse, render
from policies.types import ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "scale",
        "parameters": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "cpu": {"type": "integer", "maximum": 64},
                "time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
                "load": {"type": "number", "maximum": 0.5},
                "tier": {"enum": ["gold", "silver", "bronze", "a"]},
                "site": {"type": "string"},
            },
        },
    },
}


def sample(text: str, arguments: dict[str, object]) -> Sample:
    return Sample([{"role": "user", "content": text}], [TOOL], render([ToolCall("scale", arguments)]), 2.0)


def seen(given: Sample, count: int = 60) -> set[tuple[str, str]]:
    return {
        (v.messages[-1]["content"], json.dumps(parse(v.answer).calls[0].arguments)) for v in variants([given], count, 0)
    }


def test_a_copied_value_changes_on_both_sides() -> None:
    for text, arguments in seen(sample("give s-204 12 cores", {"id": "s-204", "cpu": 12})):
        values = json.loads(arguments)
        assert text == f"give {values['id']} {values['cpu']} cores"
        assert values["cpu"] <= 64
    assert len(seen(sample("give s-204 12 cores", {"id": "s-204", "cpu": 12}))) > 20


def test_times_and_fractions_stay_what_they_are() -> None:
    found = seen(sample("at 14:30, load 0.25", {"time": "14:30", "load": 0.25}))
    assert len(found) > 20
    for text, arguments in found:
        values = json.loads(arguments)
        said = text.rpartition(" ")[2]
        assert text == f"at {values['time']}, load {said}" and float(said) == values["load"] <= 0.5


def test_a_copied_word_becomes_another_of_its_enum() -> None:
    found = seen(sample("make it gold", {"tier": "gold"}))
    assert {text for text, _ in found} == {"make it gold", "make it silver", "make it bronze"}
    assert all(json.loads(arguments)["tier"] == text.rpartition(" ")[2] for text, arguments in found)


def test_a_copied_word_becomes_one_that_another_label_copied_there() -> None:
    said = [sample(f"move it to {site}", {"site": site}) for site in ("harbor", "mill")]
    never = sample("move it to the usual place", {"site": "depot"})
    made = {
        (v.messages[-1]["content"], parse(v.answer).calls[0].arguments["site"]) for v in variants([*said, never], 40, 0)
    }
    assert made == {
        ("move it to harbor", "harbor"),
        ("move it to mill", "mill"),
        ("move it to the usual place", "depot"),
    }


def test_two_copied_words_never_become_the_same() -> None:
    both = [ToolCall("scale", {"site": "mill"}), ToolCall("scale", {"site": "harbor"})]
    asked_for = Sample([{"role": "user", "content": "mill, then harbor"}], [TOOL], render(both))
    more = [sample(f"at {site}", {"site": site}) for site in ("quay", "hill", "mill", "harbor")]
    for one in variants([asked_for, *more], 60, 0)[:60]:
        sites = [call.arguments["site"] for call in parse(one.answer).calls]
        assert len(sites) < 2 or len(set(sites)) == len(sites)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("give it 12 cores, no, 12", {"cpu": 12}),  # twice: which one was copied?
        ("give it a dozen cores", {"cpu": 12}),
        ("give s-12 more cores", {"cpu": 12}),  # part of an id
        ("at 1.12 or so", {"cpu": 1}),
        ("to tier a", {"tier": "a"}),
        ("a golden slice", {"tier": "gold"}),  # part of a word
        ("gold for the gold mine", {"tier": "gold"}),
        ("at the harbor", {"site": "harbor"}),  # no other site is known
    ],
)
def test_what_was_not_plainly_copied_stays(text: str, arguments: dict[str, object]) -> None:
    assert seen(sample(text, arguments)) == {(text, json.dumps(arguments))}


def test_prose_is_left_alone() -> None:
    prose = Sample([{"role": "user", "content": "how are 12 cores?"}], [TOOL], "fine, all 12")
    assert variants([prose], 5, 0) == [prose] * 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_every_variant_of_a_task_is_valid_and_calls_the_same_tools(seed: int) -> None:
    for task in islice(tasks(seed, Split.TEST), 8):
        given = Sample(task.messages, task.tools, task.text)
        called = [call.name for call in task.answer]
        for made in variants([given], 4, seed):
            answer = parse(made.answer)
            assert check(answer, made.tools, True) is None
            assert [call.name for call in answer.calls] == called
            assert made.weight == given.weight


def test_the_first_variant_is_the_sample_and_the_same_seed_gives_the_same() -> None:
    given = sample("give s-204 12 cores", {"id": "s-204", "cpu": 12})
    assert variants([given], 1, 3) == [given]
    assert variants([given], 9, 3) == variants([given], 9, 3)
