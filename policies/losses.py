"""What training minimises: likelihood of the cloud's answers, anchored to the model it started from.

All functions take one row per token that counts: logits [n, vocabulary] predict targets [n], weights [n] say how much
each row counts (0 leaves it out), and the result is the weighted mean over rows in nats per token, exact over
the full vocabulary. ``anchored_loss`` is the supervised case of the SFT-anchored objective (ours, consistent with the
abstract of arXiv 2511.22217; ``policy_losses`` has the rest): L = NLL(cloud's answer) + beta_F * KL(pi_SFT || pi).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax


class Anchor(NamedTuple):
    """Rows on which to stay: logits [m, vocabulary] of the frozen prior and of the model, weights [m]; m may be 0."""

    prior: Tensor
    logits: Tensor
    weights: Tensor


class AnchoredLoss(NamedTuple):
    """Scalars: ``total`` = ``nll`` + beta * ``kl``."""

    total: Tensor
    nll: Tensor
    kl: Tensor


def anchored_loss(logits: Tensor, targets: Tensor, weights: Tensor, anchor: Anchor, beta: float) -> AnchoredLoss:
    """NLL on the labelled rows and ``beta`` times the forward KL on the anchor's own rows.

    The forward KL punishes dropping anything the prior could do without bound, so what the labels do
    not speak of (formats, tools, other requests) stays.
    """
    nll = token_nll(logits, targets, weights)
    kl = forward_kl(anchor.prior, anchor.logits, anchor.weights)
    return AnchoredLoss(nll + beta * kl, nll, kl)


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
