"""The cloud of this benchmark: the exact solver, which is wrong on a fixed share of puzzles.

The paper's cloud model solves 94.6 % of Countdown. Ours knows a solution of every puzzle, so a hash of the puzzle
decides on which it fails: always the same ones, whoever asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from orchestrator.tasks.countdown import Puzzle
from policies.fitting import BoolArray

WRONG = 0.05
_BUCKETS = 2**16


def ask_cloud(puzzles: Sequence[Puzzle]) -> list[str]:
    """The cloud's answers, in order."""
    return ["I found no solution." if fails(puzzle) else puzzle.solution for puzzle in puzzles]


def cloud_right(puzzles: Sequence[Puzzle]) -> BoolArray:
    """Whether the cloud would solve each: [n]."""
    return np.array([not fails(puzzle) for puzzle in puzzles], dtype=bool)


def fails(puzzle: Puzzle) -> bool:
    """Whether this is one of the puzzles that the cloud gets wrong, whatever the order of its numbers."""
    digest = hashlib.blake2s(f"cloud {sorted(puzzle.numbers)}={puzzle.target}".encode()).digest()
    return int.from_bytes(digest[:2], "big") < WRONG * _BUCKETS
