"""Drift: quiet while nothing changes, however long one looks, and found soon when something does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.drift import BINS, MIN_SCORES, DriftMonitor, Reference, Wealth

STREAMS, LENGTH, CALIBRATED = 200, 2_000, 1_000
BEFORE = (4.0, 2.0)  # scores at calibration are Beta(4, 2)


def monitor(seed: int, false_alarm: float, gap: float = 0.0) -> tuple[DriftMonitor, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return DriftMonitor(Reference.fit(rng.beta(*BEFORE, CALIBRATED), gap), false_alarm), rng


def score_alarm(seed: int, after: tuple[float, float], false_alarm: float, n: int) -> int:
    """Requests after a change, itself after 500 quiet ones, until the alarm; ``n`` if there was none."""
    watch, rng = monitor(seed, false_alarm)
    for score in rng.beta(*BEFORE, 500):
        watch.observe_score(score, rng.random())
    for count, score in enumerate(rng.beta(*after, n)):
        if watch.state.alarm:
            return count
        watch.observe_score(score, rng.random())
    return n


def label_alarm(seed: int, bias: float, false_alarm: float, n: int, gap: float = 0.0) -> int:
    """Audited drafts, correct ``bias`` less often than scored, until the alarm; ``n`` if there was none."""
    watch, rng = monitor(seed, false_alarm, gap)
    for count, score in enumerate(rng.beta(*BEFORE, n)):
        if watch.state.alarm:
            return count
        watch.observe_label(score, bool(rng.random() < score - bias))
    return n


def test_false_alarms_over_quiet_streams_are_no_more_frequent_than_stated() -> None:
    false_alarm, alarms = 0.1, 0
    for seed in range(STREAMS):
        watch, rng = monitor(seed, false_alarm)
        scores, draws = rng.beta(*BEFORE, LENGTH).tolist(), rng.random((3, LENGTH)).tolist()
        for score, uniform, audit, luck in zip(scores, *draws, strict=True):
            watch.observe_score(score, uniform)
            if audit < 0.3:
                watch.observe_label(score, luck < score)
        alarms += watch.state.alarm
    assert alarms <= STREAMS * false_alarm + 3 * math.sqrt(STREAMS * false_alarm * (1 - false_alarm))


def test_quiet_scores_that_fall_into_few_bins_raise_no_alarms_either() -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        watch = DriftMonitor(Reference.fit(rng.choice([0.2, 0.9], 200), 0.0), 0.1)
        for score in rng.choice([0.2, 0.9], LENGTH // 2):
            watch.observe_score(score, rng.random())
        alarms += watch.state.alarm
    assert alarms <= 40 * 0.1 + 3 * math.sqrt(40 * 0.1 * 0.9)


@pytest.mark.parametrize(
    ("after", "within"),
    [((3.0, 3.0), 150), ((5.0, 1.5), 250), ((8.0, 4.0), 350)],
    ids=["a worse model", "a better model", "the same mean, less spread"],
)
def test_a_shift_of_the_scores_is_found_within_the_stated_requests(after: tuple[float, float], within: int) -> None:
    delays = [score_alarm(seed, after, 0.01, within) for seed in range(40)]
    assert sum(delay < within for delay in delays) >= 38


@pytest.mark.parametrize("bias", [0.15, -0.15])
def test_labels_fifteen_points_off_their_scores_are_found_within_the_stated_audits(bias: float) -> None:
    delays = [label_alarm(seed, bias, 0.01, 700) for seed in range(40)]
    assert sum(delay < 700 for delay in delays) >= 38


def test_a_gap_that_was_there_at_calibration_raises_no_alarm() -> None:
    found = [label_alarm(seed, 0.05, 0.1, LENGTH, gap=0.05) < LENGTH for seed in range(40)]
    assert sum(found) <= 40 * 0.1 + 3 * math.sqrt(40 * 0.1 * 0.9)


def test_scores_too_sure_of_themselves_are_found_though_right_on_average() -> None:
    watch, rng = monitor(0, 0.01)
    for score in rng.choice([0.1, 0.9], LENGTH):
        watch.observe_label(score, bool(rng.random() < 0.5 + (score - 0.5) / 2))
    assert watch.state.alarm


def test_an_alarm_stays_and_says_what_was_seen() -> None:
    watch, rng = monitor(1, 0.01)
    for _ in range(400):
        watch.observe_score(0.2, rng.random())
    assert watch.state.alarm
    assert "scores drifted: recent scores average 0.2" in watch.state.reason and "alarm at 200" in watch.state.reason
    for score in rng.beta(*BEFORE, LENGTH):
        watch.observe_score(score, rng.random())
    assert watch.state.alarm


def test_drifted_labels_are_named_with_the_side_they_are_on() -> None:
    watch, _ = monitor(2, 0.01)
    for _ in range(200):
        watch.observe_label(0.8, False)
    assert watch.state.alarm and "calibration drifted: recent labels are -0.800" in watch.state.reason


def test_no_drift_is_said_with_how_much_was_seen() -> None:
    watch, rng = monitor(3, 0.01)
    watch.observe_score(0.5, rng.random())
    assert not watch.state.alarm and watch.state.reason == "no drift in 1 scores and 0 labels"


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=200), st.floats(0, 1))
def test_whatever_comes_evidence_is_a_finite_number(seen: list[tuple[float, float, bool]], gap: float) -> None:
    watch = DriftMonitor(Reference.fit(np.linspace(0, 1, MIN_SCORES), gap), 0.5)
    for score, uniform, correct in seen:
        watch.observe_score(score, uniform)
        watch.observe_label(score, correct)
    gauges = watch.gauges()
    assert gauges["drift_scores_evidence"] >= 1 and gauges["drift_labels_evidence"] >= 1
    assert all(math.isfinite(value) for value in gauges.values())


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=10))
def test_wealth_is_a_fair_game(gains: list[float]) -> None:
    """Whatever was won before, a coin that wins or loses the same leaves the mean wealth where it was."""
    ends = []
    for luck in (1, -1):
        wealth = Wealth(1)
        for gain in [*gains[:-1], luck * gains[-1]]:
            before = wealth.now
            wealth.step((gain,))
        ends.append(wealth.now)
    assert sum(ends) / 2 == pytest.approx(before)


def test_a_reference_wants_enough_scores_within_bounds() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_SCORES}"):
        Reference.fit([0.5] * (MIN_SCORES - 1), 0.0)
    with pytest.raises(ValueError, match="at least"):
        Reference.fit([], 0.0)
    with pytest.raises(ValueError, match=f"{BINS} numbers"):
        Reference((200,), 0.5, 0.0)
    for wrong in (math.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="scores"):
            Reference.fit([0.5] * MIN_SCORES + [wrong], 0.0)
        with pytest.raises(ValueError, match="gap"):
            Reference.fit([0.5] * MIN_SCORES, wrong)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1])
def test_numbers_out_of_range_are_refused_by_name(wrong: float) -> None:
    watch, _ = monitor(4, 0.01)
    with pytest.raises(ValueError, match="score"):
        watch.observe_score(wrong, 0.5)
    with pytest.raises(ValueError, match="uniform"):
        watch.observe_score(0.5, wrong)
    with pytest.raises(ValueError, match="score"):
        watch.observe_label(wrong, True)
    with pytest.raises(ValueError, match="false_alarm"):
        DriftMonitor(Reference.fit([0.5] * MIN_SCORES, 0.0), wrong)
    with pytest.raises(ValueError, match="false_alarm"):
        DriftMonitor(Reference.fit([0.5] * MIN_SCORES, 0.0), 0.0)
