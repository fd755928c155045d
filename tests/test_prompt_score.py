"""The prompt-only predictor: hashed as promised, honest about what it does not know, exact through JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import auroc, ece
from policies.preference import packed
from policies.prompt_score import BITS, LONGEST, PromptScore, buckets, ridge_logistic

EASY, HARD = ("show", "list", "print"), ("unless", "except", "whichever")
FILLER = [
    "the",
    "cell",
    "of",
    "slice",
    "north",
    "south",
    "users",
    "link",
    "please",
    "now",
    "and",
    "then",
    "for",
    "with",
]


def prompts(n: int, seed: int) -> tuple[list[str], list[int], np.ndarray]:
    """Requests that mostly go wrong where a hard word stands in them."""
    rng = np.random.default_rng(seed)
    texts, right = [], []
    for _ in range(n):
        hard = rng.random() < 0.5
        words = [*rng.choice(FILLER, rng.integers(3, 12)), rng.choice(HARD if hard else EASY), str(rng.integers(999))]
        texts.append(" ".join(rng.permutation(words)))
        right.append(rng.random() < (0.2 if hard else 0.9))
    return texts, rng.integers(1, 9, n).tolist(), np.array(right)


@pytest.fixture(scope="module")
def fitted() -> PromptScore:
    return PromptScore.fit(*prompts(1000, seed=1))


def test_new_prompts_are_told_apart_and_scored_as_often_right_as_it_says(fitted: PromptScore) -> None:
    texts, tools, right = prompts(1500, seed=2)
    scores = np.array([fitted.predict(text, count) for text, count in zip(texts, tools, strict=True)])
    assert auroc(scores, right) > 0.8
    assert ece(scores, right) < 0.09


def test_labels_without_a_pattern_give_scores_that_stay_near_the_base_rate() -> None:
    texts, tools, _ = prompts(600, seed=3)
    coins = np.random.default_rng(4).random(600) < 0.7
    blind = PromptScore.fit(texts, tools, coins)
    scores = [blind.predict(text, count) for text, count in zip(*prompts(300, seed=5)[:2], strict=True)]
    assert np.std(scores) < 0.08 and np.mean(scores) == pytest.approx(0.7, abs=0.06)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_has_buckets_in_range_that_repeat_exactly(text: str) -> None:
    found = buckets(text)
    assert ((found >= 0) & (found < 1 << BITS)).all()
    assert found.tolist() == buckets(text).tolist()


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=100))
def test_case_and_digits_do_not_matter(text: str) -> None:
    other = "".join(str((int(c) + 3) % 10) if c.isdigit() else c.swapcase() for c in text)
    assert buckets(text).tolist() == buckets(other).tolist()


@settings(deadline=None)
@given(st.lists(st.sampled_from(FILLER), min_size=1, max_size=8), st.lists(st.sampled_from(FILLER), max_size=8))
def test_a_word_falls_into_the_same_bucket_wherever_it_stands(before: list[str], after: list[str]) -> None:
    alone = buckets("provision")[0]
    assert alone in buckets(" ".join([*before, "provision", *after]))


def test_different_words_hardly_ever_share_a_bucket() -> None:
    rng = np.random.default_rng(6)
    words = {"".join(rng.choice(list("abcdefghijklmnop"), 9)) for _ in range(2000)}
    used = {int(buckets(word)[0]) for word in words}
    expected = (1 << BITS) * (1 - (1 - 2.0**-BITS) ** len(words))  # of a perfect hash
    assert len(used) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("text", ["", " ", "a", "\ud800", "é" * 3, "\0", "x" * (LONGEST + 50)])
def test_odd_prompts_are_scored(fitted: PromptScore, text: str) -> None:
    assert 0.0 < fitted.predict(text, 0) < 1.0


def test_of_a_long_prompt_its_end_counts(fitted: PromptScore) -> None:
    long = "please " * LONGEST
    assert fitted.predict(long + "unless whichever except " * 300, 3) < fitted.predict(
        long + "show list print " * 300, 3
    )


def test_json_gives_the_same_scores_back(fitted: PromptScore) -> None:
    again = PromptScore.from_json(fitted.to_json())
    for text, count in zip(*prompts(50, seed=7)[:2], strict=True):
        assert again.predict(text, count) == pytest.approx(fitted.predict(text, count), abs=1e-5)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{", '{"hashing": "1", "table": 3, "dense": [1, 2], "map": "{}"}']
)
def test_what_is_not_a_prompt_score_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt score"):
        PromptScore.from_json(text)


def test_a_file_of_another_hashing_is_refused_by_its_name(fitted: PromptScore) -> None:
    data = {**json.loads(fitted.to_json()), "hashing": "0: letters"}
    with pytest.raises(ValueError, match="0: letters"):
        PromptScore.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dense": [1e308, 0.0]}, r"dense\[0\] must be a number of at most"),
        ({"dense": [0.0, math.inf]}, r"dense\[1\] must be a number"),
        ({"map": '{"map": "platt", "intercept": 0, "slope": 1e308, "samples": 3}'}, "slope must be a number"),
        ({"map": '{"map": "platt", "intercept": 0, "slope": 1, "samples": Infinity}'}, "samples must be a whole"),
        ({"table": packed(np.full(1 << BITS, 1e35))}, "weights must be numbers of at most"),
        ({"table": {**packed(np.zeros(1 << BITS)), "shape": [10**400]}}, "not a prompt score"),
    ],
)
def test_a_number_that_cannot_be_computed_with_is_refused_by_name(
    fitted: PromptScore, change: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        PromptScore.from_json(json.dumps({**json.loads(fitted.to_json()), **change}))


@pytest.mark.parametrize("outcome", [True, False])
def test_one_outcome_only_gives_a_constant_that_is_not_certain(outcome: bool) -> None:
    constant = PromptScore.fit(["a b", "c d", "e"], [1, 2, 3], np.full(3, outcome))
    scores = {round(constant.predict(text, 2), 6) for text in ("a b", "unseen words", "")}
    assert len(scores) == 1 and 0.1 < scores.pop() < 0.9


def test_one_prompt_is_enough_to_fit() -> None:
    assert PromptScore.fit(["hello"], [0], np.array([True])).predict("hello", 0) > 0.5


def test_a_heavier_prompt_counts_more() -> None:
    texts, tools, right = prompts(300, seed=8)
    base, wrong_heavy = (PromptScore.fit(texts, tools, right, weights) for weights in (None, np.where(right, 1.0, 6.0)))
    assert np.mean([wrong_heavy.predict(t, 3) for t in texts]) < np.mean([base.predict(t, 3) for t in texts]) - 0.2


@pytest.mark.parametrize(
    ("tools", "right", "weights", "named"),
    [
        ([1], [True, False], None, "tools"),
        ([1, -1], [True, False], None, "tools"),
        ([1, 1], [0.5, math.nan], None, "labels"),
        ([1, 1], [2.0, 0.0], None, "labels"),
        ([1, 1], [True, False], [1.0, -1.0], "weights"),
        ([1, 1], [True, False], [0.0, 0.0], "weights"),
    ],
)
def test_bad_rows_are_refused_by_name(
    tools: list[int], right: list[float], weights: list[float] | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        PromptScore.fit(["a", "b"], tools, np.array(right), None if weights is None else np.array(weights))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.1, 10.0))
def test_the_ridge_fit_is_where_the_slope_vanishes(seed: int, ridge: float) -> None:
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(30, 4)), rng.random(30), rng.random(30) + 0.1
    theta = ridge_logistic(csr_array(x), y, w, ridge)
    error = w * (1 / (1 + np.exp(-(theta[0] + x @ theta[1:]))) - y)
    assert error.sum() == pytest.approx(0.0, abs=1e-3)
    assert x.T @ error + ridge * theta[1:] == pytest.approx(np.zeros(4), abs=1e-3)
