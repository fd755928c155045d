"""Whether the base tells an attempt that reached the target from one that did not, and what its groups teach.

Sampled at temperature 1, as training samples. The lessons of ``base`` show a true verdict after each attempt, and
going on after misses only. Only a model that reads its own last result can learn to ask when it failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gapg.answers import Examiner
from benchmarks.gapg.base import MOST_ATTEMPTS
from benchmarks.gapg.form import END_THINK, THINK, YES
from orchestrator.tasks.countdown import Puzzle, is_solved
from policies.help_marker import asks_for_help

SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Knowing:
    """Shares: of attempts that it calls a hit, of attempts after which it goes on and of answers that ask, by whether
    the (last) attempt was a hit; of answers that are right; of groups with a right answer and with a request.
    """

    says_yes_after_hit: float
    says_yes_after_miss: float
    goes_on_after_hit: float
    goes_on_after_miss: float
    asks_after_hit: float
    asks_after_miss: float
    right: float
    groups_with_right: float
    groups_with_request: float


def knowing(examiner: Examiner, puzzles: Sequence[Puzzle]) -> Knowing:
    """Sample ``SAMPLES`` answers to each puzzle, with the permission to ask, and count."""
    texts = examiner.sampled(puzzles, SAMPLES)
    says_yes: dict[bool, list[bool]] = {True: [], False: []}
    went_on: dict[bool, list[bool]] = {True: [], False: []}
    asked: dict[bool, list[bool]] = {True: [], False: []}
    for puzzle, group in zip(puzzles, texts, strict=True):
        for text in group:
            reached, said = hits(puzzle, text), verdicts(text)
            for hit, yes in zip(reached, said, strict=True):
                says_yes[hit].append(yes)
            for place, hit in enumerate(reached[: MOST_ATTEMPTS - 1]):  # after the last one it cannot go on
                went_on[hit].append(place + 1 < len(reached))
            asked[reached[-1]].append(asks_for_help(text))
    solved = np.array(
        [[is_solved(puzzle, text) for text in group] for puzzle, group in zip(puzzles, texts, strict=True)]
    )
    requests = np.array([[asks_for_help(text) for text in group] for group in texts])
    return Knowing(
        says_yes_after_hit=_share(says_yes[True]),
        says_yes_after_miss=_share(says_yes[False]),
        goes_on_after_hit=_share(went_on[True]),
        goes_on_after_miss=_share(went_on[False]),
        asks_after_hit=_share(asked[True]),
        asks_after_miss=_share(asked[False]),
        right=float(solved.mean()),
        groups_with_right=float(solved.any(axis=1).mean()),
        groups_with_request=float(requests.any(axis=1).mean()),
    )


def hits(puzzle: Puzzle, text: str) -> list[bool]:
    """Whether each attempt in the text's reasoning has the target as its last result."""
    return [attempt.partition(":")[0].rpartition("=")[2] == str(puzzle.target) for attempt in _attempts(text)]


def verdicts(text: str) -> list[bool]:
    """Whether the text says of each attempt that it reached the target."""
    return [attempt.endswith(YES) for attempt in _attempts(text)]


def _attempts(text: str) -> list[str]:
    return text.partition(END_THINK)[0].removeprefix(THINK).split(";")


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if flags else 0.0
