"""When rounds run: for each reason, never too soon, ever more seldom while they bring nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.triggers import TriggerRules, Triggers

RULES = TriggerRules(labels=100, longest_s=3600.0, drift=True, pause_s=60.0, longest_pause_s=1000.0)
EVENTS = st.one_of(st.integers(0, 300), st.booleans())


def test_enough_labels_make_a_round_due_and_fewer_do_not() -> None:
    machine = Triggers(RULES, 0.0)
    assert machine.seen(99).due(False, 100.0) is None
    assert machine.seen(99).seen(1).due(False, 100.0) == "100 new labels"


def test_a_long_time_or_drift_makes_one_due_for_any_new_label() -> None:
    one = Triggers(RULES, 0.0).seen(1)
    assert one.due(False, 3599.0) is None
    assert one.due(False, 3600.0) == "1.0 hours since the last round, 1 new labels"
    assert one.due(True, 61.0) == "drift is suspected, 1 new labels"
    assert Triggers(TriggerRules(drift=False), 0.0).seen(1).due(True, 1e4) is None


def test_nothing_new_makes_nothing_due() -> None:
    assert Triggers(RULES, 0.0).due(True, 1e12) is None


def test_labels_that_come_during_a_round_count_for_the_next() -> None:
    machine = Triggers(RULES, 0.0).seen(150).begun().seen(20).done(True, 500.0)
    assert (machine.labels, machine.since_s, machine.failures) == (20, 500.0, 0)


def test_a_round_that_publishes_ends_the_back_off() -> None:
    machine = Triggers(RULES, 0.0)
    pauses = []
    for _ in range(6):
        machine = machine.seen(500).begun().done(False, 0.0)
        pauses.append(machine.pause_s)
    assert pauses == [120.0, 240.0, 480.0, 960.0, 1000.0, 1000.0]
    assert machine.done(True, 0.0).pause_s == 60.0


@given(st.integers(0, 10_000), st.floats(0, 1e9), st.floats(-1e9, 1e9), st.booleans())
def test_the_pause_is_bounded_and_always_kept(failures: int, waited_s: float, since_s: float, drift: bool) -> None:
    machine = Triggers(RULES, since_s, 10**6, failures)
    assert RULES.pause_s <= machine.pause_s <= RULES.longest_pause_s
    now_s = since_s + waited_s
    assert (machine.due(drift, now_s) is not None) == (now_s - since_s >= machine.pause_s)


@given(st.lists(EVENTS, max_size=60))
def test_labels_are_neither_lost_nor_counted_twice(events: list[int | bool]) -> None:
    machine, told, taken = Triggers(RULES, 0.0), 0, 0
    for event in events:
        if isinstance(event, bool):
            taken += machine.labels
            machine = machine.begun().done(event, 0.0)
        else:
            told += event
            machine = machine.seen(event)
    assert machine.labels + taken == told


@pytest.mark.parametrize(
    "rules", [{"labels": 0}, {"pause_s": 0.0}, {"pause_s": 2.0, "longest_pause_s": 1.0}, {"longest_s": float("nan")}]
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"needed|must be"):
        TriggerRules(**rules)  # type: ignore[arg-type]
