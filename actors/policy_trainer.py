"""Reinforcement learning of the edge model: sample, judge, filter, step.

``PolicyTrainer`` holds the model under training (float32) and the frozen model it started from. A step draws prompts,
brings the sampler to the present weights in memory, samples G answers to each, has them judged, drops what the cloud's
budget does not cover (``policies.prompt_filter``), and takes one step up the anchored objective (``policies.
policy_losses``) with the coefficients of ``policies.group``. Who samples (``actors.rollouts``) and who judges is passed
in. A run that was killed goes on from its last checkpoint. No Ray, no log: see ``actors.training``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from actors.checkpoint import restore, save
from actors.samples import Encoded, answer_logits, collate, passes
from actors.shared_prompts import Row, collate_rows, row_logits, rows_of, shares_prompts, width
from actors.trainer import adamw, load_model, save_model, set_rate
from actors.training import Progress
from policies.errors import EngineError
from policies.fitting import BoolArray
from policies.group import coefficients
from policies.losses import forward_kl
from policies.policy_losses import (
    anchored_policy_loss,
    policy_gradient_loss,
    ppo_clip_loss,
    sampled_reverse_kl,
    token_logprobs,
)
from policies.prompt_filter import Batch as Outcome
from policies.prompt_filter import Kept, keep, ratio
from policies.score import FloatArray

logger = logging.getLogger(__name__)

CHECKPOINT = "policy.pt"


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Hyper-parameters of a run.

    Args:
        estimator: gapg, rloo, dr_grpo or grpo (``policies.group``).
        steps: each on ``prompts`` prompts with ``samples`` answers.
        epochs: passes over a step's answers; from the second on the ratio to the policy that sampled is clipped.
        reverse_weight, forward_weight: beta_R and beta_F; the latter needs anchors.
        cloud_share: of requests that may go to the cloud: what the prompts are filtered to; None learns from all.
        lr: peak rate of AdamW; rises over ``warmup`` of the run, then falls linearly to 0.
        batch_tokens: prompt and answer tokens of one forward pass; what is more accumulates.
        bfloat16: whether products are computed in it, weights stay float32; None: on a GPU alone, for on CPU the
            casts of a small model's weights cost more than they save.
        checkpoint_every: steps.
    """

    estimator: str = "gapg"
    steps: int = 100
    prompts: int = 32
    samples: int = 8
    epochs: int = 1
    clip: float = 0.2
    reverse_weight: float = 0.0
    forward_weight: float = 0.0
    cloud_share: float | None = None
    temperature: float = 1.0
    max_new_tokens: int = 160
    lr: float = 1e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_norm: float = 1.0
    batch_tokens: int = 16_384
    checkpoint_every: int = 20
    threads: int = 1
    device: str = "cpu"
    bfloat16: bool | None = None
    seed: int = 0


class Sampled(Protocol):
    """One sampled answer: its tokens, with the end token where it ended, and its text."""

    @property
    def tokens(self) -> Sequence[int]:
        """Never empty."""
        ...

    @property
    def text(self) -> str:
        """What the tokens say."""
        ...


class Sampler(Protocol):
    """Samples from the model under training; ``actors.rollouts.Rollouts`` is one."""

    def sync(self, parameters: Iterable[tuple[str, Tensor]], version: str) -> None:
        """Sample from these weights from now on."""
        ...

    def sample(
        self, prompts: Sequence[Sequence[int]], samples: int, temperature: float, max_new_tokens: int, seed: int
    ) -> Sequence[Sampled]:
        """``samples`` answers to each prompt, those of one prompt together."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """``rewards`` [prompts, G] and how the answers came out."""

    rewards: FloatArray
    outcome: Outcome


Judge = Callable[[Sequence[int], Sequence[Sequence[str]]], Judged]
"""From the indices of prompts and the texts of their G answers."""


@dataclass
class Work:
    """What a run learns from: prompts as tokens, and answers of the supervised model to stay near."""

    prompts: Sequence[Sequence[int]]
    judge: Judge
    anchors: Sequence[Encoded] = field(default_factory=tuple)


class PolicyTrainer:
    """One run on one model.

    Args:
        base_dir: the model it starts from, pi_SFT.
        work_dir: where checkpoints lie; one that is there is gone on from.

    Raises:
        EngineError: the model or the checkpoint cannot be loaded.
    """

    def __init__(self, base_dir: Path, work_dir: Path, config: PolicyConfig, sampler: Sampler) -> None:
        torch.set_num_threads(config.threads)
        self._dir, self._checkpoint, self._config, self._sampler = base_dir, work_dir / CHECKPOINT, config, sampler
        self.model = load_model(base_dir, config.device, torch.float32)
        self._prior = load_model(base_dir, config.device, torch.float32) if config.forward_weight else None
        self._optimizer = adamw(self.model, config.lr, config.weight_decay)
        self.step = int(restore(self._checkpoint, self.model, [self._optimizer]).get("step", 0.0))

    def run(self, work: Work, progress: Progress) -> dict[str, float]:
        """Train to the last step; returns its figures.

        Raises:
            EngineError: the objective is no longer a number, or an anchor weight has no anchors.
        """
        if self._config.forward_weight and not work.anchors:
            raise EngineError("forward_weight is above 0, but there is no anchor. Fix: give anchors, or set it to 0")
        figures: dict[str, float] = {}
        while self.step < self._config.steps:
            figures = self._step(work)
            self.step += 1
            progress(figures)
            if self.step % self._config.checkpoint_every == 0 or self.step == self._config.steps:
                save(self._checkpoint, self.model, [self._optimizer], {"step": float(self.step)})
        return figures

    def save(self, directory: Path) -> None:
        """Write the model as bfloat16 safetensors beside the base's tokenizer and configuration."""
        save_model(self.model, self._dir, directory)

    def _step(self, work: Work) -> dict[str, float]:
        config, began = self._config, time.perf_counter()
        draw = random.Random(f"{config.seed}-{self.step}")  # by step: a run that goes on draws what it would have drawn
        chosen = draw.sample(range(len(work.prompts)), min(config.prompts, len(work.prompts)))
        prompts = [work.prompts[index] for index in chosen]
        self._sampler.sync(self.model.named_parameters(), str(self.step))
        seed = draw.randrange(2**31)
        answers = self._sampler.sample(prompts, config.samples, config.temperature, config.max_new_tokens, seed)
        groups = [answers[at : at + config.samples] for at in range(0, len(answers), config.samples)]
        sampled_s = time.perf_counter() - began
        judged = work.judge(chosen, [[answer.text for answer in group] for group in groups])
        kept = self._kept(judged, seed)
        weights = np.zeros_like(judged.rewards)
        weights[kept] = coefficients(config.estimator, judged.rewards)[kept] / max(len(kept), 1)
        loss = self._learn(prompts, groups, weights, self._anchors(work, draw))
        return {
            **self._figures(judged, answers, kept),
            **loss,
            "sample_s": sampled_s,
            "step_s": time.perf_counter() - began,
        }

    def _kept(self, judged: Judged, seed: int) -> list[int]:
        """Indices of the prompts to learn from."""
        if self._config.cloud_share is None:
            return list(range(len(judged.rewards)))
        found: Kept = keep(judged.outcome, ratio(self._config.cloud_share), seed)
        return [int(index) for index in found.indices]

    def _learn(
        self, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Sampled]], weights: FloatArray,
        anchors: Sequence[Encoded],
    ) -> dict[str, float]:  # fmt: skip
        """One optimiser step for each epoch, over the answers that weigh anything."""
        config = self._config
        learnt = [
            Encoded([*prompt, *answer.tokens], len(prompt), float(weight))
            for prompt, group, row in zip(prompts, groups, weights, strict=True)
            for answer, weight in zip(group, row, strict=True)
            if weight or config.reverse_weight
        ]
        parts = list(passes(rows_of(learnt, shares_prompts(self.model)), width, config.batch_tokens))
        before = [self._behaviour(part) for part in parts] if config.epochs > 1 else [None] * len(parts)
        total = 0.0
        for _ in range(config.epochs):
            set_rate(self._optimizer, config.lr, config.warmup, self.step / config.steps)
            self._optimizer.zero_grad(set_to_none=True)
            losses = [self._backward(part, old, len(learnt)) for part, old in zip(parts, before, strict=True)]
            total = float(sum(losses)) + self._stay(anchors)
            if not np.isfinite(total):
                raise EngineError(f"{self._dir}: training diverged, the objective is {total}; lower lr")
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_norm)
            if learnt or anchors:
                self._optimizer.step()
        return {"loss": total, "learnt_tokens": float(sum(len(row.ids) - row.start for row in learnt))}

    def _backward(self, part: Sequence[Row], behaviour: Tensor | None, answers: int) -> Tensor:
        """Gradients of one forward pass are added; parts of a step add up."""
        config, (logprobs, weights) = self._config, self._logprobs(part)
        if behaviour is None:
            loss = policy_gradient_loss(logprobs, weights)
        else:
            improvement = ppo_clip_loss(logprobs, behaviour, weights, config.clip, config.clip)
            reverse = sampled_reverse_kl(logprobs, behaviour, torch.full_like(logprobs, 1.0 / answers))
            forward = logprobs.new_zeros(())  # anchors have a pass of their own, ``_stay``
            loss = anchored_policy_loss(improvement, reverse, forward, config.reverse_weight, 0.0).total
        loss.backward()
        return loss.detach()

    def _stay(self, anchors: Sequence[Encoded]) -> float:
        """beta_F * KL(pi_SFT || pi) on answers of the supervised model."""
        if not anchors or self._prior is None:
            return 0.0
        batch = collate(anchors, self._config.device)
        with self._precision():
            with torch.no_grad():
                prior = answer_logits(self._prior, batch)
            logits = answer_logits(self.model, batch)
        loss = self._config.forward_weight * forward_kl(prior, logits, batch.weights)
        loss.backward()
        return loss.item()

    @torch.no_grad()
    def _behaviour(self, part: Sequence[Row]) -> Tensor:
        """log pi_k: before the first of the steps on these answers."""
        return self._logprobs(part)[0]

    def _logprobs(self, part: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Of the answers' tokens, and what each weighs: [n] and [n]."""
        batch = collate_rows(part, self._config.device)
        with self._precision():
            logits = row_logits(self.model, batch)
        return token_logprobs(logits, batch.targets), batch.weights

    def _precision(self) -> torch.autocast:
        kind, wanted = torch.device(self._config.device).type, self._config.bfloat16
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" if wanted is None else wanted)

    def _anchors(self, work: Work, draw: random.Random) -> Sequence[Encoded]:
        """As many anchors as prompts."""
        if not self._config.forward_weight:
            return ()
        return draw.sample(list(work.anchors), min(self._config.prompts, len(work.anchors)))

    def _figures(self, judged: Judged, answers: Sequence[Sampled], kept: Sequence[int]) -> dict[str, float]:
        return {
            "step": float(self.step + 1),
            "reward": float(judged.rewards.mean()),
            "right": _share(judged.outcome.right),
            "asked": _share(judged.outcome.asked),
            "kept": len(kept) / len(judged.rewards),
            "sampled_tokens": float(sum(len(answer.tokens) for answer in answers)),
        }


def _share(flags: BoolArray) -> float:
    return float(flags.mean())
