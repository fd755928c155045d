"""What a policy step minimises: improvement on sampled answers, a trust region around the model that sampled them, and
the anchor to the supervised model, as one objective (ours, consistent with the abstract of arXiv 2511.22217):

    L = -E[R or A] + beta_R * KL(pi || pi_k) + beta_F * KL(pi_SFT || pi),    pi_k the behaviour policy

One entry per sampled token of all answers, [n], no padding. A loss is the weighted SUM over tokens: weights of
1 / answers make it the mean over answers of sums over tokens, so that nothing is divided by an answer's length, and
the parts of a split batch add up. There is no value model: what an answer is worth against its group is in its
coefficient (``policies.group``). Entropy is not rewarded; the forward KL keeps the policy broad.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from policies.checks import nonnegative
from policies.losses import kl_rows, log_probabilities

_LARGEST = 20.0  # of a log-ratio: e^20 is finite, and a token that far off has nothing left to teach


class AnchoredPolicyLoss(NamedTuple):
    """Scalars: ``total`` = ``improvement`` + beta_R * ``reverse`` + beta_F * ``forward``."""

    total: Tensor
    improvement: Tensor
    reverse: Tensor
    forward: Tensor


def anchored_policy_loss(
    improvement: Tensor, reverse: Tensor, forward: Tensor, beta_r: float, beta_f: float
) -> AnchoredPolicyLoss:
    """The composite of three scalars.

    At its optimum for one prompt, with D the range of rewards: KL(pi_SFT || pi) <= (D + beta_R KL(pi_SFT || pi_k)) /
    beta_F, KL(pi || pi_k) <= (D + beta_F KL(pi_SFT || pi_k)) / beta_R, and P(valid) falls below the SFT model's by at
    most sqrt(KL(pi_SFT || pi) / 2). The bounds are loose for small betas; measure validity as well.

    Args:
        improvement: ``policy_gradient_loss`` or ``ppo_clip_loss``.
        reverse: ``reverse_kl``, or ``sampled_reverse_kl`` where only the sampled tokens' log-probabilities are known.
        forward: ``losses.forward_kl`` with the SFT model's logits, or ``losses.token_nll`` on its answers, which
            has the same gradient in expectation; both are means in nats per token, so ``beta_f`` is per that.

    Raises:
        ValueError: a beta is negative or not finite.
    """
    nonnegative(beta_r=beta_r, beta_f=beta_f)
    return AnchoredPolicyLoss(improvement + beta_r * reverse + beta_f * forward, improvement, reverse, forward)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log pi of the tokens [n] under logits [n, vocabulary]: [n], in nats."""
    return log_probabilities(logits).gather(-1, tokens[:, None])[:, 0]


def per_answer(values: Tensor, answer: Tensor, answers: int) -> Tensor:
    """Sums over the tokens of each answer: values [n] and the index of their answer [n] -> [answers]."""
    return values.new_zeros(answers).index_add(0, answer, values)


def policy_gradient_loss(logprobs: Tensor, coefficients: Tensor) -> Tensor:
    """-sum c * log pi, whose gradient is minus the group estimator's (arXiv 2509.24050, equation 2).

    Args:
        logprobs: of the tokens, sampled from this very policy, [n].
        coefficients: each token has its answer's from ``policies.group``, over the number of prompts, [n].
    """
    return -(coefficients.detach() * logprobs).sum()


def ppo_clip_loss(
    logprobs: Tensor, behaviour: Tensor, coefficients: Tensor, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """-sum min(rho * c, clip(rho, 1 - clip_low, 1 + clip_high) * c), rho = pi / pi_k of each token (PPO's clip).

    For more than one step on the same answers; at pi = pi_k its gradient is ``policy_gradient_loss``'s.

    Args:
        logprobs: of the sampled tokens under the policy in training, [n].
        behaviour: under the policy that sampled them, [n].
        coefficients: as in ``policy_gradient_loss``, [n].
    """
    rho, c = _log_ratio(logprobs, behaviour).exp(), coefficients.detach()
    return -torch.minimum(rho * c, rho.clamp(1.0 - clip_low, 1.0 + clip_high) * c).sum()


def reverse_kl(behaviour: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """KL(pi || pi_k), exact over the vocabulary: logits [n, vocabulary] each, weights [n]; no gradient into pi_k.

    Exact for each next token; the beginnings of answers come from pi_k, as they do in PPO.
    """
    return (weights * kl_rows(log_probabilities(logits), log_probabilities(behaviour.detach()))).sum()


def sampled_reverse_kl(logprobs: Tensor, behaviour: Tensor, weights: Tensor) -> Tensor:
    """The k3 estimator of KL(pi || pi_k) where only the sampled tokens' log-probabilities [n] are known.

    k3 = 1 / rho - 1 + log rho is meant for tokens sampled from pi. Ours come from pi_k, so each counts rho times:
    1 - rho + rho log rho, never negative, and unbiased in value and, unlike k3 used as a loss, in gradient.
    """
    log_rho = _log_ratio(logprobs, behaviour)
    rho = log_rho.exp()
    return (weights * (1.0 - rho + rho * log_rho)).sum()


def dpo_loss(
    better: Tensor, worse: Tensor, reference_better: Tensor, reference_worse: Tensor, weights: Tensor, beta: float = 0.1
) -> Tensor:
    """Weighted mean of -log sigmoid(beta * (margin of pi - margin of the reference)) (DPO, arXiv 2305.18290).

    Args:
        better: log pi of the preferred answers, summed over their tokens (``per_answer``), [pairs]; and so the others.
        weights: how much each pair counts, [pairs].
    """
    margin = (better - worse) - (reference_better - reference_worse).detach()
    return -(weights * logsigmoid(beta * margin)).sum() / weights.sum()


def _log_ratio(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    return (logprobs - behaviour.detach()).clamp(-_LARGEST, _LARGEST)
