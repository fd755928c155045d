"""The task generator: reproducible, split without leaks, and verifiable."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from orchestrator.tasks.generator import KINDS, Split, Task, shared_tools, tasks
from orchestrator.tasks.tools import TOOLS
from orchestrator.tasks.verify import is_correct, is_schema_valid
from policies.json_schema import schema_problem
from policies.toolcalls import canonical, parse
from policies.types import ToolCall


def draw(seed: int, split: Split, count: int) -> list[Task]:
    return list(itertools.islice(tasks(seed, split), count))


def test_a_seed_always_gives_the_same_tasks() -> None:
    assert draw(3, Split.TRAIN, 50) == draw(3, Split.TRAIN, 50)
    assert draw(3, Split.TRAIN, 50) != draw(4, Split.TRAIN, 50)


@pytest.mark.parametrize("split", list(Split))
def test_every_answer_is_valid_against_the_tools_on_offer(split: Split) -> None:
    assert all(is_schema_valid(task, task.text) for task in draw(0, split, 1500))


@pytest.mark.parametrize("split", list(Split))
def test_all_kinds_and_difficulties_occur_in_every_split(split: Split) -> None:
    seen = Counter((task.kind, task.difficulty) for task in draw(1, split, 4000))
    assert {kind for kind, _ in seen} == set(KINDS)
    assert {level for _, level in seen} == {1, 2, 3, 4}


def test_test_requests_and_answers_never_occur_in_training() -> None:
    train, test = draw(0, Split.TRAIN, 20_000), draw(0, Split.TEST, 4000)
    assert not {t.messages[-1]["content"] for t in train} & {t.messages[-1]["content"] for t in test}
    single = [t for t in test if t.kind != "plan_workflow" and len(t.answer) == 1]
    taught = {canonical(t.answer) for t in train if t.kind != "plan_workflow"}
    assert not {canonical(t.answer) for t in single} & taught


def test_the_open_split_uses_names_outside_the_lists() -> None:
    words = " ".join(task.messages[-1]["content"] for task in draw(0, Split.OPEN, 500))
    closed = " ".join(task.messages[-1]["content"] for task in draw(0, Split.TEST, 500))
    assert "Zennor" in words and "Zennor" not in closed


def test_grouped_tasks_share_a_list_that_holds_every_needed_tool() -> None:
    for group in itertools.islice(shared_tools(0, Split.TRAIN, 8), 50):
        assert len({id(task.tools) for task in group}) <= 1 or all(t.tools == group[0].tools for t in group)
        offered = {tool["function"]["name"] for tool in group[0].tools}
        assert {call.name for task in group for call in task.answer} <= offered


def test_a_weighting_leaves_out_what_weighs_nothing() -> None:
    stream = tasks(0, Split.TRAIN, {"move_slice": 1.0, "set_power": 1.0})
    assert {call.name for task in itertools.islice(stream, 300) for call in task.answer} == {"move_slice", "set_power"}


def test_the_verifier_accepts_the_same_meaning_and_nothing_else() -> None:
    task = next(t for t in tasks(0, Split.TEST) if t.kind == "set_power" and len(t.answer) == 1)
    call = task.answer[0]
    reordered = ToolCall(call.name, dict(reversed(call.arguments.items())))
    wrong = ToolCall(call.name, {**call.arguments, "power_dbm": call.arguments["power_dbm"] + 0.1})
    assert is_correct(task, [reordered])
    assert not is_correct(task, [wrong]) and not is_correct(task, []) and not is_correct(task, [call, call])
    assert is_correct(task, parse(task.text).calls)


def test_every_tool_declares_a_valid_closed_schema() -> None:
    for tool in TOOLS.values():
        parameters = tool["function"]["parameters"]
        assert schema_problem(parameters) is None
        assert parameters["additionalProperties"] is False
