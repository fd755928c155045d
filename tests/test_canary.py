"""The canary's rule, by simulation: how often it wrongs good weights, how soon it sees bad ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.canary import LEAST_LABELS, CanaryRules, Comparison, Outcomes, Watch

Rates = tuple[float, float]  # P(wrong) of drafts that are kept, and of those that are not
OLD: Rates = (0.03, 0.5)  # 17 % wrong over all
STEP = 100
NONE = np.zeros(0)
HOUR_S = 3600.0


def draw(rng: np.random.Generator, count: int, rates: Rates, invalid: float = 0.005, audit: float = 0.1) -> Outcomes:
    """Requests as a site logs them: 70 % of the drafts are kept, of which ``audit`` are labelled, and all others.

    Scores promise what weights with ``OLD`` rates keep.
    """
    kept = rng.random(count) < 0.7
    propensity = np.where(kept, audit, 1.0)
    labelled = rng.random(count) < propensity
    wrong = labelled & (rng.random(count) < np.where(kept, *rates))
    audits = (wrong[kept & labelled].astype(np.float64) + 1.0 - OLD[0]) / 2.0
    broken = (rng.random(count) < invalid).astype(np.float64)
    return Outcomes(np.where(wrong, 1.0 / propensity, 0.0), broken, audits, int(labelled.sum()), 1.0 / audit)


def rolled_back(seed: int, new: Rates, rules: CanaryRules, count: int = 4000, invalid: float = 0.005) -> int | None:
    """Requests until the roll-back, looked for after every hundred; None if there is none."""
    rng = np.random.default_rng(seed)
    watch = Watch(draw(rng, 4000, OLD), rules)
    for done in range(STEP, count + 1, STEP):
        watch.add(draw(rng, STEP, new, invalid))
        if watch.verdict(0.0).action == "roll back":
            return done
    return None


def share(new: Rates, rules: CanaryRules, runs: int, **more: float) -> float:
    return sum(rolled_back(seed, new, rules, **more) is not None for seed in range(runs)) / runs  # type: ignore[arg-type]


def test_weights_as_good_as_the_old_are_hardly_ever_rolled_back() -> None:
    assert share(OLD, CanaryRules(margin=0.0, delta=0.2), runs=40) <= 0.2


def test_weights_worse_by_the_margin_are_rolled_back_no_more_often_than_promised() -> None:
    assert share((0.05, 0.52), CanaryRules(margin=0.02, delta=0.2), runs=40) <= 0.2


def test_a_loss_of_ten_points_of_success_is_mostly_seen_within_a_few_thousand_requests() -> None:
    assert share((0.10, 0.67), CanaryRules(), runs=20, count=6000) >= 0.6


def test_a_loss_of_twenty_points_is_always_seen() -> None:
    assert share((0.17, 0.83), CanaryRules(), runs=15) == 1.0


def test_a_loss_of_ten_points_of_validity_is_seen_within_hundreds_of_requests() -> None:
    assert all((rolled_back(seed, OLD, CanaryRules(), 1000, invalid=0.105) or 9999) <= 600 for seed in range(15))


def test_better_weights_are_promoted_after_the_stated_labels() -> None:
    rng = np.random.default_rng(0)
    watch, rules = Watch(draw(rng, 2000, OLD), CanaryRules()), CanaryRules()
    while watch.verdict(0.0).action == "wait":
        watch.add(draw(rng, 20, (0.02, 0.3)))
    assert watch.verdict(0.0).action == "promote" and rules.labels <= watch.labels < rules.labels + 40
    assert "not worse" in watch.verdict(0.0).reason


def test_weights_that_look_worse_wait_for_their_time_and_are_then_promoted_unless_proved_worse() -> None:
    rng = np.random.default_rng(1)
    watch = Watch(draw(rng, 4000, OLD), CanaryRules(delta=1e-9))
    watch.add(draw(rng, 1500, (0.12, 0.7)))
    assert watch.verdict(23.9 * HOUR_S).action == "wait"
    assert watch.verdict(24.0 * HOUR_S).action == "promote"


def test_time_alone_promotes_nothing_without_labels() -> None:
    watch = Watch(draw(np.random.default_rng(2), 500, OLD), CanaryRules())
    assert watch.verdict(1e9).action == "wait"
    watch.add(Outcomes(np.zeros(500), np.zeros(500), NONE, LEAST_LABELS - 1, 10.0))
    assert watch.verdict(1e9).action == "wait"


def test_without_anything_to_compare_with_nothing_is_ever_proved() -> None:
    watch = Watch(Outcomes(NONE, NONE, NONE, 0), CanaryRules())
    watch.add(Outcomes(np.ones(3000), np.ones(3000), np.ones(3000), 3000))
    assert watch.evidence < 1.0
    assert "nothing to compare with" in watch.verdict(0.0).reason


def test_an_alarm_stays_whatever_comes_later() -> None:
    rng = np.random.default_rng(3)
    watch = Watch(draw(rng, 4000, OLD), CanaryRules())
    watch.add(draw(rng, 2000, (0.5, 1.0)))
    assert watch.verdict(0.0).action == "roll back"
    watch.add(draw(rng, 20_000, (0.0, 0.0)))
    assert watch.verdict(0.0).action == "roll back"


def test_weights_that_are_surer_than_they_are_right_are_seen_by_their_audits_alone() -> None:
    rng = np.random.default_rng(5)

    def audits(count: int, wrong: float) -> Outcomes:
        told = ((rng.random(count) < wrong).astype(np.float64) + 0.97) / 2.0
        return Outcomes(np.zeros(count), np.zeros(count), told, count)

    same, surer = (Watch(audits(1000, 0.03), CanaryRules()) for _ in range(2))
    same.add(audits(1000, 0.05))
    surer.add(audits(1000, 0.20))
    assert same.evidence < 1.0 <= surer.evidence
    assert "1000 audits +1" in surer.summary


def test_weights_that_try_what_others_gave_up_do_not_look_worse() -> None:
    rng = np.random.default_rng(6)
    easy, hard = (rng.random(3000) < 0.1).astype(np.float64), (rng.random(1500) < 0.6).astype(np.float64)
    old = Outcomes(np.concatenate([easy, np.ones(1500)]), np.zeros(4500), NONE, 3000)
    watch = Watch(old, CanaryRules())
    watch.add(Outcomes(rng.permutation(np.concatenate([easy, hard])), np.zeros(4500), NONE, 4500))
    assert watch.verdict(0.0).action == "promote"


def test_evidence_does_not_depend_on_how_the_log_was_read() -> None:
    rng = np.random.default_rng(7)
    old, losses = (rng.random(500) < 0.2).astype(np.float64), (rng.random(333) < 0.3).astype(np.float64)
    once, often = Comparison(old, 1.0, 0.0), Comparison(old, 1.0, 0.0)
    once.add(losses)
    for at in range(0, 333, 7):
        often.add(losses[at : at + 7])
    assert once.log_evidence == pytest.approx(often.log_evidence) != 0.0


def test_more_sites_need_more_evidence_each() -> None:
    rng = np.random.default_rng(4)
    old, new = draw(rng, 4000, OLD), draw(rng, 1000, (0.3, 0.8))
    few, many = (Watch(old, CanaryRules(), sites) for sites in (1, 100))
    few.add(new)
    many.add(new)
    assert 0 < many.evidence < few.evidence


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 20.0]), max_size=200), st.lists(st.sampled_from([0.0, 1.0]), max_size=200)
)
def test_evidence_is_always_a_number(old: list[float], new: list[float]) -> None:
    test = Comparison(np.array(old), 20.0, 0.02)
    test.add(np.array(new))
    assert math.isfinite(test.log_evidence)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_each_side_of_the_test_is_a_fair_game_at_its_true_mean(seed: int) -> None:
    """The mean of the wealth over all outcomes of one more request never exceeds what was held before."""
    rng = np.random.default_rng(seed)
    past, mean = (rng.random(50) < 0.2).astype(np.float64), 0.2
    held = []
    for outcome in (np.zeros(0), np.array([1.0]), np.array([0.0])):
        test = Comparison(np.zeros(0), 1.0, 0.0)
        test.add(past)
        test.add(outcome)
        held.append(np.exp(test._new.log_wealth[39]))  # the cell that ends at 0.2
    before, lost, won = held
    assert mean * lost + (1 - mean) * won <= before * (1 + 1e-9)


@pytest.mark.parametrize("rules", [{"labels": 0}, {"delta": 0.0}, {"delta": 1.0}, {"margin": -0.1}, {"longest_s": 0.0}])
def test_rules_that_make_no_sense_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        CanaryRules(**rules)  # type: ignore[arg-type]
