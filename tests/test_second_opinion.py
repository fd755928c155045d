"""The round asks the cloud where parent and candidate disagree: what it asks, what it makes of it, and what fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from edge_fakes import MOVE, NORTH, SOUTH, WEST, FakeEngine, ask

from actors.chat import ChatRequest
from actors.log_record import OffloadRecord
from actors.training import Draft
from orchestrator.lessons import Case, labelled_case
from orchestrator.second_opinion import asking, second_opinions
from orchestrator.verdict import Answered, trial
from policies.errors import Unreachable
from policies.gate import gains

SURE = (-0.01,)


def row(base: str, candidate: str, cloud: str | None = None, propensity: float = 0.1) -> Answered:
    request = ask(messages=[{"role": "user", "content": f"{base} {candidate}"}], tools=[MOVE])
    record = OffloadRecord(time_us=1, request_id="r", request_hash="h", messages="[]", propensity=propensity)
    case: Case | None = Case(record, request, None)
    if cloud is not None:
        case = labelled_case(Case(record, request, None), cloud)
    assert case is not None
    return Answered(case, Draft(base, SURE), Draft(candidate, SURE), 0.9)


def says(text: str | None) -> Callable[[Sequence[ChatRequest]], list[str | None]]:
    return lambda requests: [text] * len(requests)


def test_only_unlabelled_disagreements_are_asked() -> None:
    rows = [row(NORTH, NORTH), row(NORTH, SOUTH), row(NORTH, SOUTH, cloud=NORTH)]
    seen: list[ChatRequest] = []

    def cloud(requests: Sequence[ChatRequest]) -> list[str | None]:
        seen.extend(requests)
        return [SOUTH] * len(requests)

    told, calls = second_opinions(rows, cloud, 10, 0)
    assert calls == len(seen) == 1
    assert seen[0] is rows[1].case.request
    assert told[0] is rows[0]
    assert told[1].right == 1.0
    assert told[1].case.record.propensity == told[2].case.record.propensity == 1.0


def test_no_disagreement_asks_nothing() -> None:
    def never(_: Sequence[ChatRequest]) -> list[str | None]:
        raise AssertionError

    rows = [row(NORTH, NORTH)]
    assert second_opinions(rows, never, 10, 0) == (rows, 0)


@pytest.mark.parametrize("answer", [None, "no call", WEST])
def test_a_failed_or_invalid_answer_leaves_the_row_as_the_log_had_it(answer: str | None) -> None:
    request = {"tools": [MOVE], "tool_choice": "required"}
    case = replace(row(NORTH, SOUTH).case, request=ask(**request))
    rows = [replace(row(NORTH, SOUTH), case=case)]
    told, calls = second_opinions(rows, says(answer), 10, 0)
    assert calls == 1
    assert told[0].case.cloud is None
    assert told[0].case.record.propensity == pytest.approx(0.1)


def test_the_estimate_stays_unbiased_when_only_some_are_asked() -> None:
    """100 disagreements of which the candidate wins 70, each labelled by an audit with probability .1, 20 asked."""
    estimates = []
    for seed in range(300):
        draw = random.Random(seed)
        rows = [row(NORTH, SOUTH, (SOUTH if n < 70 else NORTH) if draw.random() < 0.1 else None) for n in range(100)]
        truth = {id(one.case.request): SOUTH if n < 70 else NORTH for n, one in enumerate(rows)}
        cloud = lambda asked, truth=truth: [truth[id(one)] for one in asked]  # noqa: E731
        told, _ = second_opinions(rows, cloud, 20, seed)
        estimates.append(gains(trial(told, 0.0), 20.0).mean())
    assert np.mean(estimates) == pytest.approx(0.4, abs=4 * np.std(estimates) / 300**0.5)


def test_asking_closes_its_engine_and_a_failure_is_no_answer() -> None:
    engine = FakeEngine(lambda prompt: Unreachable("gone") if "2" in prompt.messages[0]["content"] else SOUTH)
    requests = [ask(messages=[{"role": "user", "content": str(n)}]) for n in range(1, 4)]
    assert asking(lambda: engine)(requests) == [SOUTH, None, SOUTH]
    assert engine.closed
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
