"""What the soak benchmark makes of what it saw: which requests a kill excuses, and which answers are missing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.soak.faults import SITE, Fault
from benchmarks.soak.load import CUT, UNCONNECTED, Outcome
from benchmarks.soak.report import Soak, details, figures

KILL = Fault(SITE, 100.0, 110.0)
MEMORY = [(float(at), {"ray::EdgeSite": 900.0, "raylet": 50.0 + at / 10}) for at in range(0, 600, 2)]


def answer(at_s: float, name: str, status: int = 200) -> Outcome:
    return Outcome(at_s - 0.1, at_s, status, name, "edge" if status == 200 else "")


def found(
    outcomes: Sequence[Outcome], logged: Sequence[str], shed: float = 0.0
) -> dict[str, tuple[float, bool | None]]:
    soak = Soak(50.0, 40.0, 0.0, 600.0, outcomes, [KILL], logged, shed, MEMORY)
    assert details(soak)["faults"] == {SITE: 1}
    return {figure.name: (figure.value, figure.met) for figure in figures(soak)}


def test_only_the_kill_of_the_site_excuses_a_lost_connection() -> None:
    lost = [answer(100.05, "", CUT), answer(105.0, "", UNCONNECTED), answer(300.0, "", CUT)]
    figure = found([answer(1.0, "a"), *lost, answer(2.0, "", 503), answer(3.0, "", 500)], ["a"])
    assert figure["connection closed by the kill of the site"][0] == 1
    assert figure["not connected while the site restarted"][0] == 1
    assert figure["connections lost at any other time"] == (1, False)
    assert figure["refused with 429, 503 or 504"][0] == 1
    assert figure["answered with any other status"] == (1, False)


def test_an_answer_is_in_the_log_once_unless_its_site_was_killed_at_that_moment_or_its_record_was_shed() -> None:
    answers = [answer(1.0, "a"), answer(99.9, "b"), answer(200.0, "c")]
    whole = found(answers, ["a", "c"])
    assert whole["answered just before a kill of the site, record not on disk yet"][0] == 1
    assert whole["other answers not in the log"] == (0, True)
    assert whole["answers twice in the log"] == (0, True)
    assert found(answers, ["a", "a"])["other answers not in the log"] == (1, False)
    assert found(answers, ["a", "a"], shed=1.0)["other answers not in the log"] == (1, True)
    assert found(answers, ["a", "a", "c"])["answers twice in the log"] == (1, False)


def test_memory_is_compared_between_an_early_and_the_last_minute() -> None:
    figure = found([answer(1.0, "a")], ["a"])
    assert figure["growth of the role that grew most"][0] == pytest.approx(41.9)
    ratio, met = figure["the same at 90-100 %, relative"]
    assert met and 1.04 < ratio < 1.05
