"""What the routing benchmark works out by arrays is what the node does token by token."""

from __future__ import annotations

import numpy as np

from actors.scorer import JudgedDraft, Scorer
from benchmarks.both_answers import Both
from benchmarks.routing.drafts import MAX_TOKENS, TOKEN_S, Drafts
from policies.decide import Patience, worth_making
from policies.types import Objective

OBJECTIVE = Objective(0.0003, 0.0008, 0.96)


def rows(n: int, seed: int) -> list[Both]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        hard = bool(rng.random() < 0.5)
        right = bool(rng.random() < (0.15 if hard else 0.95))
        sure = -rng.exponential(0.05 if right else 1.0, int(rng.integers(1, 20)))
        words = f"weigh option {i} against peers" if hard else f"set the alarm to {i}"
        found.append(Both(words, "k", 1, 3, 900, 300, "", tuple(sure.tolist()), True, right, True, 30, 120))
    return found


def test_a_draft_is_begun_and_given_up_where_the_node_would() -> None:
    known = [JudgedDraft(r.question, r.offered, r.logprobs, True, float(r.edge_right)) for r in rows(600, 0)]
    scorer, fresh = Scorer.fit(known), rows(200, 1)
    drafts, taus = Drafts.of(fresh, scorer), np.random.default_rng(2).random(200)
    begun = drafts.begun(taus, OBJECTIVE.value_usd, OBJECTIVE.second_usd)
    made = drafts.made(taus, begun)
    assert 20 < begun.sum() < 180 and (made[begun] < drafts.length[begun]).any()
    assert scorer.forecast is not None and scorer.forecast.spread is not None
    for row, tau, on, tokens in zip(fresh, taus, begun, made, strict=True):
        expected = scorer.expected(row.question, row.offered)
        assert expected is not None
        gain = scorer.forecast.spread.gain(expected, tau)
        assert on == worth_making(gain, TOKEN_S * drafts.length.mean(), OBJECTIVE)
        watch = Patience(scorer.bound.given(expected), tau, MAX_TOKENS)
        followed = next((n for n, logprob in enumerate(row.logprobs, 1) if watch(logprob)), len(row.logprobs))
        assert tokens == (followed if on else 0)
