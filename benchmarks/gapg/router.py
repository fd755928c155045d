"""The prompt-only router: P(the device solves x) from the puzzle alone, by the base transformer with a head.

As the paper's router it is trained after tuning, with binary cross-entropy, on whether the tuned model solves training
puzzles. A tenth of them is held out to choose the epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from actors.trainer import adamw, load_model
from policies.fitting import BoolArray
from policies.score import FloatArray

EPOCHS, PATIENCE, BATCH, LR = 10, 2, 128, 1e-3
_HELD = 10  # one label in ten chooses the epoch

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Routed:
    """P(device solves) by test prompt [n], and the share of held-out labels told right with the threshold 1/2."""

    solves: FloatArray
    held_accuracy: float
    epochs: int


class Router(nn.Module):
    """A decoder and a linear head on the prompt's last position."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        model: Any = load_model(base, "cpu", torch.float32)
        self.body, self.head = model.get_decoder(), nn.Linear(model.config.hidden_size, 1)

    def forward(self, prompts: Prompts) -> Tensor:
        """Logits of P(device solves), [n]."""
        width = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts])
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = self.head(hidden[torch.arange(len(prompts)), last])[:, 0]
        return logits


def route(base: Path, prompts: Prompts, solved: BoolArray, test: Prompts, seed: int) -> Routed:
    """Train on ``prompts`` with the labels ``solved`` [n], and score ``test``."""
    torch.manual_seed(seed)
    held = len(prompts) // _HELD
    router, labels = Router(base), torch.tensor(solved, dtype=torch.float32)
    optimizer, rng = adamw(router, LR, 0.01), np.random.default_rng(seed)
    best, kept, chosen = np.inf, router.state_dict(), 0
    for epoch in range(EPOCHS):
        for rows in _batches(rng.permutation(np.arange(held, len(prompts)))):
            optimizer.zero_grad(set_to_none=True)
            binary_cross_entropy_with_logits(router([prompts[i] for i in rows]), labels[rows]).backward()
            optimizer.step()
        loss = float(binary_cross_entropy_with_logits(_scores(router, prompts[:held]), labels[:held]))
        if loss < best:
            best, kept, chosen = loss, copy.deepcopy(router.state_dict()), epoch
        elif epoch - chosen >= PATIENCE:
            break
    router.load_state_dict(kept)
    told = (_scores(router, prompts[:held]) > 0) == (labels[:held] > 0)
    return Routed(_scores(router, test).sigmoid().numpy().astype(np.float64), float(told.float().mean()), chosen + 1)


@torch.no_grad()
def _scores(router: Router, prompts: Prompts) -> Tensor:
    return torch.cat([router([prompts[i] for i in rows]) for rows in _batches(np.arange(len(prompts)))])


def _batches(order: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Any]:
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]
