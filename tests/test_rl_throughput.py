"""What the comparison with trl works out of its measurements."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import rl_throughput
from benchmarks.rl_throughput import Mark, Pace, figures, pace, ratio

RATES = st.lists(st.tuples(st.floats(1.0, 1e4), st.floats(1.0, 1e4)), min_size=2, max_size=12)


def test_the_first_step_is_not_counted() -> None:
    marks = [Mark(100.0, 50.0, 999, 999), Mark(102.0, 51.0, 40, 10), Mark(105.0, 53.0, 60, 30)]
    found = pace(marks, answers=8)
    assert found == Pace(wall_s=5.0, cpu_s=3.0, generated=100, trained=40, answers=16)
    assert found.tokens_per_s == pytest.approx(28.0) and found.tokens_per_cpu_s == pytest.approx(140 / 3)
    assert found.answers_per_s == pytest.approx(3.2)


@settings(deadline=None)  # the first example loads scipy
@given(RATES)
def test_the_ratio_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    won, low, high = ratio(ours, theirs)
    lost, least, most = ratio(theirs, ours)
    assert low <= won * (1 + 1e-9) and won <= high * (1 + 1e-9)
    assert won * lost == pytest.approx(1.0) and math.log(low) + math.log(most) == pytest.approx(0.0, abs=1e-6)
    assert math.log(high) + math.log(least) == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None)  # the first example loads scipy
@given(RATES, st.floats(0.5, 20.0))
def test_a_machine_that_slows_both_sides_alike_changes_no_ratio(pairs: list[tuple[float, float]], slow: float) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    assert ratio([slow * a for a in ours], [slow * b for b in theirs]) == pytest.approx(ratio(ours, theirs))


@pytest.mark.parametrize(("wall_s", "met"), [(5.0, True), (11.0, False)])
def test_the_target_is_twice_the_tokens_of_trl_by_the_clock(wall_s: float, met: bool) -> None:
    ours, theirs = Pace(wall_s, 1.0, 100, 50, 10), Pace(20.0, 1.0, 100, 50, 10)
    promised = [figure for figure in figures(2, [ours, ours], [theirs, theirs]) if figure.target]
    assert [(figure.name, figure.met) for figure in promised] == [("2 threads: ours / trl", met)]


def test_without_trl_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rl_throughput", "--quick"])
    monkeypatch.setattr(rl_throughput, "find_spec", lambda name: None if name == "trl" else find_spec(name))
    with pytest.raises(SystemExit, match="pip install trl"):
        rl_throughput.main()
