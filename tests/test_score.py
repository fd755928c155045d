"""Features of a draft: finite, refusing what is not a log-probability, and rising with confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.score import FEATURES, RISING, features

logprob = st.floats(min_value=-1e6, max_value=0.0)
drafts = st.lists(logprob, max_size=60)


@given(drafts)
def test_features_are_finite_and_have_their_names_length(logprobs: list[float]) -> None:
    row = features(logprobs)
    assert row.shape == (len(FEATURES),)
    assert np.isfinite(row).all()


@given(st.lists(logprob, min_size=1, max_size=40), st.data())
def test_confidence_features_never_fall_when_a_token_becomes_more_probable(
    logprobs: list[float], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(logprobs) - 1))
    raised = list(logprobs)
    raised[index] = data.draw(st.floats(min_value=logprobs[index], max_value=0.0))
    before, after = features(logprobs), features(raised)
    assert (after[np.array(RISING)] >= before[np.array(RISING)] - 1e-9).all()
    assert after[FEATURES.index("log_count")] == before[FEATURES.index("log_count")]


def test_an_impossible_token_counts_as_very_improbable_instead_of_breaking_the_mean() -> None:
    assert np.isfinite(features([-math.inf, -0.1])).all()


@pytest.mark.parametrize("wrong", [math.nan, 0.5, math.inf])
def test_what_is_not_a_log_probability_is_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match="logprobs"):
        features([-0.1, wrong])


@pytest.mark.parametrize("wrong", [math.nan, 0.0, 1.0, -0.5])
def test_a_promise_that_is_no_probability_is_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        features([-0.1], wrong)


def test_without_a_forecast_the_prompt_says_nothing() -> None:
    assert np.array_equal(features([-0.1]), features([-0.1], 0.5))


def test_the_order_of_tokens_does_not_matter() -> None:
    assert np.allclose(features([-3.0, -0.1, -1.0, -0.2]), features([-0.2, -1.0, -0.1, -3.0]))
