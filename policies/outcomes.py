"""Requests whose two answers are both known: what thresholds are fitted on and compared with.

Built from a log (``orchestrator``) or from a benchmark's own runs. With both answers and ``policies.cost``, what any
rule would have earned in any state follows exactly. The utility of a request counts from its draft on (the draft is
made either way): ``V * edge_right`` at the edge, ``V * cloud_right - kappa`` in the cloud. Pure, vectorised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.cost import amounts, unit_prices
from policies.fitting import BoolArray
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, Objective, RoutingState


@dataclass(frozen=True, slots=True)
class Outcomes:
    """n requests with both answers; every array has n rows.

    Args:
        score: the draft's calibrated score in [0, 1]; 0 for an invalid draft.
        edge_right, cloud_right: whether the answer is correct, or the probability that it is, in [0, 1].
        amounts: [n, 6], what the cloud would be paid for (``policies.cost.amounts``).
        weights: how many requests each stands for.

    Raises:
        ValueError: lengths disagree, or a number is out of range or not finite.
    """

    score: FloatArray
    edge_right: FloatArray
    cloud_right: FloatArray
    amounts: FloatArray
    weights: FloatArray

    def __post_init__(self) -> None:
        if (
            len({len(array) for array in (self.score, self.edge_right, self.cloud_right, self.amounts, self.weights)})
            > 1
        ):
            raise ValueError("score, edge_right, cloud_right, amounts and weights must have the same number of rows")
        for name in ("score", "edge_right", "cloud_right"):
            array = getattr(self, name)
            if not ((array >= 0) & (array <= 1)).all():
                raise ValueError(f"{name} must lie in [0, 1]")
        for name in ("amounts", "weights"):
            array = getattr(self, name)
            if not (np.isfinite(array) & (array >= 0)).all():
                raise ValueError(f"{name} must be finite and >= 0")

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def of(
        cls,
        score: Sequence[float],
        edge_right: Sequence[float],
        cloud_right: Sequence[float],
        work: Sequence[CloudWork],
        weights: Sequence[float] | None = None,
    ) -> Self:
        """From one value a request; ``weights`` are 1 by default."""
        paid = np.array([amounts(one) for one in work], dtype=np.float64).reshape(-1, 6)
        w = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
        s, edge, cloud = (np.asarray(column, dtype=np.float64) for column in (score, edge_right, cloud_right))
        return cls(s, edge, cloud, paid, w)

    def part(self, rows: npt.NDArray[np.int64] | BoolArray) -> Outcomes:
        """Some of the requests, by index or mask."""
        return Outcomes(
            self.score[rows], self.edge_right[rows], self.cloud_right[rows], self.amounts[rows], self.weights[rows]
        )


def kappas(outcomes: Outcomes, states: Sequence[RoutingState], speed: CloudSpeed, objective: Objective) -> FloatArray:
    """The price of asking the cloud for each request in each state: dollars, shape [states, n]."""
    prices = unit_prices(states, speed, objective)
    return np.asarray(prices @ outcomes.amounts.T, dtype=np.float64)


def utility(outcomes: Outcomes, kept: BoolArray, kappa: FloatArray, value_usd: float) -> FloatArray:
    """Mean utility in dollars of keeping the drafts in ``kept``: shapes [..., n] -> [...].

    Args:
        kept: which drafts are answered from the edge, shape [..., n].
        kappa: of the same shape, or one that broadcasts to it.
        value_usd: V, the worth of a correct answer.
    """
    edge, cloud = value_usd * outcomes.edge_right, value_usd * outcomes.cloud_right - kappa
    return np.asarray(np.average(np.where(kept, edge, cloud), axis=-1, weights=outcomes.weights), dtype=np.float64)
