"""What sampled answers earn, from a log and with a verifier, and how often the cloud is asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from test_learner import call, record

from actors.judges import CollaborativeJudge, LoggedJudge
from orchestrator.lessons import lessons
from orchestrator.tasks.countdown import Puzzle, is_formatted, is_solved, puzzles
from orchestrator.tasks.generator import Split
from policies.help_marker import HELP
from policies.reward import Hierarchy

LABELS = lessons([record(n) for n in range(4)], "v", 1e-9).labels
PUZZLES = list(islice(puzzles(0, Split.TRAIN), 6))


class Cloud:
    """Solves every puzzle but the last, and counts."""

    def __init__(self) -> None:
        self.asked: list[Puzzle] = []

    def __call__(self, tasks: Sequence[Any]) -> list[str]:
        self.asked += tasks
        return ["1" if puzzle is PUZZLES[-1] else puzzle.solution for puzzle in tasks]


def test_an_answer_earns_more_the_more_it_says_what_the_cloud_said() -> None:
    right, other, broken, help_ = call("b"), call("a"), "<tool_call>{", HELP
    judged = LoggedJudge(LABELS)([2, 0], [[right, other], [broken, help_]])
    assert judged.rewards[0, 0] > judged.rewards[0, 1] > judged.rewards[1].max()
    assert judged.outcome.right.tolist() == [[True, False], [False, False]]
    assert judged.outcome.asked.tolist() == [[False, False], [False, True]]


def test_right_alone_beats_right_with_help_beats_wrong() -> None:
    cloud, hierarchy = Cloud(), Hierarchy(1.0, 0.25)
    judge = CollaborativeJudge(PUZZLES, is_solved, cloud, hierarchy)
    judged = judge([0, 5], [[PUZZLES[0].solution, HELP, "1"], [PUZZLES[5].solution, HELP, "1"]])
    assert judged.rewards.tolist() == [[1.0, 0.25, 0.0], [1.0, 0.0, 0.0]]
    assert judged.outcome.cloud.tolist() == [True, False]


def test_the_cloud_is_asked_once_a_prompt_and_never_without_need() -> None:
    cloud = Cloud()
    judge = CollaborativeJudge(PUZZLES, is_solved, cloud, Hierarchy())
    for _ in range(3):
        judge([0, 1, 2], [[HELP, HELP], ["1", "2"], ["1", f"thinking. {HELP}"]])
    assert cloud.asked == [PUZZLES[0], PUZZLES[2]] and judge.cloud_calls == 2


def test_good_form_earns_only_without_help() -> None:
    judge = CollaborativeJudge(PUZZLES, is_solved, Cloud(), Hierarchy(2.0, 0.5, 0.2), is_formatted)
    neat = f"<think>so</think><answer>{PUZZLES[0].solution}</answer>"
    rewards = judge([0], [[neat, PUZZLES[0].solution, "<think>so</think><answer>1</answer>", HELP]]).rewards
    assert np.allclose(rewards, [[2.2, 2.0, 0.2, 0.5]])
