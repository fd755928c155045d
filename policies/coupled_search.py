"""Where a policy for coupled decisions starts from: a search over four numbers by the cross-entropy method.

A fit without coupling knows which links and prices are dear, and nothing of what a budget and a queue add to them: its
thresholds are far too high. ``Shape`` corrects that: on the logit of tau, a factor on all that the fitted network says,
an offset, and one weight each for a short queue and a budget that is left. (1, 0, 0, 0) is the fitted network itself
and a factor of 0 a fixed threshold, so the search, which begins with both, never ends below either. Gradients of a
simulation over minutes are noise; 200 plays of the same requests are not. Pure and deterministic given a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.funcdyn import INPUTS
from policies.policynet import Matrix, PolicyNet
from policies.score import FloatArray

ROUNDS, PLAYED, KEPT = 8, 24, 6  # the best hardly changes after six rounds
FIRST_STD = (0.5, 2.0, 2.0, 2.0)  # a logit of 2 is the step from a coin's toss to nearly sure
LEAST_STD = 0.05  # finer steps change no decision
SURE = 1e-3  # a fixed threshold of 0 or 1 has no logit; this near, scores are the same


@dataclass(frozen=True, slots=True)
class Shape:
    """tau = sigmoid(factor * logit + offset + queue * x_queue + budget * x_budget); all but the offset >= 0."""

    factor: float
    offset: float
    queue: float
    budget: float

    def of(self, net: PolicyNet) -> PolicyNet:
        """``net`` so shaped, a few units wider: the two inputs pass through one that is convex, hence linear here."""
        width = len(net.third)
        wider = width + -width % 3 + 1  # of its three kinds of units, the next convex one
        first, second = _padded(net.first, len(INPUTS), wider), _padded(net.second, wider, wider)
        first[INPUTS.index("queue_s"), -1], first[INPUTS.index("budget_left"), -1] = self.queue, self.budget
        second[-1, -1] = 1.0
        zeros = (0.0,) * (wider - width)
        third = (*(self.factor * weight for weight in net.third), *zeros[1:], 1.0)
        return PolicyNet(
            net.inputs,
            _rows(first),
            (*net.first_bias, *zeros),
            _rows(second),
            (*net.second_bias, *zeros),
            third,
            self.factor * net.third_bias + self.offset,
            net.floor,
        )


def search(net: PolicyNet, fixed: float, judge: Callable[[PolicyNet], float], seed: int = 0) -> PolicyNet:
    """The best of ``net``, the threshold ``fixed`` and some 200 shapes between and beyond.

    Args:
        judge: the utility of a policy where decisions are coupled, on the same requests each time.
    """
    odds = min(max(fixed, SURE), 1.0 - SURE)
    known = [np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, math.log(odds / (1.0 - odds)), 0.0, 0.0])]
    random, found = np.random.default_rng(seed), [(judge(_shape(one).of(net)), one) for one in known]
    mean, std = max(found, key=_utility)[1], np.array(FIRST_STD)
    for _ in range(ROUNDS):
        found += [(judge(_shape(one).of(net)), one) for one in random.normal(mean, std, (PLAYED, len(mean)))]
        found = sorted(found, key=_utility, reverse=True)[:KEPT]
        best = np.array([one for _, one in found])
        mean, std = best.mean(axis=0), best.std(axis=0) + LEAST_STD
    return _shape(found[0][1]).of(net)


def _shape(numbers: FloatArray) -> Shape:
    factor, offset, queue, budget = numbers.tolist()
    return Shape(max(factor, 0.0), offset, max(queue, 0.0), max(budget, 0.0))


def _utility(found: tuple[float, FloatArray]) -> float:
    return found[0]


def _padded(rows: Matrix, height: int, width: int) -> FloatArray:
    wide = np.zeros((height, width))
    wide[: len(rows), : len(rows[0])] = rows
    return wide


def _rows(matrix: FloatArray) -> Matrix:
    return tuple(map(tuple, matrix.tolist()))
