"""Supervised training on the cloud's answers, held to the model it started from.

``Trainer`` loads a Hugging Face causal decoder twice: frozen as the prior pi_SFT, and as the candidate with float32
master weights (products in bfloat16 on a GPU), or once, with an adapter (``actors.lora``). A step takes a few labelled
samples and a few anchors and minimises NLL(label) + beta_F * KL(pi_SFT || pi) (``policies.losses``), in as many passes
as its memory needs. A run that was killed goes on from its last checkpoint. No Ray, no log, no judgement: see
``actors.training``.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from actors.adapter_base import ADAPTER_CONFIG, BASE_FILE, base_of, whole
from actors.checkpoint import restore, save
from actors.data_parallel import ALONE, Peers
from actors.lora import Adapter, trained, uses_lora
from actors.samples import Encoded, SampleEncoder, answer_logits, collate, draw, length, passes, weight
from actors.training import Progress, Sample, TrainConfig
from actors.weights import read_tensors
from policies.errors import EngineError
from policies.losses import AnchoredLoss, forward_kl, token_nll

logger = logging.getLogger(__name__)

PACE_STEPS = 5  # from then on the pace is known well enough to plan with
REPORT_EVERY = 10  # steps between two calls of the progress hook
LIVE_ONLY = (
    "calibrator.json",
    "forecast.json",
    "scorer_*.json",
    "MANIFEST.json",
    ADAPTER_CONFIG,
    BASE_FILE,
)  # belong to the base version's own weights
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pth")


class Trainer:
    """One round on one model.

    Args:
        base_dir: the model to start from.
        config: hyper-parameters.
        peers: the workers that share each batch; joined while ``fit`` runs.

    Raises:
        EngineError: the model cannot be loaded; names the directory.
    """

    def __init__(self, base_dir: Path, config: TrainConfig, peers: Peers = ALONE) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._dir, self._config, self._peers = base_dir, config, peers
        self._device = device_of(config)
        self._encoder = SampleEncoder(base_dir, config.context)
        self._tuned = tuned(base_dir, self._device, config)
        self._model = self._tuned.model
        self._model.train()

    def fit(
        self, labels: Sequence[Sample], anchors: Sequence[Sample], progress: Progress, checkpoint: Path | None = None
    ) -> dict[str, float]:
        """Train; returns the last figures (``step``, ``loss``, ``nll``, ``kl``, ``samples``, ``anchors``, ``seconds``).

        Args:
            checkpoint: file to go on from, where it is there, and to write; a run that goes on ends as if never cut.

        Raises:
            EngineError: no label fits the context, the loss is no longer a number, or the checkpoint is damaged.
        """
        config, random = self._config, Random(self._config.seed)
        wanted, kept = self._encoder.encode_all(labels), self._encoder.encode_all(anchors)
        if not wanted:
            raise EngineError(f"{self._dir}: none of {len(labels)} samples fits a context of {config.context}")
        optimizer = adamw(self._model, config.lr, config.weight_decay)
        figures = {"step": 0.0, "steps": float(config.steps), "seconds": 0.0}
        figures |= {"samples": float(len(wanted)), "anchors": float(len(kept))}
        if checkpoint is not None:
            figures |= restore(checkpoint, self._model, [optimizer])
        step, steps, saved = int(figures["step"]), int(figures["steps"]), figures["seconds"]
        began = time.perf_counter() - saved
        batches = zip(draw(wanted, config.batch_size, random), draw(kept, self._anchors(), random), strict=False)
        for label, anchor in islice(batches, step, None):
            if step >= steps:
                break
            set_rate(optimizer, config.lr, config.warmup, step / steps)
            loss = self._step(label, anchor, optimizer)
            step, spent = step + 1, self._peers.agreed(time.perf_counter() - began)
            steps = self._affordable(step, steps, spent)
            figures |= _figures(step, steps, loss, spent)
            if step % REPORT_EVERY == 0 or step >= steps:
                progress(figures)
            if (
                checkpoint is not None
                and not self._peers.rank
                and (spent >= saved + config.checkpoint_s or step >= steps)
            ):
                save(checkpoint, self._model, [optimizer], figures)
                saved = spent
        return figures

    def save(self, directory: Path) -> None:
        """Write the candidate (bfloat16 weights, or an adapter) beside the base's tokenizer and configuration."""
        copy_rest(self._dir, directory)
        self._tuned.save(directory)

    def _anchors(self) -> int:
        return self._config.anchor_batch if self._config.anchor_weight else 0

    def _step(self, label: list[Encoded], anchor: list[Encoded], optimizer: torch.optim.Optimizer) -> AnchoredLoss:
        optimizer.zero_grad(set_to_none=True)
        nll = self._learn(self._peers.share(label), weight(label))
        kl = self._stay(self._peers.share(anchor), weight(anchor))
        own = AnchoredLoss(nll + self._config.anchor_weight * kl, nll, kl)
        loss = self._peers.add_up(self._model, own)
        if not torch.isfinite(loss.total):  # after the sum: all workers see it, and none waits for one that gave up
            raise EngineError(f"{self._dir}: training diverged, the loss is {loss.total.item()}; lower learner.lr")
        torch.nn.utils.clip_grad_norm_(trained(self._model), self._config.clip)
        optimizer.step()
        return loss

    def _learn(self, rows: list[Encoded], whole: float) -> Tensor:
        """Add up the gradients of the likelihood of some labels; their part of a batch that weighs ``whole``."""
        total = torch.zeros((), device=self._device)
        for part in passes(rows, length, self._config.batch_tokens):
            batch = collate(part, self._device)
            with self._precision():
                logits = answer_logits(self._model, batch)
            nll = token_nll(logits, batch.targets, batch.weights) * (weight(part) / whole)
            nll.backward()
            total += nll.detach()
        return total

    def _stay(self, rows: list[Encoded], whole: float) -> Tensor:
        """The same for beta_F * KL(pi_SFT || pi) along some anchors; their part of the KL itself."""
        total = torch.zeros((), device=self._device)
        for part in passes(rows, length, self._config.batch_tokens):
            batch = collate(part, self._device)
            with self._precision():
                with torch.no_grad(), self._tuned.prior() as model:
                    prior = answer_logits(model, batch)
                logits = answer_logits(self._model, batch)
            kl = forward_kl(prior, logits, batch.weights) * (weight(part) / whole)
            (self._config.anchor_weight * kl).backward()
            total += kl.detach()
        return total

    def _precision(self) -> torch.autocast:
        # On CPU the casts of a small model's weights cost more than bfloat16 saves (twice the time at 0.6M parameters).
        return torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda")

    def _affordable(self, step: int, steps: int, spent: float) -> int:
        """Fewer steps when the pace so far would break the time limit, so that the rate still decays to 0."""
        if step < PACE_STEPS and spent < self._config.time_limit_s:
            return steps
        affordable = max(step, int(step * self._config.time_limit_s / spent))
        if affordable < steps:
            logger.warning("%s: %d of %d steps fit in the time limit", self._dir, affordable, self._config.steps)
        return min(steps, affordable)


class AllWeights:
    """All weights of a model under training, and a second, frozen copy of it as the prior."""

    def __init__(self, base_dir: Path, device: str) -> None:
        self._frozen = load_model(base_dir, device, torch.float32)
        self.model = load_model(base_dir, device, torch.float32)

    @contextmanager
    def prior(self) -> Iterator[Any]:
        """The model as it was before the round."""
        yield self._frozen

    def save(self, directory: Path) -> None:
        """Write bfloat16 safetensors."""
        self.model.to(torch.bfloat16).save_pretrained(directory)


def tuned(base_dir: Path, device: str, config: TrainConfig) -> AllWeights | Adapter:
    """What a round trains: all weights of the model in ``base_dir``, or an adapter of it."""
    if not uses_lora(base_dir, config):
        return AllWeights(base_dir, device)
    # A frozen base has no small steps to lose; on CPU its products are slower in bfloat16.
    frozen = torch.bfloat16 if device == "cuda" else torch.float32
    return Adapter(load_model(whole(base_dir), device, frozen), base_dir, config.lora_rank)


def load_model(directory: Path, device: str, dtype: torch.dtype) -> Any:
    """A causal decoder of transformers in ``dtype`` on ``device``, in evaluation mode.

    Raises:
        EngineError: it cannot be loaded; names the directory and why.
    """
    disable_progress_bar()  # it would write between the lines of whoever trains
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(whole(directory), dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as why:
        raise EngineError(f"model directory {directory}: cannot be loaded for training: {why}") from why
    if base_of(directory):
        model.load_state_dict(dict(read_tensors(directory)), strict=False)
    return model.to(device)


def save_model(model: Any, base_dir: Path, directory: Path) -> None:
    """Write ``model`` as bfloat16 safetensors into ``directory``, with the tokenizer and configuration of its base."""
    copy_rest(base_dir, directory)
    model.to(torch.bfloat16).save_pretrained(directory)


def copy_rest(base_dir: Path, directory: Path) -> None:
    """Copy what belongs to the model in ``base_dir`` but not to its weights: configuration, tokenizer, templates."""
    if directory != base_dir:
        ignored = shutil.ignore_patterns(*LIVE_ONLY, *WEIGHTS, ".*")
        shutil.copytree(base_dir, directory, dirs_exist_ok=True, ignore=ignored)


def device_of(config: TrainConfig) -> str:
    """The torch device type ``auto`` stands for."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def adamw(model: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over what learns in ``model``; norms and biases do not decay."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained(model) if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained(model) if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, warmup: float, done: float) -> None:
    """Warm-up over the share ``warmup``, then linear to 0, by the share of the run that is done."""
    rate = peak * min((done + 1e-3) / max(warmup, 1e-3), (1.0 - done) / (1.0 - warmup), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate


def _figures(step: int, steps: int, loss: AnchoredLoss, seconds: float) -> dict[str, float]:
    values = {"loss": loss.total.item(), "nll": loss.nll.item(), "kl": loss.kl.item()}
    return {"step": float(step), "steps": float(steps), **values, "seconds": seconds}
