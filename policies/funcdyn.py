"""FuncDyn: tau as a parametric function of the network, monotone by sign; and the inputs fitted thresholds share.

``StateInputs`` turns a ``RoutingState`` into numbers in [0, 1], each oriented so that tau may only rise with it, and
remembers the range it was fitted on: a state outside is clamped to it, and ``outside`` says so. ``FuncDyn`` is linear
in them under a sigmoid; ``policynet`` puts a network on them. Both give tau per state, whatever the request. Fitting
is in ``soft_gate``. Our own formulation, consistent with the abstract of arXiv 2511.22217.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.checks import MOST, probability
from policies.cost import DEAD_BPS, GB, MTOK
from policies.score import FloatArray
from policies.types import CloudWork, Prices, RoutingState

_PRICES = tuple(f"prices.{price.name}" for price in fields(Prices))
INPUTS = (
    *("link.up_bps", "link.down_bps", "link.rtt_ms", "link.jitter_ms", "link.loss"),
    *_PRICES,
    *("queue_s", "budget_left"),
)
"""What of a ``RoutingState`` is looked at, in this order; prices as the record ``Prices`` lists them."""

BANDWIDTHS = ("link.up_bps", "link.down_bps")
SHARES = ("link.loss", "budget_left")
RISING = tuple(name in (*BANDWIDTHS, "budget_left") for name in INPUTS)
"""Which inputs tau rises with; it falls with the others."""

ANY_WORK = CloudWork(0, 0, 0, 0)  # for thresholds that do not look at the request

B0_BPS = 1e5  # below it the transfer dominates a tool call's latency, well above it more bandwidth is worth little

GREATEST = {name: 1.0 if name in SHARES else 1e15 if name in BANDWIDTHS else MOST for name in INPUTS}
"""What no link, price list or queue exceeds: a figure beyond is a mistake, and nothing is fitted on it."""

_DEAD = math.log1p(B0_BPS / DEAD_BPS)
_read = attrgetter(*INPUTS)
_LOGARITHMIC = tuple(INPUTS.index(name) for name in BANDWIDTHS)


@dataclass(frozen=True, slots=True)
class StateInputs:
    """The range a threshold was fitted on, and how its inputs are scaled; every tuple is in the order of ``INPUTS``.

    Args:
        low, high: the least and greatest value fitted on, in the state's own units.
        gain: factor of the clamped value's distance from its worst end (of -log1p(B0/B) for bandwidths, which
            saturates as transfer times do); 0 for an input that never varied.

    Raises:
        ValueError: a tuple has another length, a number is not finite or negative, or a low exceeds its high.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    gain: tuple[float, ...]
    _lines: tuple[tuple[float, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("low", "high", "gain"):
            values = getattr(self, name)
            if len(values) != len(INPUTS) or not all(0.0 <= value < math.inf for value in values):
                raise ValueError(f"inputs.{name} must be {len(INPUTS)} finite numbers >= 0, got {values}")
        for name, low, high in zip(INPUTS, self.low, self.high, strict=True):
            if low > high:
                raise ValueError(f"inputs.low of {name} must be <= its high, got {low} > {high}")
        object.__setattr__(self, "_lines", tuple(map(_line, INPUTS, self.low, self.high, self.gain)))

    @classmethod
    def of(cls, states: Sequence[RoutingState], work: CloudWork) -> Self:
        """Fit the range to ``states``; prices are scaled together, by what they make of the typical request ``work``.

        Raises:
            ValueError: there is no state, or ``values`` refuses one.
        """
        if not states:
            raise ValueError("states must hold at least one state")
        columns = list(zip(*map(values, states), strict=True))
        low, high = tuple(map(min, columns)), tuple(map(max, columns))
        spans = [_phi(name, b) - _phi(name, a) for name, a, b in zip(INPUTS, low, high, strict=True)]
        paid = dict(zip(_PRICES, _paid(work), strict=True))
        dollars = sum(paid[name] * span for name, span in zip(INPUTS, spans, strict=True) if name in paid)
        shares = [
            (paid[name], dollars) if name in paid else (1.0, span) for name, span in zip(INPUTS, spans, strict=True)
        ]
        gain = [
            part / whole if span > 0 and whole > 0 else 0.0 for (part, whole), span in zip(shares, spans, strict=True)
        ]
        return cls(low, high, tuple(gain))

    def encode(self, state: RoutingState) -> list[float]:
        """Inputs in [0, 1], one for each of ``INPUTS``; tau rises with every one of them.

        Raises:
            ValueError: a metric is negative or not finite, or a share above 1; names it.
        """
        raw = list(_read(state))
        for i in _LOGARITHMIC:
            raw[i] = _bandwidth(raw[i]) if 0.0 <= raw[i] < math.inf else math.nan
        x = []
        for value, (most, low, high, slope, start) in zip(raw, self._lines, strict=True):
            if not 0.0 <= value <= most:
                values(state)  # raises, with the name
            x.append(slope * (low if value < low else high if value > high else value) + start)
        return x

    def outside(self, state: RoutingState) -> list[str]:
        """The inputs whose value lies outside the range fitted on, and is clamped to it; a NaN always does."""
        ranges = zip(INPUTS, _read(state), self.low, self.high, strict=True)
        return [name for name, value, low, high in ranges if not low <= value <= high]


def values(state: RoutingState) -> tuple[float, ...]:
    """The raw values of ``INPUTS``, which a threshold may be fitted on.

    Raises:
        ValueError: one does not lie between 0 and its ``GREATEST``; names it.
    """
    raw: tuple[float, ...] = _read(state)
    for name, value in zip(INPUTS, raw, strict=True):
        if not 0.0 <= value <= GREATEST[name]:
            raise ValueError(f"{name} must lie in [0, {GREATEST[name]:g}], got {value!r}")
    return raw


class ByState(ABC):
    """What thresholds share that look at the state alone, never at the request."""

    __slots__ = ()
    inputs: StateInputs

    @abstractmethod
    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        """tau in [0, 1]."""

    def thresholds(
        self,
        states: Sequence[RoutingState],
        state: npt.NDArray[np.int64],
        amounts: FloatArray,  # noqa: ARG002
    ) -> FloatArray:
        """tau of many requests, [n]: ``state`` [n] indexes ``states``, each of which is asked once."""
        return np.array([self.threshold(one, ANY_WORK) for one in states], dtype=np.float64)[state]

    def outside(self, state: RoutingState) -> list[str]:
        """The inputs that are clamped to the range fitted on."""
        return self.inputs.outside(state)


@dataclass(frozen=True, slots=True)
class FuncDyn(ByState):
    """tau = clip(bias + weights . inputs, tau_min, tau_max), weights >= 0, never below ``floor``.

    ``weights`` has shape [len(INPUTS)]. A link that is down gives ``floor``. A clipped line and no sigmoid: so is the
    optimal threshold over the price of the cloud, and a sigmoid that is steep enough for its slope never reaches 0.

    Raises:
        ValueError: a weight is negative or not finite, or tau_min <= tau_max does not hold within [0, 1].
    """

    inputs: StateInputs
    weights: tuple[float, ...]
    bias: float
    tau_min: float = 0.0
    tau_max: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        probability(floor=self.floor, tau_min=self.tau_min, tau_max=self.tau_max)
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min must be <= tau_max, got {self.tau_min} > {self.tau_max}")
        if len(self.weights) != len(INPUTS) or not all(0.0 <= w < math.inf for w in self.weights):
            raise ValueError(f"weights must be {len(INPUTS)} finite numbers >= 0, got {self.weights}")
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be finite, got {self.bias!r}")

    def threshold(self, state: RoutingState, work: CloudWork) -> float:  # noqa: ARG002
        """tau in [floor, 1]; the floor itself while the link is down.

        Raises:
            ValueError: a metric is negative or not finite; names it.
        """
        if not state.link.up:
            return self.floor
        u = self.bias
        for weight, x in zip(self.weights, self.inputs.encode(state), strict=True):
            u += weight * x
        return max(self.floor, min(max(u, self.tau_min), self.tau_max))


def sigmoid(u: float) -> float:
    """1 / (1 + e^-u), for any finite u."""
    return 0.5 * (1.0 + math.tanh(0.5 * u))


def _phi(name: str, value: float) -> float:
    return _bandwidth(value) if name in BANDWIDTHS else value


def _bandwidth(bps: float) -> float:
    """-log1p(B0/B), from 0 for a dead link."""
    return _DEAD - math.log1p(B0_BPS / max(bps, DEAD_BPS))


def _line(name: str, low: float, high: float, gain: float) -> tuple[float, ...]:
    """What ``encode`` needs of one input: most allowed, clamped to low and high, then slope and intercept.

    While serving, a number beyond any that can be fitted on is clamped like all others.
    """
    low, high = _phi(name, low), _phi(name, high)
    rising = RISING[INPUTS.index(name)]
    slope, worst = (gain, low) if rising else (-gain, high)
    return 1.0 if name in SHARES else sys.float_info.max, low, high, slope, -slope * worst


def _paid(work: CloudWork) -> tuple[float, ...]:
    """Dollars of one request per unit of each price, in the order of ``Prices``."""
    fresh = work.input_tokens - work.cached_tokens
    transfer = (work.up_bytes + work.down_bytes) / GB
    return 1.0, fresh / MTOK, work.cached_tokens / MTOK, work.output_tokens / MTOK, transfer
