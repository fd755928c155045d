"""Off-policy evaluation: what another rule would have earned on logged requests.

A rule keeps a draft iff it is valid and score >= tau(state, work); with the link down every draft is kept. What an
offload costs follows from ``policies.cost`` for every request, logged there or not, so only P(a kept draft is right)
is estimated: by IPS, self-normalised IPS or doubly robust (the calibrated score is the direct model), or exactly where
every request is labelled. A label reveals the cloud's answer: the draft is right when it says the same. The cloud is
right with the objective's ``cloud_accuracy``: the log cannot tell how often it is wrong, and a rule is then judged by
the objective it decides with (1 makes the cloud the reference itself). Where no label was possible (propensity 0) the
direct model stands alone; ``Logged.uncovered`` is that share. Pure, arrays throughout; IPS and DR as in Dudik et al.
(2011), "Doubly robust policy evaluation and learning".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from policies.checks import nonnegative
from policies.cost import unit_costs, unit_prices
from policies.fitting import BoolArray, IntArray
from policies.score import FloatArray
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy
from policies.types import CloudSpeed, CloudWork, Objective, RoutingState

RESAMPLES = 1000  # the 2.5 % quantile then has an error of about 0.5 % in level
GROUPS = 1000  # requests beyond this are resampled in random groups: the variance of a mean stays the same


class Estimator(StrEnum):
    """How P(a kept draft is right) is found."""

    EXACT = "exact"
    IPS = "ips"
    SNIPS = "snips"
    DR = "dr"


@dataclass(frozen=True)  # no slots: ``up`` and ``weight`` are worked out once
class Logged:
    """n logged requests; every array has n rows.

    Args:
        score: calibrated P(draft correct), in [0, 1].
        valid: whether the draft passed the validity gate.
        offloaded: whether the logged rule asked the cloud.
        labelled: whether the cloud's answer is known.
        propensity: the probability of that, in [0, 1].
        edge_right: whether the draft is right, in [0, 1]; read only where labelled.
        amounts: [n, 6], what the cloud would be paid for (``policies.cost.amounts``).
        state: index into ``states``.
        states: the distinct states of link and prices.

    Raises:
        ValueError: lengths disagree, a number is out of range, or a label has propensity 0.
    """

    score: FloatArray
    valid: BoolArray
    offloaded: BoolArray
    labelled: BoolArray
    propensity: FloatArray
    edge_right: FloatArray
    amounts: FloatArray
    state: IntArray
    states: Sequence[RoutingState]

    def __post_init__(self) -> None:
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "states"}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1 or not len(self):
            raise ValueError(f"arrays of one length above 0 are needed, got {lengths}")
        for name in ("score", "propensity", "edge_right"):
            bad = ~((arrays[name] >= 0) & (arrays[name] <= 1))
            if bad.any():
                raise ValueError(f"{name} must lie in [0, 1], got {float(arrays[name][bad][0])!r}")
        if self.amounts.shape != (len(self), 6) or not (np.isfinite(self.amounts) & (self.amounts >= 0)).all():
            raise ValueError(f"amounts must be finite and >= 0, of shape [n, 6], got shape {self.amounts.shape}")
        if self.state.min() < 0 or self.state.max() >= len(self.states):
            raise ValueError(f"state must index {len(self.states)} states, got {self.state.min()}..{self.state.max()}")
        if (self.labelled & (self.propensity == 0)).any():
            raise ValueError("propensity must be > 0 where labelled: a label that could not be known is there")

    def __len__(self) -> int:
        return len(self.score)

    @cached_property
    def up(self) -> BoolArray:
        """Whether the cloud could be reached, [n]."""
        return np.array([state.link.up for state in self.states])[self.state]

    @property
    def uncovered(self) -> float:
        """Share of the requests whose label was impossible (propensity 0)."""
        return float((self.propensity == 0).mean())

    @cached_property
    def weight(self) -> FloatArray:
        """1 / propensity where labelled, else 0; [n]."""
        return np.divide(1.0, self.propensity, out=np.zeros(len(self)), where=self.labelled)

    @property
    def right(self) -> FloatArray:
        """Unbiased stand-in for edge_right, [n]: itself where all are labelled, else the doubly robust one."""
        return self.edge_right if self.labelled.all() else _robust(self)

    def part(self, rows: BoolArray | IntArray) -> Logged:
        """Some of the requests, by mask or index."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "states"}
        return replace(self, **arrays)


@dataclass(frozen=True, slots=True)
class Priced:
    """A log under an objective; build it with ``price``.

    ``units_usd`` [states, 6] is ``policies.cost.unit_prices`` of each state; per request, [n], ``kappa_usd`` is what
    asking the cloud would cost and ``money_usd`` the part of it that is not priced time.
    """

    log: Logged
    objective: Objective
    speed: CloudSpeed
    units_usd: FloatArray
    kappa_usd: FloatArray
    money_usd: FloatArray

    def part(self, rows: BoolArray | IntArray) -> Priced:
        """Some of the requests, by mask or index."""
        return replace(self, log=self.log.part(rows), kappa_usd=self.kappa_usd[rows], money_usd=self.money_usd[rows])


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over requests: shares in [0, 1], dollars a request."""

    success: float
    offload: float
    money_usd: float
    latency_usd: float
    utility_usd: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rule's figures with bootstrap bounds; ``effective`` is the effective number of labelled kept drafts."""

    estimator: Estimator
    mean: Figures
    low: Figures
    high: Figures
    effective: float


@dataclass(frozen=True, slots=True)
class Draws:
    """Bootstrap resamples of n requests: ``group`` [n] and how often each group is drawn, ``counts`` [resamples, g].

    One ``Draws`` for several rules resamples them together, so differences between them are paired.
    """

    group: IntArray
    counts: FloatArray


@runtime_checkable
class BatchThresholds(Protocol):
    """A threshold policy that computes many tau at once."""

    def thresholds(self, states: Sequence[RoutingState], state: IntArray, amounts: FloatArray) -> FloatArray:
        """tau of every request, [n]; ``state`` indexes ``states``, ``amounts`` is [n, 6]."""
        ...


def price(log: Logged, speed: CloudSpeed, objective: Objective) -> Priced:
    """What each request would cost in the cloud.

    Raises:
        ValueError: a figure of a link, of prices or of the objective is negative or not finite.
    """
    nonnegative(second_usd=objective.second_usd)
    dollars, seconds = unit_costs(log.states, speed)
    units = dollars + objective.second_usd * seconds
    return Priced(log, objective, speed, units, _dot(units, log), _dot(dollars, log))


def thresholds(policy: ThresholdPolicy, priced: Priced) -> FloatArray:
    """tau of every request, [n]: in one piece for ``fixed``, ``optimal`` and ``BatchThresholds``, else one by one."""
    log = priced.log
    if isinstance(policy, FixedThreshold):
        return np.full(len(log), policy.value)
    if isinstance(policy, OptimalThreshold):
        return _optimal(policy, priced)
    if isinstance(policy, BatchThresholds):
        return policy.thresholds(log.states, log.state, log.amounts)
    pairs = zip(log.state, log.amounts, strict=True)
    return np.array([policy.threshold(log.states[index], _work(paid)) for index, paid in pairs])


def kept(log: Logged, tau: FloatArray | float) -> BoolArray:
    """Which drafts the rule keeps, [n].

    Raises:
        ValueError: a threshold lies outside [0, 1] or is NaN.
    """
    if not ((np.asarray(tau) >= 0) & (np.asarray(tau) <= 1)).all():
        raise ValueError("thresholds must lie in [0, 1]")
    return np.asarray(~log.up | (log.valid & (log.score >= tau)))


def figures(priced: Priced, keeps: BoolArray, estimator: Estimator) -> Figures:
    """The means of a rule that keeps the drafts in ``keeps`` [n].

    Raises:
        ValueError: ``exact`` is asked of a log with unlabelled requests.
    """
    return _named(_combine(_terms(priced, keeps, estimator).mean(axis=0), estimator, priced.objective))


def estimate(
    priced: Priced, keeps: BoolArray, estimator: Estimator, draws: Draws, confidence: float = 0.95
) -> Estimate:
    """``figures`` with bootstrap percentile intervals at level ``confidence``."""
    terms = _terms(priced, keeps, estimator)
    sums = np.stack([np.bincount(draws.group, column) for column in terms.T], axis=1)
    means = (draws.counts @ sums) / (draws.counts @ np.bincount(draws.group))[:, None]
    tail = (1.0 - confidence) / 2.0
    drawn = _combine(means, estimator, priced.objective)
    low, high = np.quantile(drawn, (tail, 1.0 - tail), axis=0)
    mean = _combine(terms.mean(axis=0), estimator, priced.objective)
    return Estimate(estimator, _named(mean), _named(low), _named(high), effective(priced.log, keeps))


def resample(n: int, seed: int = 0) -> Draws:
    """Bootstrap resamples of ``n`` requests; equal seeds give equal resamples."""
    rng, groups = np.random.default_rng(seed), min(n, GROUPS)
    counts = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=RESAMPLES)
    return Draws(rng.permutation(n) % groups, counts.astype(np.float64))


def effective(log: Logged, keeps: BoolArray) -> float:
    """Effective number of labelled requests behind a rule's kept drafts: (sum w)^2 / sum w^2."""
    weight = log.weight[keeps]
    return float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0


def state_oracle(priced: Priced, bucket: IntArray) -> FloatArray:
    """The best threshold of each bucket, [buckets]; ``bucket`` [n] counts from 0.

    Judged on the requests it was chosen on it looks too good, so regret to it is an upper bound.
    """
    log, value = priced.log, priced.objective.value_usd
    gain = value * (log.right - priced.objective.cloud_accuracy) + priced.kappa_usd
    choices = [log.valid & log.up & (bucket == index) for index in range(int(bucket.max()) + 1)]
    return np.array([best_threshold(log.score[rows], gain[rows]) for rows in choices])


def best_threshold(score: FloatArray, gain: FloatArray) -> float:
    """The tau in [0, 1] with the largest sum of ``gain`` over score >= tau; the largest such tau; shapes [n]."""
    if not len(score) or score.max() < 1.0:
        score, gain = np.append(score, 1.0), np.append(gain, 0.0)  # tau = 1 keeps nothing
    order = np.argsort(-score, kind="stable")
    score, total = score[order], np.cumsum(gain[order])
    ends = np.append(score[1:] != score[:-1], True)
    return float(score[ends][np.argmax(total[ends])])


def request_oracle(priced: Priced) -> float:
    """Mean utility of knowing beforehand whether each draft is right; linear in that, so ``Logged.right`` serves."""
    log, value = priced.log, priced.objective.value_usd
    cloud = value * priced.objective.cloud_accuracy - priced.kappa_usd
    best = log.right * np.maximum(value, cloud) + (1.0 - log.right) * np.maximum(0.0, cloud)
    return float(np.where(log.up, np.where(log.valid, best, cloud), value * log.right).mean())


def _terms(priced: Priced, keeps: BoolArray, estimator: Estimator) -> FloatArray:
    """What the estimators average, [n, 4 + ...]: offload, money, latency, right offloads; then of kept drafts."""
    log, away = priced.log, ~keeps
    if estimator is Estimator.EXACT and not log.labelled.all():
        raise ValueError(f"estimator exact needs every request labelled, {(~log.labelled).sum()} of {len(log)} are not")
    latency = priced.kappa_usd - priced.money_usd
    columns = [away, away * priced.money_usd, away * latency, away * priced.objective.cloud_accuracy]
    model, covered = log.score * keeps, log.propensity > 0
    seen, weight = log.weight * log.edge_right * keeps, log.weight * keeps
    match estimator:
        case Estimator.EXACT:
            columns += [log.edge_right * keeps]
        case Estimator.IPS:
            columns += [np.where(covered, seen, model)]
        case Estimator.DR:
            columns += [_robust(log) * keeps]
        case Estimator.SNIPS:
            columns += [model * ~covered, model * covered, covered & keeps, seen, weight]
    return np.stack(columns, axis=1)


def _combine(means: FloatArray, estimator: Estimator, objective: Objective) -> FloatArray:
    """Figures from means of ``_terms``: [..., m] -> [..., 5]."""
    offload, money, latency, success, *rest = np.moveaxis(means, -1, 0)
    if estimator is Estimator.SNIPS:
        uncovered, model, share, seen, weight = rest
        found = np.divide(share * seen, weight, out=np.array(model), where=weight > 0)  # no label: the model alone
        success = success + uncovered + found
    else:
        success = success + rest[0]
    utility = objective.value_usd * success - money - latency
    return np.stack([success, offload, money, latency, utility], axis=-1)


def _robust(log: Logged) -> FloatArray:
    return log.score + log.weight * (log.edge_right - log.score)


def _named(values: FloatArray) -> Figures:
    return Figures(*map(float, values))


def _optimal(policy: OptimalThreshold, priced: Priced) -> FloatArray:
    log, objective = priced.log, policy.objective
    known = (policy.speed, objective.second_usd) == (priced.speed, priced.objective.second_usd)
    kappa = priced.kappa_usd if known else _dot(unit_prices(log.states, policy.speed, objective), log)
    return np.where(log.up, policy.taus(kappa), policy.floor)


def _dot(units: FloatArray, log: Logged) -> FloatArray:
    return np.asarray(np.einsum("ij,ij->i", units[log.state], log.amounts), dtype=np.float64)


def _work(paid: FloatArray) -> CloudWork:
    """The request behind a row of ``policies.cost.amounts``."""
    _, fresh, cached, output, up, down = (int(amount) for amount in paid)
    return CloudWork(up, down, fresh + cached, output, cached)
