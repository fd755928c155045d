"""What each rule earns where decisions are coupled: bursts of requests, a queue, a token bucket, over link traces.

Everything is fitted and chosen on the one half of the requests and of each trace, and judged on the other; ``coupled``
trains anew with each seed. Differences are paired: the same requests at the same moments for every rule.
"""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure, at_least
from benchmarks.routing.material import Material
from cluster import session
from cluster.options import RayOptions
from orchestrator.coupled import Coupled, best_fixed, best_priced, improved, worlds
from orchestrator.train_policy import DESIGN_STATES, design
from policies.score import FloatArray
from policies.soft_gate import fit_policynet
from policies.threshold import OptimalThreshold, ThresholdPolicy

ITERATIONS = 15  # of PPO: with the search, some 55 s a seed
RESAMPLES = 2000
FIXED, PRICED, GATE, SEARCH, PPO = "best fixed", "best closed form", "soft gate", "search", "PPO"
PER_1000 = "V per 1,000"


def coupled(given: Material, seeds: int) -> list[Figure]:
    """Utility of each rule, and with a 95 % interval what PPO earns above the others."""
    live = session.start(RayOptions(dashboard_port=0, num_cpus=2))
    try:
        runs = [_run(given, seed) for seed in range(seeds)]
    finally:
        live.stop()
    requests = np.concatenate([requests for requests, _ in runs])
    earned = {name: np.concatenate([rules[name] for _, rules in runs]) for name in runs[0][1]}
    found = [
        Figure(f"coupled: {name}", 1e3 * float(np.average(each, weights=requests)), PER_1000)
        for name, each in earned.items()
    ]
    for other in (FIXED, PRICED, SEARCH):
        low, high = _interval(earned[PPO] - earned[other], requests)
        name = f"coupled: PPO - {other}, 95 %"
        found += [
            at_least(f"{name} low", low, PER_1000, 0.0) if other == FIXED else Figure(f"{name} low", low, PER_1000),
            Figure(f"{name} high", high, PER_1000),
        ]
    return found


def _run(given: Material, seed: int) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Requests in each scenario that was held out, and what each rule earns there in V per request."""
    train, choose, judge = worlds((given.fit, given.held), given.prices, given.speed, given.objective, seed)
    states = design(given.prices, DESIGN_STATES, seed)
    made = improved(train, choose, states, ITERATIONS)
    rules: dict[str, ThresholdPolicy] = {
        FIXED: best_fixed(train),
        "closed form": OptimalThreshold(given.objective, given.speed),
        PRICED: best_priced(train),
        GATE: fit_policynet(given.fit, states, given.speed, given.objective, seed=seed),
        SEARCH: made.start,
        PPO: made.policy,
    }
    return _requests(judge), {name: judge.by_scenario(rule) for name, rule in rules.items()}


def _requests(world: Coupled) -> FloatArray:
    return np.array([len(scenario.arrivals_s) for scenario in world.scenarios], dtype=np.float64)


def _interval(gains: FloatArray, requests: FloatArray) -> tuple[float, float]:
    """Of the mean gain per 1,000 requests, scenarios drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    means = (gains * requests)[drawn].sum(axis=1) / requests[drawn].sum(axis=1)
    low, high = np.quantile(1e3 * means, (0.025, 0.975))
    return float(low), float(high)
