"""Supervised training on the cloud's answers, held to the model it started from.

``Trainer`` loads a Hugging Face causal decoder twice: frozen as the prior pi_SFT, and as the candidate with float32
master weights (products in bfloat16 on a GPU), or once, with an adapter (``actors.lora``). A step takes a few labelled
samples and a few anchors and minimises ``policies.losses.anchored_loss``; only answer tokens and the end token count,
and only their logits are computed. No Ray, no log, no judgement: see ``actors.training``.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from actors.adapter_base import ADAPTER_CONFIG, BASE_FILE, base_of, whole
from actors.data_parallel import ALONE, Peers, part_of
from actors.engine import Prompt
from actors.lora import Adapter, trained, uses_lora
from actors.rendering import Renderer
from actors.training import Progress, Sample, TrainConfig
from actors.weights import read_tensors
from policies.errors import BadRequest, EngineError
from policies.losses import Anchor, AnchoredLoss, anchored_loss

logger = logging.getLogger(__name__)

POOL = 4  # batches whose samples are sorted by length together: less padding, still random
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


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as tokens: the loss is on ``ids[start:]``, each weighing ``weight``."""

    ids: list[int]
    start: int
    weight: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one step; rows are padded on the right, where a causal model cannot look.

    ``rows`` and ``columns`` [n] are the positions that predict ``targets`` [n], which count with ``weights`` [n].
    """

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor


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
        self._random = random.Random(config.seed)
        self._device = device_of(config)
        self._encoder = SampleEncoder(base_dir, config.context)
        self._tuned = tuned(base_dir, self._device, config)
        self._model = self._tuned.model
        self._model.train()

    def fit(self, labels: Sequence[Sample], anchors: Sequence[Sample], progress: Progress) -> dict[str, float]:
        """Train; returns the last figures (``step``, ``loss``, ``nll``, ``kl``, ``samples``, ``anchors``, ``seconds``).

        Raises:
            EngineError: no label fits the context, or the loss is no longer a number.
        """
        wanted, kept = self._encoder.encode_all(labels), self._encoder.encode_all(anchors)
        if not wanted:
            raise EngineError(f"{self._dir}: none of {len(labels)} samples fits a context of {self._config.context}")
        optimizer = adamw(self._model, self._config.lr, self._config.weight_decay)
        batches = zip(self._draw(wanted, self._config.batch_size), self._draw(kept, self._anchors()), strict=False)
        started, figures = time.perf_counter(), {"samples": float(len(wanted)), "anchors": float(len(kept))}
        step, steps = 0, self._config.steps
        for label, anchor in batches:
            set_rate(optimizer, self._config.lr, self._config.warmup, step / steps)
            loss = self._step(label, anchor, optimizer)
            step, spent = step + 1, self._peers.agreed(time.perf_counter() - started)
            steps = self._affordable(step, steps, spent)
            if step % REPORT_EVERY == 0 or step >= steps:
                figures |= _figures(step, steps, loss, spent)
                progress(figures)
            if step >= steps:
                break
        return figures

    def save(self, directory: Path) -> None:
        """Write the candidate (bfloat16 weights, or an adapter) beside the base's tokenizer and configuration."""
        copy_rest(self._dir, directory)
        self._tuned.save(directory)

    def _anchors(self) -> int:
        return self._config.anchor_batch if self._config.anchor_weight else 0

    def _draw(self, samples: list[Encoded], size: int) -> Iterator[list[Encoded]]:
        """Batches of ``size`` without end, of samples of similar length; every sample once before any comes twice."""
        queue: list[Encoded] = []
        while True:
            while samples and len(queue) < size * POOL:
                queue += self._random.sample(samples, len(samples))
            pool, queue = sorted(queue[: size * POOL], key=lambda s: len(s.ids)), queue[size * POOL :]
            batches = [pool[start : start + size] for start in range(0, max(size * POOL, 1), max(size, 1))]
            yield from self._random.sample(batches, len(batches))

    def _step(self, label: list[Encoded], anchor: list[Encoded], optimizer: torch.optim.Optimizer) -> AnchoredLoss:
        rows, kept = self._peers.share(label), self._peers.share(anchor)
        batch = collate(rows, self._device)
        # On CPU the casts of a small model's weights cost more than bfloat16 saves (twice the time at 0.6M parameters).
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            anchored = self._prior(kept)  # first: an adapter is switched off for it
            logits = answer_logits(self._model, batch)
            stay = self._stay(anchored, logits)
        loss = anchored_loss(logits, batch.targets, batch.weights, stay, self._config.anchor_weight)
        shares = _weight(rows) / _weight(label), _weight(kept) / (_weight(anchor) or 1.0)
        part = part_of(loss, *shares, self._config.anchor_weight)
        optimizer.zero_grad(set_to_none=True)
        part.total.backward()
        loss = self._peers.add_up(self._model, part)
        if not torch.isfinite(loss.total):  # after the sum: all workers see it, and none waits for one that gave up
            raise EngineError(f"{self._dir}: training diverged, the loss is {loss.total.item()}; lower learner.lr")
        torch.nn.utils.clip_grad_norm_(trained(self._model), self._config.clip)
        optimizer.step()
        return loss

    def _prior(self, anchor: list[Encoded]) -> tuple[Batch, Tensor] | None:
        """The anchor samples, and what the model said along them before the round."""
        if not anchor:
            return None
        batch = collate(anchor, self._device)
        with torch.no_grad(), self._tuned.prior() as model:
            return batch, answer_logits(model, batch)

    def _stay(self, anchored: tuple[Batch, Tensor] | None, like: Tensor) -> Anchor:
        """What both models say along the anchor samples."""
        if anchored is None:
            none = like.new_empty(0, like.shape[-1])
            return Anchor(none, none, none.new_empty(0))
        batch, prior = anchored
        return Anchor(prior, answer_logits(self._model, batch), batch.weights)

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


class SampleEncoder:
    """Samples to tokens with the prompt the engines read; what cannot be rendered or is too long is left out."""

    def __init__(self, directory: Path, context: int) -> None:
        self._renderer = Renderer(directory, None)
        self._renderer.context = self.context = min(self._renderer.context, context)
        self.tokenizer = self._renderer.tokenizer

    def prompt(self, sample: Sample, room: int) -> list[int] | None:
        """Prompt tokens that leave ``room`` for the answer, or None."""
        try:
            return self._renderer.render(Prompt(sample.messages, sample.tools), room)
        except BadRequest as why:
            logger.info("a sample is left out: %s", why)
            return None

    def encode_all(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Prompt, answer and end token of every sample that fits."""
        encoded = []
        for sample in samples:
            answer = self.tokenizer(sample.answer, add_special_tokens=False).input_ids
            answer = [*answer, self.tokenizer.eos_token_id]
            prompt = self.prompt(sample, len(answer))
            if prompt is not None:
                encoded.append(Encoded(prompt + answer, len(prompt), sample.weight))
        return encoded


def answer_logits(model: Any, batch: Batch) -> Tensor:
    """Logits at the positions that predict answer tokens, shape [n, vocabulary]."""
    hidden = model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
    return model.get_output_embeddings()(hidden[batch.rows, batch.columns])  # type: ignore[no-any-return]


def collate(samples: Sequence[Encoded], device: str) -> Batch:
    """Tensors of some samples; every answer token counts with its sample's weight."""
    width = max(len(s.ids) for s in samples)
    ids = torch.tensor([s.ids + [0] * (width - len(s.ids)) for s in samples])
    places = [(row, at) for row, s in enumerate(samples) for at in range(s.start, len(s.ids))]
    weights = torch.tensor([samples[row].weight for row, _ in places])
    rows, at = torch.tensor(places).T
    tensors = (ids, rows, at - 1, ids[rows, at], weights)
    return Batch(*(tensor.to(device) for tensor in tensors))


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


def _weight(samples: Sequence[Encoded]) -> float:
    return sum(sample.weight * (len(sample.ids) - sample.start) for sample in samples)


def _figures(step: int, steps: int, loss: AnchoredLoss, seconds: float) -> dict[str, float]:
    values = {"loss": loss.total.item(), "nll": loss.nll.item(), "kl": loss.kl.item()}
    return {"step": float(step), "steps": float(steps), **values, "seconds": seconds}
