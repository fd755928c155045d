"""The training losses against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policies.losses import forward_kl, token_nll

ROWS, WORDS = 5, 7


def sample(seed: int, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, WORDS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ones(rows: int = ROWS) -> Tensor:
    return torch.ones(rows)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    loss = token_nll(torch.zeros(ROWS, WORDS), torch.zeros(ROWS, dtype=torch.long), ones())
    assert loss.item() == pytest.approx(math.log(WORDS))


def test_kl_between_two_coins_is_the_textbook_value() -> None:
    p, q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert forward_kl(p, q, ones(1)).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50))
def test_kl_is_never_negative_and_zero_only_for_the_same_distribution(seed: int, shift: float) -> None:
    p, q = sample(seed).float(), sample(seed + 1).float()
    assert forward_kl(p, q, ones()).item() > 0
    assert forward_kl(p, p + shift, ones()).item() == pytest.approx(0, abs=1e-4)


def test_a_token_the_prior_rules_out_adds_nothing() -> None:
    prior = torch.tensor([[0.0, -math.inf]])
    assert forward_kl(prior, torch.zeros(1, 2), ones(1)).item() == pytest.approx(math.log(2))


def test_rows_of_weight_zero_count_for_nothing_even_when_they_are_not_numbers() -> None:
    logits, targets = sample(1).float(), torch.arange(ROWS)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0])
    broken = logits.clone()
    broken[1] = math.nan
    kept = torch.tensor([0, 2, 4])
    nll = torch.nn.functional.cross_entropy(logits[kept], targets[kept], reduction="none")
    expected = (nll * weights[kept]).sum() / 4
    assert token_nll(broken, targets, weights).item() == pytest.approx(expected.item())
    assert token_nll(logits, targets, torch.zeros(ROWS)).item() == 0


def test_gradients_agree_with_finite_differences() -> None:
    prior, targets, weights = sample(4), torch.arange(ROWS), torch.linspace(0.0, 2.0, ROWS, dtype=torch.float64)

    def losses(logits: Tensor) -> tuple[Tensor, ...]:
        return token_nll(logits, targets, weights), forward_kl(prior, logits, weights)

    assert torch.autograd.gradcheck(losses, sample(5).requires_grad_())


def test_half_precision_is_computed_in_single() -> None:
    logits = sample(2).bfloat16()
    loss = token_nll(logits, torch.arange(ROWS), ones())
    assert loss.dtype == torch.float32
    assert loss.item() == token_nll(logits.float(), torch.arange(ROWS), ones()).item()


def test_the_prior_receives_no_gradient() -> None:
    prior, logits = sample(6).requires_grad_(), sample(7).requires_grad_()
    forward_kl(prior, logits, ones()).backward()
    assert prior.grad is None and logits.grad is not None
