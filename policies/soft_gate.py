"""Fitting thresholds that follow the network, by gradient, on requests whose two answers are known.

The hard rule "keep when s >= tau(z)" is softened to g = sigmoid((tau(z) - s) / T), the chance of asking the cloud, and
E[(1 - g) U_edge + g U_cloud] is maximised over requests x states while T falls from 0.1 to 0.01; of what it passes, the
best under the hard rule is kept (our own formulation, consistent with the abstract of arXiv 2511.22217). tau is one
number per state, so requests enter only through their scores and what sending them adds: they are summed in at most
``GROUPS`` groups of neighbouring scores, which makes the fit's time independent of their number. That the edge's
advantage rises with the score is used (isotonic regression): single answers are too noisy. torch on one thread, seeded.
A draft with score 0 is invalid: the cloud's, under any threshold. ``best_thresholds`` is what a fit is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from policies.checks import nonnegative
from policies.cost import unit_prices
from policies.errors import BadConfig
from policies.funcdyn import INPUTS, FuncDyn, StateInputs
from policies.gain import falling_gains
from policies.outcomes import Outcomes, utility
from policies.policynet import PolicyNet, bounds
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, Objective, RoutingState

if TYPE_CHECKING:
    from torch import Tensor

HOT, COLD = 0.1, 0.01  # a tenth smooths over every gap between scores; a hundredth is finer than calibration is
WARM_STEPS, STEPS = 500, 500  # first towards each state's own best threshold: annealing alone can end at tau = 0
CHECK_STEPS = 20
LEAK = 0.01
GROUPS = 512  # scores within a group differ by about 0.002, a fifth of the coldest temperature
WIDTH = 32
MIN_REQUESTS = 50  # below it the best threshold of a sample says nothing about the next one


def fit_funcdyn(
    outcomes: Outcomes,
    states: Sequence[RoutingState],
    speed: CloudSpeed,
    objective: Objective,
    *,
    floor: float = 0.0,
) -> FuncDyn:
    """The ``FuncDyn`` that earns most on ``outcomes`` in ``states``; states with the link down are left out.

    Raises:
        BadConfig: there are too few requests or no states, or all drafts are right or all wrong.
        ValueError: a metric or price is negative or not finite.
    """
    import torch  # noqa: PLC0415  (fitting is rare; whoever reads thresholds must not wait for this import)
    from torch.nn.functional import softplus  # noqa: PLC0415

    data = _Data(outcomes, states, speed, objective)
    weights = torch.full((len(INPUTS),), -2.0)  # softplus makes 0.13 of it: together the inputs span about [0, 1]
    raw = {"weights": weights, "bias": torch.zeros(()), "ends": torch.tensor([-3.0, 3.0])}

    def ends() -> tuple[Tensor, Tensor]:
        least, share = raw["ends"].sigmoid()
        return least, least + (1.0 - least) * share

    def tau(x: Tensor) -> Tensor:
        least, most = ends()
        line = x @ softplus(raw["weights"]) + raw["bias"]
        clipped = line.clamp(least, most)
        return clipped + LEAK * (line - clipped)  # a state beyond an end still pulls

    _ascend(data, raw, tau, 0.03)
    with torch.no_grad():
        least, most = (float(end) for end in ends())
        slopes = tuple(softplus(raw["weights"]).double().tolist())
    return FuncDyn(data.inputs, slopes, float(raw["bias"]), least, max(least, min(most, 1.0)), floor)


def fit_policynet(
    outcomes: Outcomes,
    states: Sequence[RoutingState],
    speed: CloudSpeed,
    objective: Objective,
    *,
    floor: float = 0.0,
    width: int = WIDTH,
    seed: int = 0,
) -> PolicyNet:
    """The ``PolicyNet`` of two hidden layers of ``width`` that earns most on ``outcomes`` in ``states``.

    Raises:
        BadConfig: there are too few requests or no states, or all drafts are right or all wrong.
        ValueError: a metric or price is negative or not finite.
    """
    import torch  # noqa: PLC0415

    data = _Data(outcomes, states, speed, objective)
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    first, second = normal(len(INPUTS), width) / len(INPUTS) ** 0.5, normal(width, width) / width
    raw = {
        "first": first,
        "first_bias": 0.5 * normal(width) - first.abs().sum(0) / 2,  # bends lie within the inputs' range, [0, 1]
        "second": second,
        "second_bias": 0.5 * normal(width),
        "third": normal(width) / width**0.5,
        "third_bias": torch.zeros(()),
    }
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in bounds(width))
    _ascend(data, raw, lambda x: net_logits(raw, x, low, high).sigmoid(), 0.03)
    return net_from(data.inputs, raw, floor)


def net_logits(raw: Mapping[str, Tensor], x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The network before its last sigmoid, [n, len(INPUTS)] -> [n]; a weight is the magnitude of its parameter.

    Args:
        raw: parameters by the names of ``PolicyNet``'s fields.
        low, high: ``policynet.bounds`` of the width.
    """
    h = (x @ raw["first"].abs() + raw["first_bias"]).clamp(low, high)
    h = (h @ raw["second"].abs() + raw["second_bias"]).clamp(low, high)
    return h @ raw["third"].abs() + raw["third_bias"]


def net_from(inputs: StateInputs, raw: Mapping[str, Tensor], floor: float) -> PolicyNet:
    """The policy that serves what ``net_logits`` computes."""
    given = {name: tensor.detach().double() for name, tensor in raw.items()}
    first, second = (tuple(map(tuple, given[name].abs().tolist())) for name in ("first", "second"))
    biases = [tuple(given[name].tolist()) for name in ("first_bias", "second_bias")]
    third = tuple(given["third"].abs().tolist())
    return PolicyNet(inputs, first, biases[0], second, biases[1], third, float(given["third_bias"]), floor)


def best_thresholds(outcomes: Outcomes, kappa: FloatArray, value_usd: float) -> FloatArray:
    """The threshold that earns most on ``outcomes`` for each row of ``kappa`` [states, n]: the oracle; shape [states].

    The best fixed threshold over all states is that of their mean: ``kappa.mean(0, keepdims=True)``.
    """
    order = np.argsort(outcomes.score, kind="stable")
    score = outcomes.score[order]
    gain = outcomes.weights * (value_usd * (outcomes.cloud_right - outcomes.edge_right) - kappa)
    sent = np.concatenate([np.zeros((len(kappa), 1)), np.cumsum(gain[:, order], axis=1)], axis=1)
    cuts = np.concatenate([[0.0], (score[1:] + score[:-1]) / 2, [1.0]])  # cut i sends the i lowest scores
    possible = np.concatenate([[True], score[1:] > score[:-1], score[-1:] < 1.0])  # tau = 1 still keeps a score of 1
    possible[: np.searchsorted(score, 0.0, side="right")] = False  # invalid drafts are sent by any threshold
    return np.asarray(cuts[np.argmax(np.where(possible, sent, -np.inf), axis=1)], dtype=np.float64)


def earned(outcomes: Outcomes, kappa: FloatArray, taus: FloatArray, value_usd: float) -> FloatArray:
    """Mean utility in dollars in each row of ``kappa`` [states, n]; ``taus`` is [states], or [states, n]."""
    kept = (outcomes.score >= np.reshape(taus, (len(kappa), -1))) & (outcomes.score > 0)
    return utility(outcomes, kept, kappa, value_usd)


def typical_work(outcomes: Outcomes) -> CloudWork:
    """The weighted mean of what the requests would ask of the cloud, in whole tokens and bytes."""
    _, fresh, cached, output, up, down = np.average(outcomes.amounts, axis=0, weights=outcomes.weights).round()
    return CloudWork(int(up), int(down), int(fresh + cached), int(output), int(cached))


class _Data:
    """What a fit works on.

    ``x`` [states, inputs]; ``score`` [groups], rising; ``gain`` [states, groups], what sending a group's drafts adds,
    in V per request; ``best`` [states], each state's own best threshold.
    """

    def __init__(
        self, outcomes: Outcomes, states: Sequence[RoutingState], speed: CloudSpeed, objective: Objective
    ) -> None:
        states = [state for state in states if state.link.up]
        drafts = outcomes.part((outcomes.weights > 0) & (outcomes.score > 0))
        check_enough(drafts)
        _check(states, objective)
        drafts = drafts.part(np.argsort(drafts.score, kind="stable"))
        self.inputs = StateInputs.of(states, typical_work(drafts))
        self.x = np.array([self.inputs.encode(state) for state in states])
        starts = np.unique(np.arange(GROUPS) * len(drafts) // GROUPS)
        weights = drafts.weights / drafts.weights.sum()
        lost = np.add.reduceat(weights * falling_gains(drafts)[0], starts)
        paid = np.add.reduceat(weights[:, None] * drafts.amounts, starts)
        prices = unit_prices(states, speed, objective)
        self.gain = lost - prices @ paid.T / objective.value_usd
        self.score = np.add.reduceat(drafts.score, starts) / np.diff([*starts, len(drafts)])
        sent = np.cumsum(self.gain, axis=1)
        cuts = np.append(self.score[1:], 1.0)
        self.best = np.where(sent.max(axis=1) > 0, cuts[sent.argmax(axis=1)], 0.0)


def _check(states: Sequence[RoutingState], objective: Objective) -> None:
    nonnegative(value_usd=objective.value_usd)
    if objective.value_usd == 0:
        raise ValueError("value_usd must be > 0: an answer worth nothing has no best route")
    if not states:
        raise BadConfig("no state has its link up. Fix: give states in which the cloud can be reached")


def check_enough(drafts: Outcomes) -> None:
    """Refuse valid drafts that are too few, or all alike.

    Raises:
        BadConfig: says how many there are, and what to do.
    """
    if len(drafts) < MIN_REQUESTS:
        raise BadConfig(
            f"a threshold is fitted on at least {MIN_REQUESTS} valid drafts with both answers, got {len(drafts)}. "
            "Fix: use a longer log, raise site.audit_rate, or keep policy.kind: optimal, which needs no data"
        )
    if np.ptp(drafts.edge_right) == 0:
        raise BadConfig(
            f"all {len(drafts)} drafts have edge_right = {drafts.edge_right[0]:g}: nothing tells good scores from bad. "
            "Fix: use a longer log, or keep policy.kind: optimal"
        )


def _ascend(data: _Data, raw: dict[str, Tensor], tau: Callable[[Tensor], Tensor], rate: float) -> None:
    """Adam on the soft gate's utility, from ``HOT`` to ``COLD``, after a warm start; leaves the best in ``raw``."""
    import torch  # noqa: PLC0415

    x, score, gain, best = (
        torch.tensor(array, dtype=torch.float32) for array in (data.x, data.score, data.gain, data.best)
    )
    gain = gain / gain.abs().sum()
    for tensor in raw.values():
        tensor.requires_grad_()
    optimiser = torch.optim.Adam(raw.values(), lr=rate)
    kept, earned_most = raw, -np.inf
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step in range(WARM_STEPS + STEPS + 1):
            taus = tau(x)
            if step >= WARM_STEPS and step % CHECK_STEPS == 0:
                now = float(((taus[:, None] > score) * gain).sum())
                if now > earned_most:
                    kept, earned_most = {name: tensor.detach().clone() for name, tensor in raw.items()}, now
            if step < WARM_STEPS:
                loss = ((taus - best) ** 2).mean()
            else:
                temperature = HOT * (COLD / HOT) ** ((step - WARM_STEPS) / STEPS)
                loss = -(((taus[:, None] - score) / temperature).sigmoid() * gain).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    finally:
        torch.set_num_threads(threads)
    raw.update(kept)
