"""Training batches: many requests behind one tool list, each seeing the list and itself alone.

A document is a rendered tool list (the prefix) and several requests with their answers (the segments). Every
segment attends to the prefix and to itself, at the positions it would have if it stood alone behind the prefix, so
training sees exactly what serving sees while the prefix is computed once. Tokens of all documents lie flat, without
padding, except inside attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from orchestrator.tasks.generator import Task

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A request and its answer as tokens; the loss is on ``ids[answer:]``."""

    ids: Ids
    answer: int


@dataclass(frozen=True, slots=True)
class Document:
    """A tool list and the segments behind it."""

    prefix: Ids
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of similar length, padded to one width for attention.

    Attributes:
        start, stop: their range in the flat tokens.
        slots: [stop - start] where each token sits in the padded [rows, width].
        owner: [rows] index of the document each segment belongs to.
        mask: [rows, 1, width, prefix_width + width], True where attention is allowed.
    """

    start: int
    stop: int
    width: int
    slots: torch.Tensor
    owner: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents as tensors. T tokens lie flat: all prefixes, then all segments by length.

    Attributes:
        ids: [T] token ids.
        positions: [T] rotary positions.
        documents: number of prefixes.
        prefix_slots: where a prefix token sits in the padded [documents, prefix_width].
        predict: [A] flat positions whose next token is part of an answer.
        targets: [A] those next tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    documents: int
    prefix_width: int
    prefix_slots: torch.Tensor
    buckets: tuple[Bucket, ...]
    predict: torch.Tensor
    targets: torch.Tensor


class Encoder:
    """Tasks to documents, rendered by the tokenizer's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def document(self, group: Sequence[Task]) -> Document:
        """One document of tasks that share their tools."""
        texts = [self._render(task.messages, ()) for task in group]
        prefix = self._render(group[0].messages, group[0].tools).removesuffix(texts[0])
        answers = [task.text + str(self._tokenizer.eos_token) for task in group]
        encoded = self._ids([prefix, *texts, *answers])
        requests, replies = encoded[1 : 1 + len(group)], encoded[1 + len(group) :]
        pairs = zip(requests, replies, strict=True)
        return Document(encoded[0], tuple(Segment(ask + reply, len(ask)) for ask, reply in pairs))

    def _render(self, messages: Sequence[Any], tools: Sequence[Any]) -> str:
        text = self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    def _ids(self, texts: list[str]) -> list[Ids]:
        return [list(ids) for ids in self._tokenizer(texts, add_special_tokens=False).input_ids]


_BUCKETS = 4  # with 48 segments a batch, padding inside attention falls from half of it to a tenth


def pack(documents: Sequence[Document], device: str = "cpu") -> Batch:
    """Lay documents out flat."""
    lengths = [len(d.prefix) for d in documents]
    width = max(lengths)
    segments = sorted(((n, s) for n, d in enumerate(documents) for s in d.segments), key=lambda pair: len(pair[1].ids))
    predict: Ids = []
    targets: Ids = []
    start = sum(lengths)
    for _, s in segments:
        predict.extend(range(start + s.answer - 1, start + len(s.ids) - 1))
        targets.extend(s.ids[s.answer :])
        start += len(s.ids)
    positions = [p for length in lengths for p in range(length)]
    positions += [lengths[n] + p for n, s in segments for p in range(len(s.ids))]
    return Batch(
        ids=torch.tensor([i for d in documents for i in d.prefix] + [i for _, s in segments for i in s.ids]).to(device),
        positions=torch.tensor(positions).to(device),
        documents=len(documents),
        prefix_width=width,
        prefix_slots=_slots(lengths, width).to(device),
        buckets=tuple(_buckets(segments, lengths, width, device)),
        predict=torch.tensor(predict).to(device),
        targets=torch.tensor(targets).to(device),
    )


def _buckets(
    segments: Sequence[tuple[int, Segment]], prefixes: Sequence[int], prefix_width: int, device: str
) -> Iterator[Bucket]:
    start, size = sum(prefixes), max(1, math.ceil(len(segments) / _BUCKETS))
    for first in range(0, len(segments), size):
        rows = segments[first : first + size]
        lengths = [len(s.ids) for _, s in rows]
        width, stop = max(lengths), start + sum(lengths)
        mask = _mask([prefixes[n] for n, _ in rows], prefix_width, width)
        owner = torch.tensor([n for n, _ in rows])
        yield Bucket(start, stop, width, _slots(lengths, width).to(device), owner.to(device), mask.to(device))
        start = stop


def _slots(lengths: Sequence[int], width: int) -> torch.Tensor:
    return torch.tensor([row * width + p for row, length in enumerate(lengths) for p in range(length)])


def _mask(prefixes: Sequence[int], prefix_width: int, width: int) -> torch.Tensor:
    seen = torch.arange(prefix_width)[None, :] < torch.tensor(prefixes)[:, None]
    before = seen[:, None, None, :].expand(-1, 1, width, -1)
    within = torch.ones(width, width, dtype=torch.bool).tril().expand(len(prefixes), 1, -1, -1)
    return torch.cat([before, within], dim=-1)
