"""How good a draft must be to stay at the edge: tau as a function of link, prices and work.

``OptimalThreshold`` is the closed form for a calibrated score (DESIGN section 5; our own formulation, consistent with
the abstract of arXiv 2511.22217); ``FixedThreshold`` is the baseline that ignores the network; ``FuncDyn`` and
``PolicyNet`` were fitted on data and come out of a file (``policy_file``). A draft is kept when its score >= tau.
Choosing by name: ``build_threshold``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from policies.checks import nonnegative, probability
from policies.cost import kappa
from policies.errors import BadConfig
from policies.funcdyn import FuncDyn
from policies.gain import GainCurve
from policies.policynet import PolicyNet
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, Objective, RoutingState

Fitted = TypeVar("Fitted", FuncDyn, PolicyNet, "OptimalThreshold")


class ThresholdPolicy(Protocol):
    """tau in [0, 1] for one request."""

    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        """The least score that may be answered from the edge."""
        ...


@dataclass(frozen=True, slots=True)
class FixedThreshold:
    """The same tau whatever the network: 0 is edge-only, 1 is cloud-only."""

    value: float

    def __post_init__(self) -> None:
        probability(value=self.value)

    def threshold(self, state: RoutingState, work: CloudWork) -> float:  # noqa: ARG002
        """``value``, always."""
        return self.value


@dataclass(frozen=True, slots=True)
class OptimalThreshold:
    """tau* = clip(m_c - (C_c + lambda * L_c) / V, floor, 1); with a ``curve``, where that meets the price.

    Rises with bandwidth, falls with RTT and every price. ``floor`` is what is still asked of a draft when the
    cloud is not worth its price or the link is down; 0 asks nothing but validity. ``curve`` was fitted on requests with
    both answers and takes the place of the line m_c - s, which holds when the cloud is right whatever the score.
    """

    objective: Objective
    speed: CloudSpeed
    floor: float = 0.0
    curve: GainCurve | None = None

    def __post_init__(self) -> None:
        nonnegative(value_usd=self.objective.value_usd, second_usd=self.objective.second_usd)
        probability(floor=self.floor, cloud_accuracy=self.objective.cloud_accuracy)
        if self.objective.value_usd == 0:
            raise ValueError("value_usd must be > 0: an answer worth nothing has no best route")

    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        """tau* in [floor, 1]; the floor itself while the link is down."""
        if not state.link.up:
            return self.floor
        price = kappa(work, state, self.speed, self.objective) / self.objective.value_usd
        tau = self.curve.tau(price) if self.curve else self.objective.cloud_accuracy - price
        return min(max(tau, self.floor), 1.0)

    def taus(self, kappa_usd: FloatArray) -> FloatArray:
        """``threshold`` for many prices while the link is up, any shape."""
        price = kappa_usd / self.objective.value_usd
        tau = self.curve.taus(price) if self.curve else self.objective.cloud_accuracy - price
        return np.asarray(np.clip(tau, self.floor, 1.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ThresholdInputs:
    """Everything a threshold may be built from; each kind takes what it needs.

    ``fitted`` is what ``policy_file.load_policy`` read, for the kinds that are fitted on data; optimal needs none.
    """

    objective: Objective
    speed: CloudSpeed
    floor: float = 0.0
    fixed: float = 0.5
    fitted: ThresholdPolicy | None = None


THRESHOLDS: dict[str, Callable[[ThresholdInputs], ThresholdPolicy]] = {
    "fixed": lambda given: FixedThreshold(max(given.fixed, given.floor)),
    "optimal": lambda given: OptimalThreshold(given.objective, given.speed, given.floor, _curve(given)),
    "funcdyn": lambda given: _fitted("funcdyn", FuncDyn, given),
    "policynet": lambda given: _fitted("policynet", PolicyNet, given),
}


def build_threshold(kind: str, given: ThresholdInputs) -> ThresholdPolicy:
    """The threshold policy named ``kind``.

    Raises:
        BadConfig: there is no such kind, or one that is fitted on data was given no such policy.
        ValueError: a number in ``given`` is out of range.
    """
    if kind not in THRESHOLDS:
        raise BadConfig(f"threshold kind {kind!r} is unknown: use one of {', '.join(sorted(THRESHOLDS))}")
    return THRESHOLDS[kind](given)


def _curve(given: ThresholdInputs) -> GainCurve | None:
    """The measured gain of a fitted closed form; worth and prices are those of now."""
    return None if given.fitted is None else _fitted("optimal", OptimalThreshold, given).curve


def _fitted(kind: str, cls: type[Fitted], given: ThresholdInputs) -> Fitted:
    if not isinstance(given.fitted, cls):
        found = "none" if given.fitted is None else f"a {type(given.fitted).__name__}"
        raise BadConfig(
            f"threshold kind {kind!r} needs the file of a fitted policy of that kind, got {found}. "
            "Fix: write one with `netgpt train policy` and name it, or use kind optimal without a file"
        )
    return replace(given.fitted, floor=max(given.floor, given.fitted.floor))
