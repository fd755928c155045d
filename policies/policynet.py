"""PolicyNet: a small network from link, prices, queue and budget to tau, monotone by construction.

Every weight is non-negative and every activation rises, so tau rises with each input of ``funcdyn.StateInputs`` (these
are signed: it falls with RTT, jitter, loss, queue and every price). Units are of three kinds, so that the shape is not
restricted to convex ones: convex max(h, 0), concave min(h, 0), saturated clip(h, -1, 1) (Runje and Shankaranarayana
2023, "Constrained Monotonic Neural Networks"). All three are a clip between two bounds. Serving is numpy;
fitting is in ``soft_gate``, training with coupled decisions in ``cluster.train_policy``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from policies.checks import probability
from policies.funcdyn import INPUTS, ByState, StateInputs, sigmoid
from policies.score import FloatArray
from policies.types import CloudWork, RoutingState

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class PolicyNet(ByState):
    """tau = sigmoid(third . a(a(x first + first_bias) second + second_bias) + third_bias), never below ``floor``.

    Shapes, for a width of h: ``first`` [len(INPUTS), h], ``second`` [h, h], ``third`` [h], biases [h], [h], []. A link
    that is down gives ``floor``.

    Raises:
        ValueError: a weight is negative, a number is not finite, or a shape is not of these; names it.
    """

    inputs: StateInputs
    first: Matrix
    first_bias: tuple[float, ...]
    second: Matrix
    second_bias: tuple[float, ...]
    third: tuple[float, ...]
    third_bias: float
    floor: float = 0.0
    _layers: tuple[FloatArray, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        probability(floor=self.floor)
        h = len(self.third)
        shapes = {"first": (len(INPUTS), h), "first_bias": (h,), "second": (h, h), "second_bias": (h,), "third": (h,)}
        for name, shape in shapes.items():
            array = _array(name, getattr(self, name), shape)
            if "bias" not in name and (array < 0).any():
                raise ValueError(f"{name} must be >= 0: a negative weight breaks the monotone order")
        if not math.isfinite(self.third_bias):
            raise ValueError(f"third_bias must be finite, got {self.third_bias!r}")
        arrays = [np.array(getattr(self, name), dtype=np.float64) for name in shapes]
        object.__setattr__(self, "_layers", (*arrays, *bounds(h)))

    def threshold(self, state: RoutingState, work: CloudWork) -> float:  # noqa: ARG002
        """tau in [floor, 1]; the floor itself while the link is down.

        Raises:
            ValueError: a metric is negative or not finite; names it.
        """
        if not state.link.up:
            return self.floor
        first, first_bias, second, second_bias, third, low, high = self._layers
        h = np.dot(self.inputs.encode(state), first)
        h += first_bias
        np.minimum(np.maximum(h, low, out=h), high, out=h)  # np.clip takes five times as long on so few numbers
        h = np.dot(h, second)
        h += second_bias
        np.minimum(np.maximum(h, low, out=h), high, out=h)
        return max(self.floor, sigmoid(float(np.dot(h, third)) + self.third_bias))


def bounds(width: int) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of each unit's activation: a third of them convex, a third concave, the rest saturated."""
    kind = np.arange(width) % 3
    low = np.choose(kind, [0.0, -np.inf, -1.0])
    return low, np.choose(kind, [np.inf, 0.0, 1.0])


def _array(name: str, given: object, shape: tuple[int, ...]) -> FloatArray:
    try:
        array = np.array(given, dtype=np.float64)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers of shape {list(shape)}")
    return array
