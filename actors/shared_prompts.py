"""Forward passes over several answers to one prompt that read the prompt once.

A row holds a prompt and then its answers, one after the other. Each answer continues the prompt's positions and sees
the prompt and itself, not the other answers, so its log-probabilities are those of a row of its own. With 8 answers of
30 tokens to a prompt of 180 that is a quarter of the tokens. Models with windows or recurrence need a row an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from actors.samples import Encoded

ROW_TOKENS = 1024  # attention costs the square of a row's length: up to here less than what reading a prompt twice does

Row = Sequence[Encoded]
"""Answers to one prompt, at least one."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over padded rows.

    ``ids`` and ``positions`` [rows, width]; ``mask`` [rows, 1, width, width] is added to attention, None where no row
    has two answers and what comes later is simply not seen. ``rows`` and ``columns`` [n] are the places that predict
    ``targets`` [n], which count with ``weights`` [n].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor


def shares_prompts(model: Any) -> bool:
    """Whether every layer of ``model`` attends to all that its mask shows."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    if layers is None:
        return getattr(config, "sliding_window", None) is None
    return set(layers) == {"full_attention"}


def rows_of(answers: Sequence[Encoded], shared: bool) -> list[Row]:
    """Neighbours with the same prompt in rows of at most ``ROW_TOKENS`` (one answer at least), or each alone."""
    if not shared:
        return [[answer] for answer in answers]
    groups = groupby(answers, key=lambda answer: answer.ids[: answer.start])
    return [row for _, group in groups for row in _rows(group)]


def collate_rows(rows: Sequence[Row], device: str) -> Pass:
    """Tensors of some rows; every answer token counts with its answer's weight."""
    longest = max(map(width, rows))
    ids, positions, owner = torch.zeros(3, len(rows), longest, dtype=torch.long)
    owner -= 1  # padding belongs to nobody
    places: list[tuple[int, int, int, float]] = []
    for index, row in enumerate(rows):
        at = row[0].start
        ids[index, :at], positions[index, :at], owner[index, :at] = torch.tensor(row[0].ids[:at]), torch.arange(at), 0
        for number, answer in enumerate(row, 1):
            fed = len(answer.ids) - 1 - answer.start  # the last token predicts nothing
            here = slice(at, at + fed)
            ids[index, here] = torch.tensor(answer.ids[answer.start : -1])
            positions[index, here] = torch.arange(answer.start, answer.start + fed)
            owner[index, here] = number
            before = [answer.start - 1, *range(at, at + fed)]
            places += [(index, c, t, answer.weight) for c, t in zip(before, answer.ids[answer.start :], strict=True)]
            at += fed
    where, columns, targets, weights = zip(*places, strict=True)
    mask = _mask(owner).to(device) if max(map(len, rows)) > 1 else None
    predicted = (torch.tensor(where), torch.tensor(columns), torch.tensor(targets), torch.tensor(weights))
    return Pass(ids.to(device), positions.to(device), mask, *(tensor.to(device) for tensor in predicted))


def row_logits(model: Any, batch: Pass) -> Tensor:
    """Logits at the places that predict answer tokens, shape [n, vocabulary]."""
    decoder = model.get_decoder()
    hidden = decoder(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[batch.rows, batch.columns])  # type: ignore[no-any-return]


def _rows(answers: Iterator[Encoded]) -> Iterator[Row]:
    row: list[Encoded] = []
    for answer in answers:
        if row and width([*row, answer]) > ROW_TOKENS:
            yield row
            row = []
        row.append(answer)
    yield row


def width(row: Row) -> int:
    """Tokens that it feeds to the model."""
    return row[0].start + sum(len(answer.ids) - 1 - answer.start for answer in row)


def _mask(owner: Tensor) -> Tensor:
    """0 where a token may look and the least number elsewhere; padding sees itself, for a softmax needs something."""
    seen, looks = owner[:, None, None, :], owner[:, None, :, None]
    earlier = torch.ones(owner.shape[-1], owner.shape[-1], dtype=torch.bool).tril()
    allowed = earlier & ((seen == 0) | (seen == looks))
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
