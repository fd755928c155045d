"""The reward model: exact gradients, served as trained, and trained on the comparisons it should be."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calibration import auroc
from policies.preference import (
    CENTRING,
    PRIOR,
    Head,
    Judged,
    broken,
    fit_head,
    pool,
    preference_loss,
    preference_pairs,
)
from policies.score import FloatArray
from policies.toolcalls import check, parse, render, same_answer
from policies.types import ToolCall

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "move_slice",
            "parameters": {
                "type": "object",
                "properties": {
                    "slice": {"type": "string"},
                    "count": {"type": "integer"},
                    "cells": {"type": "array", "items": {"type": "string"}},
                    "now": {"type": "boolean"},
                },
                "required": ["slice", "count"],
                "additionalProperties": False,
            },
        },
    }
]


def text(slice_id: str, count: int = 1) -> str:
    return render([ToolCall("move_slice", {"slice": slice_id, "count": count})])


def judged(right: int, wrong: int) -> list[Judged]:
    same = [Judged(text(f"s{i}"), text(f"s{i}"), TOOLS) for i in range(right)]
    return same + [Judged(text("other"), text(f"w{i}"), TOOLS) for i in range(wrong)]


def examples(n: int, seed: int, d: int = 6) -> tuple[FloatArray, np.ndarray, np.ndarray, FloatArray]:
    """Answers whose first feature is their quality, and pairs of them by noisy quality."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    left, right = rng.integers(0, n, (2, 4 * n))
    won = x[left, 0] - x[right, 0] + rng.logistic(size=4 * n) * 0.3 > 0
    return x, np.where(won, left, right), np.where(won, right, left), np.ones(4 * n)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_the_gradient_of_the_loss_is_the_finite_difference(seed: int, centring: float) -> None:
    rng = np.random.default_rng(seed)
    better, worse, weights = rng.normal(0, 2, 5), rng.normal(0, 2, 5), rng.random(5) + 0.1
    point = torch.tensor(np.concatenate([better, worse]), requires_grad=True)
    count = torch.tensor(weights)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return preference_loss(at[:5], at[5:], count, centring)

    (slope,) = torch.autograd.grad(loss(point), point)
    step = 1e-5
    for i in range(10):
        nudge = torch.zeros(10, dtype=torch.float64)
        nudge[i] = step
        difference = (loss(point + nudge) - loss(point - nudge)).item() / (2 * step)
        assert slope[i].item() == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("margin", [-800.0, 0.0, 800.0])
def test_the_loss_is_what_its_formula_says_and_finite_at_any_margin(margin: float) -> None:
    half = torch.tensor([margin / 2], dtype=torch.float64)
    value = preference_loss(half, -half, torch.ones(1, dtype=torch.float64), 0.0).item()
    assert value == pytest.approx(math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0))


@pytest.mark.parametrize("hidden", [0, 5])
def test_the_served_head_is_at_the_minimum_of_what_was_trained(hidden: int) -> None:
    x, better, worse, weights = examples(60, seed=1)
    head = fit_head(x, better, worse, weights, hidden)

    def objective(some: Head) -> float:
        r = some.reward(x)
        margin = r[better] - r[worse]
        data = np.mean(np.logaddexp(0.0, -margin) + CENTRING / 2 * (r[better] ** 2 + r[worse] ** 2))
        return float(data + PRIOR / (2 * len(x)) * sum((matrix**2).sum() for matrix, _ in some.layers))

    least = objective(head)
    for layer, (matrix, bias) in enumerate(head.layers):
        for place in np.ndindex(*matrix.shape):
            for nudge in (1e-3, -1e-3):
                moved = matrix.copy()
                moved[place] += nudge
                layers = (*head.layers[:layer], (moved, bias), *head.layers[layer + 1 :])
                assert objective(Head(head.center, head.scale, layers)) >= least - 1e-8


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_trained_head_ranks_answers_it_has_not_seen(hidden: int) -> None:
    head = fit_head(*examples(400, seed=2), hidden)
    fresh = np.random.default_rng(3).normal(size=(500, 6))
    assert auroc(head.reward(fresh), fresh[:, 0] > 0) > 0.95


def test_the_same_data_give_the_same_head() -> None:
    first, second = (fit_head(*examples(50, seed=4), 4) for _ in range(2))
    assert first.to_dict() == second.to_dict()


@pytest.mark.parametrize("hidden", [0, 3])
def test_json_gives_the_same_rewards_back(hidden: int) -> None:
    x, *pairs = examples(50, seed=5)
    head = fit_head(x, *pairs, hidden)
    again = Head.from_dict(json.loads(json.dumps(head.to_dict())))
    assert again.reward(x) == pytest.approx(head.reward(x), abs=1e-5)


@pytest.mark.parametrize("spoil", ["center", "layers", "scale"])
def test_what_is_not_a_head_is_refused(spoil: str) -> None:
    data = fit_head(*examples(20, seed=6)).to_dict()
    for wrong in (None, [], "x", {"shape": [3], "float32": "AAAA"}, {"shape": [2], "float32": "!"}):
        with pytest.raises(ValueError, match="not a reward head"):
            Head.from_dict({**data, spoil: wrong})


def test_a_head_is_not_asked_about_states_of_another_width_or_nan() -> None:
    head = fit_head(*examples(20, seed=7))
    for rows in (np.zeros((2, 5)), np.full((1, 6), math.nan)):
        with pytest.raises(ValueError, match="pooled"):
            head.reward(rows)


@pytest.mark.parametrize("weights", [[], [0.0] * 80, [-1.0] + [1.0] * 79, [math.nan] * 80])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    x, better, worse, _ = examples(20, seed=8)
    with pytest.raises(ValueError, match="weights"):
        fit_head(x, better, worse, np.array(weights))


def test_a_feature_that_never_varies_gets_no_say() -> None:
    x, *pairs = examples(50, seed=9)
    x[:, 3] = 7.0
    head, other = fit_head(x, *pairs), x.copy()
    other[:, 3] = 9.0
    assert head.reward(other) == pytest.approx(head.reward(x))


def test_pooling_is_the_mean_beside_the_deviation() -> None:
    assert pool(np.array([[1.0, 2.0], [3.0, 6.0]])).tolist() == [2.0, 4.0, 1.0, 2.0]


def test_an_answer_of_its_end_token_alone_has_no_deviation() -> None:
    assert pool(np.array([[1.0, 2.0]])).tolist() == [1.0, 2.0, 0.0, 0.0]


arguments = st.fixed_dictionaries(
    {"slice": st.text(max_size=8), "count": st.integers(-5, 10**6)},
    optional={"cells": st.lists(st.text(max_size=4), max_size=3), "now": st.booleans()},
)


@settings(deadline=None, max_examples=40)
@given(st.lists(arguments, min_size=1, max_size=3), st.integers(0, 10**6))
def test_every_broken_answer_fails_the_gate_that_the_valid_one_passes(some: list[dict[str, Any]], seed: int) -> None:
    calls = [ToolCall("move_slice", one) for one in some]
    assert check(parse(render(calls)), TOOLS) is None
    made = broken(calls, TOOLS, Random(seed))
    assert {"unknown", "truncated", "extra", "type"} <= set(made)
    assert all(check(parse(wrong), TOOLS) is not None for wrong in made.values())


def test_each_kind_of_mistake_is_made() -> None:
    kinds = {kind for seed in range(20) for kind in broken(parse(text("a")).calls, TOOLS, Random(seed))}
    assert kinds == {"missing", "type", "unknown", "truncated", "extra"}


def test_prose_has_no_broken_version_and_a_lenient_schema_allows_what_it_allows() -> None:
    assert broken([], TOOLS, Random(0)) == {}
    anything = [{"type": "function", "function": {"name": "move_slice"}}]
    assert set(broken(parse(text("a")).calls, anything, Random(0))) == {"unknown", "truncated", "extra"}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 100))
def test_nobody_is_ever_taught_that_a_right_draft_is_the_worse_one(right: int, wrong: int, seed: int) -> None:
    given_ = judged(right, wrong)
    for pair in preference_pairs(given_, seed):
        cloud = parse(given_[pair.worse.request].cloud)
        assert not same_answer(parse(pair.worse.text), cloud)
        assert same_answer(parse(pair.better.text), parse(given_[pair.better.request].cloud))


def test_a_draft_that_is_only_written_differently_is_no_pair_with_the_cloud() -> None:
    spaced = '<tool_call> {"arguments": {"count": 1.0, "slice": "a"}, "name": "move_slice"} </tool_call>'
    pairs = preference_pairs([Judged(spaced, text("a"), TOOLS)])
    assert all(check(parse(pair.worse.text), TOOLS) is not None for pair in pairs)


def test_right_drafts_are_compared_with_wrong_ones_of_other_requests() -> None:
    across = [pair for pair in preference_pairs(judged(3, 2)) if pair.better.request != pair.worse.request]
    assert across and {pair.better.request for pair in across} <= {0, 1, 2}
    assert {pair.worse.request for pair in across} <= {3, 4}


def test_an_invalid_draft_is_rejected_within_its_request_only() -> None:
    some = [Judged("<tool_call>{", text("a"), TOOLS), *judged(2, 1)]
    pairs = preference_pairs(some)
    assert any(pair.worse.text == "<tool_call>{" for pair in pairs)
    assert all(pair.better.request == 0 for pair in pairs if pair.worse.text == "<tool_call>{")


def test_a_cloud_answer_that_fails_the_gate_teaches_nothing() -> None:
    assert preference_pairs([Judged(text("a"), "<tool_call>{", TOOLS)]) == []


def test_a_heavier_record_weighs_more() -> None:
    light, heavy = (preference_pairs([Judged(text("x"), text("a"), TOOLS, weight)])[0].weight for weight in (1.0, 4.0))
    assert heavy == 4 * light
