"""The candidate's scorer when the cloud, whose word the labels are, is sometimes wrong itself."""

from __future__ import annotations

import random
from statistics import mean

import pytest
from edge_fakes import MOVE, NORTH, SOUTH, ask

from actors.log_record import OffloadRecord
from actors.scorer import Scorer
from actors.training import Draft
from orchestrator.lessons import Case, labelled_case
from orchestrator.verdict import Answered, scorer
from policies.calibration import Calibrator

SURE, UNSURE = (-0.001,) * 8, (-0.5,) * 8
ACCURACY = 0.9


def row(right: bool, logprobs: tuple[float, ...], cloud_right: bool, number: int) -> Answered:
    """A draft NORTH; the truth is NORTH if it is right, and the cloud says something else where it is wrong."""
    record = OffloadRecord(time_us=1, request_id=str(number), request_hash="h", messages="[]", propensity=1.0)
    request = ask(messages=[{"role": "user", "content": str(number)}], tools=[MOVE])
    case = labelled_case(Case(record, request, None), NORTH if right == cloud_right else SOUTH)
    assert case is not None
    draft = Draft(NORTH, logprobs)
    return Answered(case, draft, draft, 0.9)


def rows(count: int, seed: int) -> list[Answered]:
    """Half of the drafts are sure and 98 % right, half unsure and 20 % right; a wrong draft never agrees."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        sure = number % 2 == 0
        right = draw.random() < (0.98 if sure else 0.2)
        made.append(row(right, SURE if sure else UNSURE, draw.random() < ACCURACY or not right, number))
    return made


def sure_score(cloud_accuracy: float, seed: int) -> float:
    return scorer(rows(300, seed), Scorer(Calibrator.guess()), cloud_accuracy).judge("1", 1, SURE, True)


def test_a_cloud_that_errs_does_not_make_sure_drafts_look_worse() -> None:
    told = [sure_score(ACCURACY, seed) for seed in range(4)]
    taken_at_its_word = [sure_score(1.0, seed) for seed in range(4)]
    assert mean(told) == pytest.approx(0.98, abs=0.03)
    assert mean(taken_at_its_word) < mean(told) - 0.03


def test_without_rows_the_parent_s_scorer_stays() -> None:
    parent = Scorer(Calibrator.guess())
    assert scorer([], parent, ACCURACY) is parent
