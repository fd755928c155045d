"""How much of what a per-state oracle gains over the best fixed threshold each rule gets, on the grid.

The oracle knows the very requests it is judged on, so the gap is the largest that anyone could claim; the same with
thresholds that were chosen per state on the requests to fit on says how much of it is luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from benchmarks.figures import Figure, at_least, at_most
from benchmarks.routing.material import BANDWIDTHS_BPS, DEARER, RTTS_MS, Material, dearer, grid
from policies.funcdyn import ANY_WORK
from policies.gain import GainCurve
from policies.outcomes import kappas
from policies.score import FloatArray
from policies.soft_gate import best_thresholds, fit_funcdyn, fit_policynet, typical_work
from policies.threshold import OptimalThreshold, ThresholdPolicy
from policies.types import LinkState, RoutingState

WORTHS_USD = (0.001, 0.003, 0.01)  # of an answer, where a second costs $0.0008 and an offload about as much
RESAMPLES = 1000
SEEDS = 3
DENSE = 13  # values of each input in the search for violations


def fitted(given: Material, seed: int = 0) -> dict[str, ThresholdPolicy]:
    """The three rules, fitted on the training split in the grid's states."""
    states = grid(given.prices)
    common = (given.fit, states, given.speed, given.objective)
    return {
        "optimal": OptimalThreshold(given.objective, given.speed, curve=GainCurve.fit(given.fit)),
        "funcdyn": fit_funcdyn(*common),
        "policynet": fit_policynet(*common, seed=seed),
    }


def closed_gaps(given: Material, seeds: int) -> list[Figure]:
    """``closed_gap`` for cheap, middling and dear answers: the worth decides how much a threshold matters."""
    found = []
    for worth in WORTHS_USD:
        there = replace(given, objective=replace(given.objective, value_usd=worth))
        found += [replace(figure, name=f"V = ${worth:g}: {figure.name}") for figure in closed_gap(there, seeds)]
    return found


def closed_gap(given: Material, seeds: int) -> list[Figure]:
    """Share of the utility gap closed, with a 95 % interval of the gain over the best fixed threshold."""
    value, held = given.objective.value_usd, given.held
    kappa = kappas(held, grid(given.prices), given.speed, given.objective)
    fixed = best_thresholds(held, kappa.mean(axis=0, keepdims=True), value)[0]
    base = _earned(given, kappa, np.full(len(kappa), fixed))
    oracle = _earned(given, kappa, best_thresholds(held, kappa, value)) - base
    seen = kappas(given.fit, grid(given.prices), given.speed, given.objective)
    learnt = _earned(given, kappa, best_thresholds(given.fit, seen, value)) - base
    found = [
        Figure("best fixed threshold", float(fixed), "tau"),
        Figure("gap: per-state oracle - best fixed", 1e3 * oracle.mean() / value, "V per 1,000"),
        Figure(
            "gap without hindsight: thresholds per state from the requests to fit on",
            1e3 * learnt.mean() / value,
            "V per 1,000",
        ),
    ]
    sent = float(((held.score < fixed) | (held.score == 0)).mean())
    for name, share in (("all edge", 0.0), ("all cloud", 1.0), ("random, as many offloads", sent)):
        earned = (1.0 - share) * value * held.edge_right + share * (value * held.cloud_right - kappa.mean(axis=0))
        found.append(Figure(f"{name} - best fixed", 1e3 * float((earned - base).mean()) / value, "V per 1,000"))
    runs = [fitted(given, seed) for seed in range(seeds)]
    for name in runs[0]:
        gains = np.mean([_earned(given, kappa, _taus(run[name], given, kappa)) - base for run in runs], axis=0)
        low, high = _interval(gains)
        found += [
            at_least(f"{name}: share of the gap closed", float(gains.mean() / oracle.mean()), "share", 0.95),
            Figure(f"{name}: gain over best fixed", 1e3 * float(gains.mean()) / value, "V per 1,000"),
            at_least(f"{name} - best fixed, 95 % low", 1e3 * low / value, "V per 1,000", 0.0),
            Figure(f"{name} - best fixed, 95 % high", 1e3 * high / value, "V per 1,000"),
        ]
    return found


def violations(given: Material) -> list[Figure]:
    """Neighbours on a dense grid between which a threshold moves the wrong way."""
    work = typical_work(given.held)
    found = []
    for name, policy in fitted(given).items():
        taus = _dense(policy, given, work)
        wrong = (
            (np.diff(taus, axis=0) < 0).sum() + (np.diff(taus, axis=1) > 0).sum() + (np.diff(taus, axis=2) > 0).sum()
        )
        found.append(at_most(f"{name}: monotonicity violations of {3 * taus.size}", float(wrong), "count", 0))
    return found


def _taus(policy: ThresholdPolicy, given: Material, kappa: FloatArray) -> FloatArray:
    """[states, n], or [states, 1] where the request does not matter."""
    if isinstance(policy, OptimalThreshold):
        return policy.taus(kappa)
    return np.array([[policy.threshold(state, ANY_WORK)] for state in grid(given.prices)])


def _earned(given: Material, kappa: FloatArray, taus: FloatArray) -> FloatArray:
    """Utility of each request, averaged over the states: [n], dollars."""
    held, value = given.held, given.objective.value_usd
    taus = taus if taus.ndim == 2 else taus[:, None]
    kept = (held.score >= taus) & (held.score > 0)
    edge, cloud = value * held.edge_right, value * held.cloud_right - kappa
    return np.asarray(np.where(kept, edge, cloud).mean(axis=0), dtype=np.float64)


def _interval(gains: FloatArray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _dense(policy: ThresholdPolicy, given: Material, work: object) -> FloatArray:
    """tau over bandwidth (rising), round-trip time and price (both falling): [DENSE, DENSE, DENSE]."""
    axes: Mapping[str, FloatArray] = {
        name: np.geomspace(min(values) / 2, max(values) * 2, DENSE)
        for name, values in (("bps", BANDWIDTHS_BPS), ("rtt", RTTS_MS), ("price", DEARER))
    }
    return np.array(
        [
            [
                [
                    policy.threshold(RoutingState(LinkState(rtt, bps, bps), dearer(given.prices, price)), work)  # type: ignore[arg-type]
                    for price in axes["price"]
                ]
                for rtt in axes["rtt"]
            ]
            for bps in axes["bps"]
        ]
    )
