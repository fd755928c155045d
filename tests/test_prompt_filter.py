"""Adaptive prompt filtering: who is kept, and that the cloud's share stays within the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prompt_filter import Batch, Solvable, keep, ratio

OUTCOMES = st.sampled_from("awh")  # an answer is right alone, wrong, or asks for help


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    size = draw(st.integers(2, 5))
    groups = draw(st.lists(st.lists(OUTCOMES, min_size=size, max_size=size), min_size=1, max_size=30))
    return batch(["".join(group) for group in groups], draw(st.lists(st.booleans(), min_size=30, max_size=30)))


def batch(groups: list[str], cloud: list[bool]) -> Batch:
    letters = np.array([list(group) for group in groups])
    return Batch(letters == "h", letters == "a", np.array(cloud[: len(groups)]) & (letters == "h").any(axis=1))


@given(batches(), st.floats(0, 3), st.integers(0, 100))
def test_the_share_kept_for_the_cloud_stays_within_the_budget(given: Batch, rho: float, seed: int) -> None:
    kept = keep(given, rho, seed)
    assert len(kept.helped) <= rho * len(kept.solvable) + 1e-6
    assert len(kept.helped) == min(kept.candidates, int(rho * len(kept.solvable) + 1e-9))
    if len(kept.indices):
        assert len(kept.helped) / len(kept.indices) <= rho / (1 + rho) + 1e-6
    assert kept.counts["dropped"] + len(kept.indices) == len(given.asked)


@given(batches(), st.integers(0, 100))
def test_each_part_holds_what_it_is_defined_by(given: Batch, seed: int) -> None:
    kept = keep(given, 1.0, seed)
    assert given.right[kept.solvable].any(axis=1).all()
    assert len(kept.solvable) == given.right.any(axis=1).sum()
    assert not given.right[kept.helped].any()
    assert given.cloud[kept.helped].all()
    asked = given.asked[kept.helped].sum(axis=1)
    assert ((asked > 0) & (asked < given.asked.shape[1])).all()
    assert len(set(kept.indices)) == len(kept.indices)


def test_only_mixed_groups_can_teach_to_ask() -> None:
    given = batch(["aaww", "wwww", "hhhh", "hhww", "hwww"], [False, False, True, True, False])
    kept = keep(given, 3.0, 0)
    assert list(kept.solvable) == [0]
    assert list(kept.helped) == [3]  # none asked; all asked; the cloud was wrong
    assert kept.counts == {"prompts": 5, "solvable": 1, "silent": 0, "candidates": 1, "helped": 1, "dropped": 3}


def test_without_a_prompt_the_device_solves_there_is_no_step() -> None:
    kept = keep(batch(["hw", "hw"], [True, True]), 5.0, 0)
    assert len(kept.indices) == 0 and kept.candidates == 2


def test_the_definitions_differ_on_all_right_groups_and_on_those_only_the_cloud_solves() -> None:
    given = batch(["aaaa", "aaww", "hhww"], [False, False, True])
    solved, mixed = keep(given, 1.0, 0), keep(given, 1.0, 0, Solvable.MIXED)
    assert list(solved.solvable) == [0, 1] and list(solved.helped) == [2] and solved.silent == 1
    assert list(mixed.solvable) == [1, 2] and list(mixed.helped) == [] and mixed.silent == 0


def test_a_seed_decides_which_prompts_are_kept() -> None:
    given = batch(["aw"] * 10 + ["hw"] * 40, [True] * 50)
    draws = [tuple(keep(given, 0.5, seed).helped) for seed in range(20)]
    assert draws[0] == tuple(keep(given, 0.5, 0).helped)
    assert len(set(draws)) > 10 and all(len(draw) == 5 for draw in draws)


@pytest.mark.parametrize(
    ("share", "solved", "helped"), [(0.3, 7, 3), (0.3, 14, 6), (0.5, 9, 9), (0.2, 7, 1), (0, 7, 0)]
)
def test_rounding_is_down_and_exact(share: float, solved: int, helped: int) -> None:
    given = batch(["aw"] * solved + ["hw"] * 20, [True] * (solved + 20))
    assert len(keep(given, ratio(share), 0).helped) == helped


def test_bad_batches_and_budgets_are_refused_by_name() -> None:
    yes, no = np.ones((2, 3), dtype=bool), np.zeros((2, 3), dtype=bool)
    with pytest.raises(ValueError, match="right must be false where asked"):
        Batch(yes, yes, yes[:, 0])
    with pytest.raises(ValueError, match=r"shapes \[\[2, 3\], \[2, 3\], \[3\]\]"):
        Batch(yes, no, no[0])
    for rho in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="rho"):
            keep(Batch(yes, no, yes[:, 0]), rho, 0)
    for share in (1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="share"):
            ratio(share)
