"""The terms of a policy step against closed forms, finite differences, and the bounds they promise at the optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policies.group import coefficients
from policies.losses import forward_kl
from policies.policy_losses import (
    anchored_policy_loss,
    dpo_loss,
    per_answer,
    policy_gradient_loss,
    ppo_clip_loss,
    reverse_kl,
    sampled_reverse_kl,
    token_logprobs,
)
from policies.score import FloatArray

ROWS, WORDS = 6, 5
TOKENS = torch.arange(ROWS) % WORDS


def sample(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (ROWS, WORDS)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ones(rows: int = ROWS) -> Tensor:
    return torch.ones(rows, dtype=torch.float64)


def gradient(loss: Tensor, *of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def test_the_policy_gradient_of_a_group_is_the_estimator_in_closed_form() -> None:
    logits, answers, rewards = sample(0, WORDS).requires_grad_(), torch.tensor([0, 3, 3, 1]), [1.0, 0.25, 0.25, 0.0]
    weights = torch.tensor(coefficients("gapg", np.array([rewards]))[0])
    found = gradient(policy_gradient_loss(token_logprobs(logits.expand(4, -1), answers), weights), logits)
    scores = torch.eye(WORDS, dtype=torch.float64)[answers] - logits.softmax(-1)  # grad log pi
    centred = torch.tensor(rewards, dtype=torch.float64) - 0.375
    torch.testing.assert_close(found, -(centred[:, None] * scores).sum(0).detach() / 3)


def test_its_expectation_over_a_softmax_policy_is_the_gradient_of_the_expected_reward() -> None:
    logits, rewards = sample(1, WORDS).requires_grad_(), sample(2, WORDS)
    p = logits.softmax(-1)
    rows = token_logprobs(logits.expand(WORDS, -1), torch.arange(WORDS))
    found = gradient(policy_gradient_loss(rows, p * rewards), logits)
    torch.testing.assert_close(found, -(p * (rewards - p @ rewards)).detach())


def test_a_long_answer_weighs_as_the_sum_of_its_tokens() -> None:
    logprobs, answer = token_logprobs(sample(3), TOKENS), torch.tensor([0, 1, 1, 1, 1, 1])
    weights = torch.tensor([0.5, -0.25], dtype=torch.float64)
    whole = policy_gradient_loss(logprobs, weights[answer])
    torch.testing.assert_close(whole, -(weights * per_answer(logprobs, answer, 2)).sum())
    parts = [policy_gradient_loss(logprobs[rows], weights[answer[rows]]) for rows in (slice(0, 2), slice(2, None))]
    torch.testing.assert_close(whole, sum(parts, torch.zeros((), dtype=torch.float64)))


def test_at_the_behaviour_policy_ppo_moves_as_the_plain_policy_gradient() -> None:
    logits, weights = sample(4).requires_grad_(), sample(5, ROWS)
    logprobs = token_logprobs(logits, TOKENS)
    ppo = gradient(ppo_clip_loss(logprobs, logprobs.detach(), weights), logits)
    torch.testing.assert_close(ppo, gradient(policy_gradient_loss(token_logprobs(logits, TOKENS), weights), logits))


@pytest.mark.parametrize(
    ("ratio", "coefficient", "moves"),
    [
        (1.5, 1.0, False),  # already likelier than the clip allows: no further
        (1.5, -1.0, True),  # likelier though it is bad: back
        (0.5, -1.0, False),
        (0.5, 1.0, True),
        (1.1, 1.0, True),
        (1.1, -1.0, True),
        (0.75, -1.0, True),  # within a clip of 0.3 downwards
        (1.25, 1.0, False),  # beyond a clip of 0.2 upwards
    ],
)
def test_ppo_stands_still_outside_the_clip_on_the_side_it_came_from(
    ratio: float, coefficient: float, moves: bool
) -> None:
    logprobs = torch.tensor([math.log(0.2 * ratio)], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([math.log(0.2)], dtype=torch.float64)
    weights = torch.tensor([coefficient], dtype=torch.float64)
    found = gradient(ppo_clip_loss(logprobs, behaviour, weights, clip_low=0.3, clip_high=0.2), logprobs)
    assert found.item() == pytest.approx(-ratio * coefficient if moves else 0.0)


def test_a_token_that_became_far_likelier_gives_finite_numbers() -> None:
    logprobs, behaviour = torch.zeros(1, requires_grad=True), torch.tensor([-500.0])
    for loss in (ppo_clip_loss(logprobs, behaviour, -ones(1)), sampled_reverse_kl(logprobs, behaviour, ones(1))):
        assert loss.isfinite() and gradient(loss, logprobs).isfinite().all()


def test_reverse_kl_between_two_coins_is_the_textbook_value() -> None:
    p, q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert reverse_kl(q, p, torch.ones(1)).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_reverse_kl_lets_a_mode_go_at_a_finite_price_where_forward_kl_does_not() -> None:
    prior, dropped = torch.zeros(1, 2), torch.tensor([[0.0, -60.0]])
    assert forward_kl(prior, dropped, torch.ones(1)).item() > 25
    assert reverse_kl(prior, dropped, torch.ones(1)).item() == pytest.approx(math.log(2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_sampled_kl_is_right_in_value_and_gradient_on_average_over_the_behaviour_policy(seed: int) -> None:
    logits, behaviour = sample(seed, WORDS).requires_grad_(), sample(seed + 1, WORDS)
    rows, known = logits.expand(WORDS, -1), behaviour.log_softmax(-1)
    sampled = sampled_reverse_kl(token_logprobs(rows, torch.arange(WORDS)), known, known.exp())
    exact = reverse_kl(behaviour[None], logits[None], ones(1))
    torch.testing.assert_close(sampled, exact)
    torch.testing.assert_close(gradient(sampled, logits), gradient(exact, logits))


def test_k3_as_a_loss_would_follow_the_forward_kl_instead() -> None:
    logits, known = sample(6, WORDS).requires_grad_(), sample(7, WORDS).log_softmax(-1)
    log_ratio = known - logits.log_softmax(-1)
    k3 = (logits.softmax(-1).detach() * (log_ratio.exp() - 1 - log_ratio)).sum()
    forward = forward_kl(known[None], logits[None], ones(1))
    torch.testing.assert_close(gradient(k3, logits), gradient(forward, logits))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_each_tokens_sampled_kl_is_never_negative(seed: int) -> None:
    logprobs, behaviour = sample(seed, ROWS), sample(seed + 1, ROWS)
    for row in range(ROWS):
        only = torch.eye(ROWS, dtype=torch.float64)[row]
        assert sampled_reverse_kl(logprobs, behaviour, only).item() >= 0


def test_gradients_agree_with_finite_differences() -> None:
    behaviour, weights, answer = sample(8), sample(9, ROWS), torch.tensor([0, 0, 1, 1, 1, 1])
    known = token_logprobs(behaviour, TOKENS)

    def losses(logits: Tensor) -> tuple[Tensor, ...]:
        logprobs = token_logprobs(logits, TOKENS)
        better, worse = per_answer(logprobs, answer, 2)[:, None]
        return (
            policy_gradient_loss(logprobs, weights),
            ppo_clip_loss(logprobs, known, weights),
            reverse_kl(behaviour, logits, weights.abs()),
            sampled_reverse_kl(logprobs, known, weights.abs()),
            dpo_loss(better, worse, -3 * ones(1), -8 * ones(1), ones(1), beta=0.3),
        )

    assert torch.autograd.gradcheck(losses, sample(10).requires_grad_())


def test_the_behaviour_policy_and_the_coefficients_receive_no_gradient() -> None:
    logits, behaviour, weights = (sample(n).requires_grad_() for n in (11, 12, 13))
    logprobs, known, c = token_logprobs(logits, TOKENS), token_logprobs(behaviour, TOKENS), weights[:, 0]
    loss = ppo_clip_loss(logprobs, known, c) + policy_gradient_loss(logprobs, c)
    loss = loss + reverse_kl(behaviour, logits, ones()) + sampled_reverse_kl(logprobs, known, ones())
    loss = loss + dpo_loss(logprobs[:1], logprobs[1:2], known[:1], known[1:2], ones(1))
    loss.backward()
    assert behaviour.grad is None and weights.grad is None and logits.grad is not None


def test_dpo_starts_at_the_logarithm_of_two_and_pulls_the_answers_apart() -> None:
    better, worse = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (-3.0, -2.0))
    loss = dpo_loss(better, worse, better, worse, ones(1), beta=0.1)
    assert loss.item() == pytest.approx(math.log(2))
    up, down = torch.autograd.grad(loss, (better, worse))
    assert (up.item(), down.item()) == pytest.approx((-0.05, 0.05))


def test_dpo_is_lowest_where_the_margin_is_that_of_the_preferences() -> None:
    """With P(better) = 0.8 the minimiser raises the margin over the reference's by logit(0.8) / beta."""
    margin = torch.tensor([math.log(4) / 0.5], dtype=torch.float64, requires_grad=True)
    zero, both = torch.zeros(1, dtype=torch.float64), torch.tensor([0.8, 0.2], dtype=torch.float64)
    pairs = torch.cat([margin, -margin])
    loss = dpo_loss(pairs, zero.expand(2), zero.expand(2), zero.expand(2), both, beta=0.5)
    assert gradient(loss, margin).item() == pytest.approx(0, abs=1e-12)


def test_the_anchored_loss_is_the_sum_of_its_parts_and_refuses_negative_weights() -> None:
    one, two, three = (torch.tensor(value) for value in (1.0, 2.0, 3.0))
    assert anchored_policy_loss(one, two, three, beta_r=0.5, beta_f=0.1).total.item() == pytest.approx(2.3)
    with pytest.raises(ValueError, match="beta_f"):
        anchored_policy_loss(one, two, three, beta_r=0.5, beta_f=-0.1)


betas = st.floats(0.02, 20)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 12), betas, betas, st.floats(0.1, 3))
def test_at_its_optimum_the_anchored_objective_keeps_the_promised_bounds(
    seed: int, answers: int, beta_r: float, beta_f: float, sharpness: float
) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.uniform(-1, 1, answers)
    prior, behaviour = (torch.tensor(sharpness * rng.normal(size=answers))[None] for _ in range(2))
    best = maximiser(rewards, log_softmax(prior), log_softmax(behaviour), beta_r, beta_f)
    logits = torch.tensor(np.log(best))[None].requires_grad_()
    improvement = -(logits.softmax(-1) @ torch.tensor(rewards)).sum()
    reverse, forward = reverse_kl(behaviour, logits, ones(1)), forward_kl(prior, logits, ones(1))
    loss = anchored_policy_loss(improvement, reverse, forward, beta_r, beta_f)
    assert gradient(loss.total, logits).abs().max() < 1e-7 * (1 + beta_r + beta_f)  # it is the optimum

    spread, apart = float(np.ptp(rewards)), forward_kl(prior, behaviour, ones(1)).item()
    slack = 1e-9
    assert forward.item() <= (spread + beta_r * apart) / beta_f + slack
    assert reverse.item() <= (spread + beta_f * apart) / beta_r + slack
    valid = rng.random(answers) < 0.5
    kept, before = best[valid].sum(), np.exp(log_softmax(prior))[valid].sum()
    assert kept >= before - math.sqrt(max(0.0, forward.item()) / 2) - slack


def log_softmax(logits: Tensor) -> FloatArray:
    return np.asarray(logits.log_softmax(-1)[0])


def maximiser(
    rewards: FloatArray, log_prior: FloatArray, log_behaviour: FloatArray, beta_r: float, beta_f: float
) -> FloatArray:
    """The policy where R - beta_R (log(pi / pi_k) + 1) + beta_F pi_SFT / pi is the same for every answer: bisection."""

    def slope(log_policy: FloatArray) -> FloatArray:
        return np.asarray(rewards - beta_r * (log_policy - log_behaviour + 1) + beta_f * np.exp(log_prior - log_policy))

    def policy(level: float) -> FloatArray:
        low, high = np.full(len(rewards), -200.0), np.full(len(rewards), 1.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = slope(middle) > level
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.asarray(np.exp(low))

    everywhere = np.zeros(len(rewards))
    low, high = slope(everywhere).min(), slope(everywhere - math.log(len(rewards))).max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if policy(middle).sum() > 1 else (low, middle)
    return policy(low)
