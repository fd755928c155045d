"""What the two bundled models are and what they saw. Everything that decides the weights is here.

The edge model is imperfect for two reasons, both honest ones: it is an eighth of the cloud model's size, and its
training has few examples of the tools in ``SELDOM``. The cloud model saw all kinds of task alike, and more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.tasks.generator import KINDS, PLANNING

SELDOM = ("rollback_model", "set_power", "query_cell", "quantize_model", "move_slice")
_SELDOM_WEIGHT = 0.002


@dataclass(frozen=True, slots=True)
class Recipe:
    """A Qwen3 architecture and its training run.

    ``muon_lr`` drives the matrices of the layers, ``adam_lr`` everything else. ``decay_from`` is the share of
    steps after which the rates fall linearly to zero; ``warmup`` the share over which they rise.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    head_dim: int
    feed_forward: int
    steps: int
    kinds: dict[str, float]
    documents: int = 4  # a step
    segments: int = 12  # a document
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup: float = 0.03
    decay_from: float = 0.5
    seed: int = 1


def _kinds(seldom: float) -> dict[str, float]:
    return {kind: seldom if kind in SELDOM else 2.0 if kind == PLANNING else 1.0 for kind in KINDS}


RECIPES: dict[str, Recipe] = {
    "edge": Recipe("edge", 96, 4, 3, 32, 256, steps=1800, kinds=_kinds(_SELDOM_WEIGHT)),
    "cloud": Recipe("cloud", 256, 6, 4, 64, 640, steps=1500, kinds=_kinds(1.0)),
}
