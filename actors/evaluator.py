"""What a model answers, greedily and in batches, and how far it has drifted from another.

The weights are loaded in bfloat16, as they are served, so the log-probabilities are those the scorer will see.
Answers come from a loop of our own: prompts sorted by length, padded on the left, the key-value cache shared by the
batch. It is slower than a serving engine and needs none. Used by ``actors.training`` for the gate and for
recalibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from actors.samples import SampleEncoder, answer_logits, collate
from actors.trainer import device_of, load_model
from actors.training import Draft, Sample, TrainConfig
from policies.losses import forward_kl

T = TypeVar("T")

BATCH = 24  # prompts answered at once: 24 x 1,024 tokens of a 0.5M model's cache are 20 MB


class Evaluator:
    """One model, for answering and measuring.

    Raises:
        EngineError: the model cannot be loaded.
    """

    def __init__(self, directory: Path, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        self._config, self._device = config, device_of(config)
        self._encoder = SampleEncoder(directory, config.context)
        self._model = load_model(directory, self._device, torch.bfloat16)
        self._end = _end_tokens(self._model, self._encoder.tokenizer.eos_token_id)

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample]) -> list[Draft | None]:
        """Greedy answers in the order of ``samples``; None where a prompt leaves no room for one."""
        prompts = [self._encoder.prompt(sample, room=1) for sample in samples]
        order = sorted((i for i, prompt in enumerate(prompts) if prompt), key=lambda i: len(prompts[i] or ()))
        drafts: list[Draft | None] = [None] * len(samples)
        for chosen in _chunks(order, BATCH):
            for index, draft in zip(chosen, self._greedy([prompts[i] or [] for i in chosen]), strict=True):
                drafts[index] = draft
        return drafts

    @torch.inference_mode()
    def drift(self, prior: Evaluator, samples: Sequence[Sample]) -> float:
        """KL(prior || this model) in nats, mean over the answer tokens of ``samples``; 0 without samples."""
        total = tokens = 0.0
        for chosen in _chunks(sorted(self._encoder.encode_all(samples), key=lambda s: len(s.ids)), BATCH):
            batch = collate(chosen, self._device)
            logits = answer_logits(prior._model, batch), answer_logits(self._model, batch)
            count = len(batch.targets)
            total += forward_kl(*logits, torch.ones(count, device=self._device)).item() * count
            tokens += count
        return total / tokens if tokens else 0.0

    def _greedy(self, prompts: list[list[int]]) -> list[Draft]:
        width = max(map(len, prompts))
        steps = min(self._config.max_new_tokens, self._encoder.context - width) or 1
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        tokens, logprobs = self._loop(ids, mask, steps)
        return [self._draft(t, lp) for t, lp in zip(tokens.tolist(), logprobs.tolist(), strict=True)]

    def _loop(self, ids: Tensor, mask: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Greedy tokens and their log-probabilities, both [batch, at most ``steps``]."""
        cache: Any = None
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        tokens, logprobs = [], []
        for _ in range(steps):
            out = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = out.past_key_values
            best, token = out.logits[:, -1].float().log_softmax(-1).max(-1)
            tokens.append(token)
            logprobs.append(best)
            running &= ~torch.isin(token, self._end)
            if not running.any():
                break
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return torch.stack(tokens, 1), torch.stack(logprobs, 1)

    def _draft(self, tokens: list[int], logprobs: list[float]) -> Draft:
        ends = set(self._end.tolist())
        length = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
        text = self._encoder.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return Draft(str(text), logprobs[:length])


def _end_tokens(model: Any, eos: int | None) -> Tensor:
    """Tokens that end an answer: the generation configuration's and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return torch.tensor(sorted({t for t in [*listed, eos] if t is not None}), device=model.device)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
