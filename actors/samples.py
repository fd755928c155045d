"""Samples as tokens, and batches of them: what every kind of training and the gate's measurements read.

Prompts are those the engines read. Rows are padded on the right, where a causal model cannot look; only the positions
that predict answer tokens and the end token have logits computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor

from actors.engine import Prompt
from actors.rendering import Renderer
from actors.training import Sample
from policies.errors import BadRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

POOL = 4  # batches whose samples are sorted by length together: less padding, still random


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


def passes(rows: Sequence[T], width: Callable[[T], int], batch_tokens: int) -> Iterator[list[T]]:
    """Rows of similar ``width`` together, at most ``batch_tokens`` with their padding (one row at least)."""
    part: list[T] = []
    for row in sorted(rows, key=width):
        if part and width(row) * (len(part) + 1) > batch_tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def draw(samples: Sequence[Encoded], size: int, random: Random) -> Iterator[list[Encoded]]:
    """Batches of ``size`` without end, of samples of similar length; every sample once before any comes twice."""
    queue: list[Encoded] = []
    while True:
        while samples and len(queue) < size * POOL:
            queue += random.sample(samples, len(samples))
        pool, queue = sorted(queue[: size * POOL], key=length), queue[size * POOL :]
        batches = [pool[start : start + size] for start in range(0, max(size * POOL, 1), max(size, 1))]
        yield from random.sample(batches, len(batches))


def length(sample: Encoded) -> int:
    """Of prompt and answer, in tokens."""
    return len(sample.ids)


def weight(samples: Sequence[Encoded]) -> float:
    """Of all their answer tokens."""
    return sum(sample.weight * (len(sample.ids) - sample.start) for sample in samples)
