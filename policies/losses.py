"""What training minimises: likelihood of the cloud's answers, anchored to the model it started from.

All functions take one row per token that counts: logits [n, vocabulary] predict targets [n], weights [n] say how much
each row counts (0 leaves it out), and the result is the weighted mean over rows in nats per token, exact over
the full vocabulary. The supervised case of the SFT-anchored objective (ours, consistent with the abstract of arXiv
2511.22217; ``policy_losses`` has the rest) is L = NLL(cloud's answer) + beta_F * KL(pi_SFT || pi), each over rows of
its own. The forward KL punishes dropping anything the prior could do without bound, so what the labels do not speak of
(formats, tools, other requests) stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax


class AnchoredLoss(NamedTuple):
    """Scalars: ``total`` = ``nll`` + beta * ``kl``."""

    total: Tensor
    nll: Tensor
    kl: Tensor


def token_nll(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """-log pi(target), weighted mean; a scalar, 0 when no row counts."""
    return _mean(cross_entropy(_wide(logits), targets, reduction="none"), weights)


def forward_kl(prior: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """KL(pi_prior || pi), weighted mean; gradients flow into ``logits`` only."""
    p = log_probabilities(prior.detach())
    return _mean(kl_rows(p, log_probabilities(logits)), weights)


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of rows of log-probabilities, [n, vocabulary] each -> [n]; what p rules out (-inf) adds nothing."""
    probabilities = log_p.exp()
    return torch.where(probabilities > 0, probabilities * (log_p - log_q), 0.0).sum(-1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis, in single precision at least."""
    return log_softmax(_wide(logits), dim=-1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    counted = torch.where(weights > 0, values, 0.0)
    return (counted * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
