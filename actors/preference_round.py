"""Direct preference optimisation on what the cloud corrected: its answer above the draft it replaced.

The alternative to reinforcement learning that samples nothing (DPO, arXiv 2305.18290). The candidate is its own
reference. Labels whose draft is unknown, or said what the cloud said, are left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.samples import Encoded, SampleEncoder, answer_logits, collate
from actors.trainer import REPORT_EVERY, adamw, device_of, load_model, save_model, set_rate
from actors.training import Progress, TrainConfig, TrainingJob
from policies.errors import EngineError
from policies.policy_losses import dpo_loss, per_answer, token_logprobs

Pair = tuple[Encoded, Encoded]


def prefer(candidate: Path, job: TrainingJob, progress: Progress) -> dict[str, float]:
    """Run ``job.config.preference_steps`` steps from the model in ``candidate`` and write the result there.

    Raises:
        EngineError: the model cannot be loaded, or training diverged.
    """
    config, device = job.config, device_of(job.config)
    pairs = _pairs(job, SampleEncoder(candidate, config.context))
    if not pairs:
        return {"preference_pairs": 0.0}
    model, reference = (load_model(candidate, device, torch.float32) for _ in range(2))
    optimizer, draw, loss = adamw(model, config.policy_lr, config.weight_decay), random.Random(config.seed), 0.0
    for step in range(config.preference_steps):
        set_rate(optimizer, config.policy_lr, config.warmup, step / config.preference_steps)
        loss = _step(model, reference, draw.sample(pairs, min(config.batch_size, len(pairs))), config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % REPORT_EVERY == 0:
            progress({"step": step + 1.0, "steps": float(config.preference_steps), "loss": loss})
    save_model(model, candidate, candidate)
    return {"preference_pairs": float(len(pairs)), "preference_loss": loss}


def _pairs(job: TrainingJob, encoder: SampleEncoder) -> list[Pair]:
    """The cloud's answer and the draft, as tokens, where both fit."""
    known = [label for label in job.labels if label.rejected]
    both = [encoder.encode_all([label, replace(label, answer=label.rejected)]) for label in known]
    return [(pair[0], pair[1]) for pair in both if len(pair) == 2]


def _step(model: Any, reference: Any, pairs: Sequence[Pair], config: TrainConfig) -> float:
    """Gradients of one batch; its loss."""
    rows = [pair[side] for side in (0, 1) for pair in pairs]
    weights = torch.tensor([pair[0].weight for pair in pairs], device=device_of(config))
    with torch.no_grad():
        before = _answers(reference, rows, config).split(len(pairs))
    after = _answers(model, rows, config).split(len(pairs))
    loss = dpo_loss(after[0], after[1], before[0], before[1], weights)
    if not torch.isfinite(loss):
        raise EngineError(f"preference training diverged, the loss is {loss.item()}; lower policy_lr")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    return loss.item()


def _answers(model: Any, rows: Sequence[Encoded], config: TrainConfig) -> Tensor:
    """Log-probabilities of whole answers, [rows]."""
    batch = collate(rows, device_of(config))
    return per_answer(token_logprobs(answer_logits(model, batch), batch.targets), batch.rows, len(rows))
