"""Which prompts of a batch teach, so that the model learns to ask for help within the cloud's budget.

Adaptive prompt filtering (arXiv 2509.24050, section 3.3.2): D1 are the prompts that the device solves itself at least
once, D2 up to rho * |D1| prompts that only the cloud solves, and the rest of the batch is dropped. So at most a share
of rho / (1 + rho) of what is learnt from speaks for asking. It steers what is learnt; it does not bound what the model
does, which is the budget's task at serving. Left open by the paper and decided here: D2 is drawn at random, rounding is
down, and a prompt without both asking and other answers is no candidate, since equal rewards move nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from policies.checks import nonnegative, probability
from policies.fitting import BoolArray, IntArray

_ROUNDING = 1e-9  # of rho * |D1|: 0.3 / 0.7 * 7 must allow 3 prompts


class Solvable(StrEnum):
    """What puts a prompt into D1.

    SOLVED: an answer of the device was right without help (section 3.3.2). MIXED: some answers were right, with help or
    without, and some were not (algorithm 1, line 11). MIXED takes in every prompt that could be in D2, so that nothing
    is left for the budget to limit.
    """

    SOLVED = "solved"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Batch:
    """How the answers of a batch came out.

    Args:
        asked: whether each answer asked for help, [prompts, G].
        right: whether the model's own answer was right, [prompts, G]; never together with ``asked``.
        cloud: whether the cloud's answer was right, [prompts]; false where the cloud was not asked.

    Raises:
        ValueError: shapes disagree, or an answer both asked for help and was right without.
    """

    asked: BoolArray
    right: BoolArray
    cloud: BoolArray

    def __post_init__(self) -> None:
        if self.asked.ndim != 2 or self.right.shape != self.asked.shape or self.cloud.shape != self.asked.shape[:1]:
            shapes = [list(array.shape) for array in (self.asked, self.right, self.cloud)]
            raise ValueError(f"asked and right must be [prompts, G] and cloud [prompts], got shapes {shapes}")
        if (self.asked & self.right).any():
            raise ValueError("right must be false where asked is true: a helped answer is the cloud's")


@dataclass(frozen=True, slots=True)
class Kept:
    """Indices of prompts, rising, and what they were chosen from.

    ``solvable`` is D1, ``helped`` the kept part of D2; ``candidates`` the size of D2 before the limit; ``silent`` how
    many prompts of D1 have right answers only, which count for the limit but move nothing.
    """

    solvable: IntArray
    helped: IntArray
    prompts: int
    candidates: int
    silent: int

    @property
    def indices(self) -> IntArray:
        """Every prompt to learn from, rising; their number divides the step."""
        return np.sort(np.concatenate([self.solvable, self.helped]))

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of prompts, for a log."""
        kept = len(self.solvable) + len(self.helped)
        return {
            "prompts": self.prompts,
            "solvable": len(self.solvable),
            "silent": self.silent,
            "candidates": self.candidates,
            "helped": len(self.helped),
            "dropped": self.prompts - kept,
        }


def keep(batch: Batch, rho: float, seed: int, solvable: Solvable = Solvable.SOLVED) -> Kept:
    """Choose D1 and D2. With no prompt in D1 nothing is kept: there is no step, and the caller says so.

    Args:
        rho: prompts for the cloud per prompt for the device, >= 0 (``ratio`` of the budget's share).
        seed: of the draw from D2.

    Raises:
        ValueError: ``rho`` is negative or not finite.
    """
    nonnegative(rho=rho)
    helped = batch.asked & batch.cloud[:, None]
    local: BoolArray = np.any(batch.right, axis=1)
    good = batch.right | helped
    differ: BoolArray = np.any(good, axis=1) & ~np.all(good, axis=1)
    first = local if solvable is Solvable.SOLVED else differ
    second = np.flatnonzero(differ & ~local & ~first)
    most = min(len(second), int(np.floor(rho * first.sum() + _ROUNDING)))
    drawn = np.random.default_rng(seed).choice(second, size=most, replace=False)
    silent = int((first & batch.right.all(axis=1)).sum())
    return Kept(np.flatnonzero(first), np.sort(drawn), len(local), len(second), silent)


def ratio(share: float) -> float:
    """rho for a budget: the share of requests that may go to the cloud, in [0, 1).

    Raises:
        ValueError: ``share`` lies elsewhere (1 would send everything, and there is nothing to learn).
    """
    probability(share=share)
    if share == 1.0:
        raise ValueError("share must be below 1, got 1.0")
    return share / (1.0 - share)
