"""A version's scorer: what its prompt adds to a draft's own confidence, and how it follows new weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.scorer import FRESH, JudgedDraft, Scorer
from policies.calibration import auroc

EASY, HARD = "set the alarm to {} please", "weigh option {} against peers"


def drafts(n: int, seed: int = 0, hard_right: float = 0.1) -> list[JudgedDraft]:
    """Half easy prompts, half hard ones; drafts are equally sure of themselves, and surer where they are right."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        words, rate = (EASY, 0.95) if i % 2 else (HARD, hard_right)
        right = rng.random() < rate
        sure = -rng.exponential(0.15 if right else 0.22, 8)
        found.append(JudgedDraft(words.format(i), 3, sure.tolist(), True, float(right)))
    return found


def scores(scorer: Scorer, rows: list[JudgedDraft]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([scorer.score(d.logprobs, d.valid, scorer.expected(d.question, d.tools)) for d in rows])


def right(rows: list[JudgedDraft]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([row.right > 0.5 for row in rows])


OLD = Scorer.fit(drafts(600))


def test_the_prompt_tells_apart_drafts_that_are_equally_sure_of_themselves() -> None:
    fresh = drafts(400, seed=1)
    blind = Scorer.fit(drafts(600)[: FRESH - 1])
    assert blind.forecast is None
    assert auroc(scores(OLD, fresh), right(fresh)) > auroc(scores(blind, fresh), right(fresh)) + 0.03


def test_new_weights_that_learnt_the_hard_prompts_are_believed_after_few_drafts() -> None:
    fresh = [d for d in drafts(400, seed=2, hard_right=0.95) if d.question.startswith("weigh") and d.right]
    before = scores(OLD, fresh).mean()
    moved = Scorer.fit(drafts(80, seed=3, hard_right=0.95), OLD)
    assert before < 0.6 and scores(moved, fresh).mean() > 0.85


def test_new_weights_that_are_as_before_keep_their_scorer() -> None:
    fresh = drafts(300, seed=4)
    moved = Scorer.fit(drafts(80, seed=5), OLD)
    assert np.abs(scores(moved, fresh) - scores(OLD, fresh)).mean() < 0.05


def test_a_draft_that_became_worth_making_is_forecast_so() -> None:
    moved = Scorer.fit(drafts(80, seed=3, hard_right=0.95), OLD)
    gains = []
    for scorer in (OLD, moved):
        assert scorer.forecast is not None and scorer.forecast.spread is not None
        gains.append(scorer.forecast.spread.gain(scorer.expected(HARD.format(7), 3) or 0.0, 0.5))
    assert gains[0] < 0.1 < gains[1]


def test_drafts_that_are_all_invalid_change_nothing() -> None:
    assert Scorer.fit([JudgedDraft("move", 1, (-0.1,), False, 0.0)] * 80, OLD) is OLD


def test_a_saved_scorer_scores_the_same_again(tmp_path: Path) -> None:
    OLD.save(tmp_path)
    rows = drafts(20, seed=6)
    assert scores(Scorer.load(tmp_path), rows) == pytest.approx(scores(OLD, rows), abs=1e-3)


def test_an_invalid_or_silent_draft_scores_exactly_nought() -> None:
    assert OLD.score((-0.1,), False, 0.9) == OLD.score((), True, 0.9) == OLD.score((float("nan"),), True, 0.9) == 0.0
