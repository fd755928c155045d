"""One training round as data, and how it runs: train, save, answer the held-out prompts with both models.

``TrainingJob`` is everything a worker needs and nothing of the log's form; it travels as one JSON file, so the
process that trains may be anywhere the directory can be read. ``run_job`` does the work in this process (no Ray:
``cluster.train_job`` wraps it). Results: ``<work_dir>/candidate`` in Hugging Face form, and a ``TrainingOutcome``.
Judging is not done here (``policies.gate``).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.model_store import weight_digests

if TYPE_CHECKING:
    from actors.data_parallel import Peers
    from actors.trainer import Trainer

JOB_FILE, CANDIDATE = "job.json", "candidate"

Progress = Callable[[dict[str, float]], None]
"""Told the figures of the run from time to time: ``step``, ``steps``, ``loss``, ``nll``, ``kl``, ``seconds``."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt (OpenAI messages and tools), the answer to learn or to stay with, and its weight.

    ``rejected`` is the whole draft that ``answer`` corrects, empty where none is known.
    """

    messages: Sequence[Any]
    tools: Sequence[Any]
    answer: str
    weight: float = 1.0
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyper-parameters of one round: supervised steps, then preference steps, then reinforcement learning.

    Args:
        steps: supervised optimiser steps; ``time_limit_s`` shortens the plan when the pace is too slow for them.
        variants: most versions of each sample (``actors.augment``); 1 trains on it as it is.
        batch_size, anchor_batch: labelled and anchor samples in one step.
        batch_tokens: of prompts and answers in one forward pass; the gradients of a step's passes add up.
        lr: peak rate of AdamW; rises over ``warmup`` of the run, then falls linearly to 0.
        anchor_weight: beta_F of KL(pi_SFT || pi).
        method: full (all weights), lora (an adapter of ``lora_rank``), or auto (by the model's size).
        preference_steps: steps of DPO on the cloud's answers against the drafts they correct.
        policy_steps: steps of reinforcement learning on answers that the model samples.
        policy_lr: peak rate of both.
        policy_epochs: passes over the answers of a step.
        policy_reverse, policy_forward: beta_R of KL(pi || pi_k), which counts from the second pass on, and beta_F.
        context: samples with more tokens than this, or than the model's own limit, are left out.
        max_new_tokens: longest answer when the models are evaluated.
        checkpoint_s: what a run that is killed loses at most, in seconds of training.
        threads: of this process's CPU work; ``device`` is a torch device or auto.
    """

    steps: int = 400
    variants: int = 32
    batch_size: int = 16
    anchor_batch: int = 16
    batch_tokens: int = 4096
    lr: float = 1.5e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    anchor_weight: float = 1.0
    method: Literal["auto", "full", "lora"] = "auto"
    lora_rank: int = 8
    preference_steps: int = 0
    policy_steps: int = 0
    policy_lr: float = 3e-4
    policy_epochs: int = 1
    policy_reverse: float = 0.0
    policy_forward: float = 0.5
    context: int = 4096
    max_new_tokens: int = 160
    time_limit_s: float = 300.0
    checkpoint_s: float = 30.0
    threads: int = 1
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a round works on.

    Args:
        base_dir: the model to replace.
        work_dir: where the candidate goes; created.
        labels: what to learn: the cloud's answers.
        questions: whose right answers are to stay what they are (``actors.rehearsal``); ``answer`` is the cloud's
            where it is known.
        trials: held-out prompts that both models answer (``answer`` unused).
        drift: held-out answers of the model to replace, on which its KL to the candidate is measured.
        start_dir: the model that training starts from, pi_SFT, frozen; empty: ``base_dir``.
    """

    base_dir: str
    work_dir: str
    labels: Sequence[Sample]
    questions: Sequence[Sample] = ()
    trials: Sequence[Sample] = ()
    drift: Sequence[Sample] = ()
    config: TrainConfig = TrainConfig()
    start_dir: str = ""

    def save(self) -> Path:
        """Write ``<work_dir>/job.json`` and return its path."""
        path = Path(self.work_dir) / JOB_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._to_json(), encoding="utf-8")
        return path

    @property
    def checkpoints(self) -> Path:
        """Directory of this job's checkpoints: another job in the same ``work_dir`` has another."""
        digest = hashlib.blake2b(self._to_json().encode(), digest_size=8).hexdigest()
        return Path(self.work_dir) / f"checkpoints-{digest}"

    def _to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainingJob:
        """Read what ``save`` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        for name in ("labels", "questions", "trials", "drift"):
            data[name] = [Sample(**sample) for sample in data[name]]
        return cls(**{**data, "config": TrainConfig(**data["config"])})


@dataclass(frozen=True, slots=True)
class Draft:
    """A greedy answer and its tokens' natural-log probabilities (the end token included); None: prompt too long."""

    text: str
    logprobs: Sequence[float]


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a round made: the candidate's directory and both models' answers to the trials, in their order.

    ``weights`` are the SHA-256 of the files with the weights that gave the candidate's answers, by name.
    """

    candidate_dir: str
    base: Sequence[Draft | None]
    candidate: Sequence[Draft | None]
    drift_nats: float
    figures: dict[str, float] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingOutcome:
        """Read what ``to_json`` wrote."""
        data = json.loads(text)
        for name in ("base", "candidate"):
            data[name] = [Draft(**draft) if draft else None for draft in data[name]]
        return cls(**data)


def run_job(job: TrainingJob, progress: Progress | None = None, peers: Peers | None = None) -> TrainingOutcome:
    """Train on ``job.labels``, save the candidate, and evaluate it beside the base model.

    A job whose process was killed goes on from its last checkpoint when it is run again.

    Args:
        peers: this worker, the first of several, where others ``take_part`` in the supervised steps.

    Raises:
        EngineError: the base model cannot be loaded, or nothing can be learnt from.
    """
    candidate = Path(job.work_dir) / CANDIDATE
    started = time.perf_counter()
    tell = progress or (lambda _: None)
    trainer, anchors, figures = _supervised(job, tell, peers)
    trainer.save(candidate)
    if job.config.preference_steps:
        from actors.preference_round import prefer  # noqa: PLC0415

        figures |= prefer(candidate, job, tell)
    if job.config.policy_steps:
        from actors.policy_round import improve  # noqa: PLC0415  (vLLM loads only where it samples)

        figures |= improve(candidate, job, anchors, tell)
    trained = time.perf_counter()
    outcome = evaluate(job, candidate)
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    figures |= {"train_s": trained - started, "evaluate_s": time.perf_counter() - trained}
    return replace(outcome, figures=figures)


def evaluate(job: TrainingJob, candidate: Path) -> TrainingOutcome:
    """What the model in ``candidate`` and its base answer to the held-out prompts, and how far apart they are.

    Raises:
        EngineError: one of them cannot be loaded.
    """
    from actors.evaluator import Evaluator  # noqa: PLC0415  (torch loads in the process that trains)

    before, after = (Evaluator(path, job.config) for path in (Path(job.base_dir), candidate))
    drafts = before.answer(job.trials), after.answer(job.trials)
    return TrainingOutcome(str(candidate), *drafts, after.drift(before, job.drift), weights=weight_digests(candidate))


def take_part(job: TrainingJob, peers: Peers) -> None:
    """What every worker but the first does: its share of the supervised steps.

    Raises:
        EngineError: as ``run_job``.
    """
    _supervised(job, lambda _: None, peers)


def _supervised(
    job: TrainingJob, tell: Progress, peers: Peers | None
) -> tuple[Trainer, list[Sample], dict[str, float]]:
    """The model after the supervised steps, what it was to keep, and the last figures."""
    from actors.augment import variants  # noqa: PLC0415
    from actors.data_parallel import ALONE  # noqa: PLC0415
    from actors.rehearsal import rehearsed  # noqa: PLC0415
    from actors.trainer import Trainer  # noqa: PLC0415

    config, start, together = job.config, Path(job.start_dir or job.base_dir), peers or ALONE
    with together.joined():
        anchors = together.told(lambda: rehearsed(start, job.questions, config) if _keeps(config) else [])
        trainer = Trainer(start, config, together)
        if not config.steps:
            return trainer, anchors, {}
        labels = variants(job.labels, _versions(config, job.labels, config.batch_size), config.seed)
        kept = variants(anchors, _versions(config, anchors, config.anchor_batch), config.seed)
        figures = trainer.fit(labels, kept, tell, job.checkpoints / "supervised.pt")
        return trainer, anchors, figures | {"kept": float(len(anchors))}


def _keeps(config: TrainConfig) -> bool:
    """Whether anything holds the model to its answers."""
    return bool(config.anchor_weight or (config.policy_steps and config.policy_forward))


def _versions(config: TrainConfig, samples: Sequence[Sample], batch: int) -> int:
    """Of each sample: as many as were asked for, and no more than the steps can draw."""
    return min(config.variants, max(1, math.ceil(config.steps * batch / max(len(samples), 1))))
