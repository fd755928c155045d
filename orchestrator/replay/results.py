"""What a replay finds out: every rule's figures, per link state too, its regrets, the frontier, and the A2 check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.replay.reading import Reading
from policies.advantage import Rise, Verdict, check
from policies.fitting import BoolArray, IntArray
from policies.outcomes import Outcomes
from policies.replay import (
    Draws,
    Estimate,
    Estimator,
    Figures,
    Priced,
    estimate,
    figures,
    kept,
    request_oracle,
    resample,
    state_oracle,
)

SWEEP = tuple(n / 40 for n in range(41))
CONFIDENCE = 0.95
SHOWN_STATES = 12  # more rows than that are not read; the rest is in the whole
SEVERITY = (Verdict.RISES, Verdict.UNKNOWN, Verdict.FALLS)


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: its estimates (the first is the one to go by) and regrets in dollars a request."""

    name: str
    estimates: Sequence[Estimate]
    state_regret_usd: float
    request_regret_usd: float

    @property
    def best(self) -> Estimate:
        """Exact where the log allows it, else doubly robust."""
        return self.estimates[0]


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One link state: the threshold that would have been best there (None while down), and every rule's means."""

    name: str
    requests: int
    labelled: int
    oracle: float | None
    means: Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything a replay found. ``link`` names the state that ``rise`` is about: the worst of those looked at.

    ``modelled`` is the modelled price of the labelled calls over what they were billed, None where nothing was billed;
    ``left_out`` counts the records that made no sense, by reason.
    """

    requests: int
    labelled: int
    uncovered: float
    answered: float
    versions: int
    modelled: float | None
    left_out: Mapping[str, int]
    rows: Sequence[Row]
    links: Sequence[LinkRow]
    sweep: Mapping[float, Figures]
    rise: Rise
    link: str


def best_estimator(priced: Priced) -> Estimator:
    """Exact where both answers of every request are known, else doubly robust."""
    return Estimator.EXACT if priced.log.labelled.all() else Estimator.DR


def results(reading: Reading, priced: Priced, rules: Mapping[str, BoolArray], seed: int = 0) -> Results:
    """Evaluate ``rules`` (masks of kept drafts by name)."""
    log, estimator = priced.log, best_estimator(priced)
    draws = resample(len(log), seed)
    oracle = state_oracle(priced, reading.bucket)
    best = figures(priced, kept(log, oracle[reading.bucket]), estimator).utility_usd, request_oracle(priced)
    rows = [_row(priced, name, keeps, draws, best) for name, keeps in rules.items()]
    link, rise = _rise(reading, priced)
    billed = reading.billed_usd[log.labelled].sum()
    return Results(
        requests=len(log),
        labelled=int(log.labelled.sum()),
        uncovered=log.uncovered,
        answered=reading.answered,
        versions=reading.versions,
        modelled=float(priced.money_usd[log.labelled].sum() / billed) if billed else None,
        left_out=reading.left_out,
        rows=rows,
        links=[_link(reading, priced, rules, index, float(oracle[index])) for index in _largest(reading.bucket)],
        sweep={tau: figures(priced, kept(log, tau), estimator) for tau in SWEEP},
        rise=rise,
        link=link,
    )


def _row(priced: Priced, name: str, keeps: BoolArray, draws: Draws, oracles: tuple[float, float]) -> Row:
    first = best_estimator(priced)
    others = [one for one in (Estimator.DR, Estimator.SNIPS, Estimator.IPS) if one is not first]
    estimates = [estimate(priced, keeps, one, draws, CONFIDENCE) for one in (first, *others)]
    utility = estimates[0].mean.utility_usd
    return Row(name, estimates, oracles[0] - utility, oracles[1] - utility)


def _link(reading: Reading, priced: Priced, rules: Mapping[str, BoolArray], index: int, oracle: float) -> LinkRow:
    here = reading.bucket == index
    part, estimator = priced.part(here), best_estimator(priced)
    means = {name: figures(part, keeps[here], estimator) for name, keeps in rules.items()}
    best = oracle if part.log.up.any() else None
    return LinkRow(reading.buckets[index], len(part.log), int(part.log.labelled.sum()), best, means)


def _largest(bucket: IntArray) -> list[int]:
    """The link states with the most requests, largest first."""
    counts = np.bincount(bucket)
    return [int(index) for index in np.argsort(-counts, kind="stable")[:SHOWN_STATES] if counts[index]]


def _rise(reading: Reading, priced: Priced) -> tuple[str, Rise]:
    """The least favourable verdict over the link states with the most labels, each asked with all labelled requests.

    Answers do not depend on the link, so only kappa changes from state to state: what the calls really took, at the
    mean prices of the state. The level is shared among the states (Bonferroni).
    """
    log = priced.log
    rows = log.labelled & log.valid
    cloud = np.full(int(rows.sum()), priced.objective.cloud_accuracy)
    outcomes = Outcomes(log.score[rows], log.edge_right[rows], cloud, reading.measured[rows], log.weight[rows])
    states = _largest(reading.bucket[log.labelled])
    level = 1.0 - (1.0 - CONFIDENCE) / len(states)
    found = []
    for index in states:
        units = priced.units_usd[log.state[reading.bucket == index]].mean(axis=0)
        rise = check(outcomes, outcomes.amounts @ units, priced.objective.value_usd, level)
        found.append((reading.buckets[index], rise))
    return max(found, key=lambda pair: (SEVERITY.index(pair[1].verdict), pair[1].lost_usd, -pair[1].slope))
