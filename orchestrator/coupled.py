"""Where decisions are coupled: link traces, bursts of requests, a cloud with a queue and a token budget; and who wins.

``scenarios`` and ``coupling`` make the world, ``Coupled`` plays a policy in it. ``best_fixed`` and ``best_priced`` are
what a practitioner would tune on the training traces; ``improved`` is a network made by fit, search and PPO. Everything
is chosen on the first half of each trace; what a rule earns counts on the other.

What was found. With requests at one constant rate the state is worth nothing: a constant threshold keeps the budget as
well as any rule, the best closed form with a price on the budget included. Real requests come in bursts (minutes of
the Azure LLM trace of 2023 vary by 1.04 of their mean), and then it is worth about 30 answers in 1,000, nearly all of
it by heeding the queue: the closed form blind to it is no better than a constant. A network fitted without a price on
the cloud heeds it too little (a search brought that one to 830 V per 1,000 requests, the priced closed form earns
835); one fitted under that form's price starts level with it. A fine for what exceeds the budget has no counterpart in
serving, where a cap refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression

from cluster.traces import resolve
from policies.coupled_search import search
from policies.gain import GainCurve
from policies.outcomes import Outcomes
from policies.routing_env import Coupling, Scenario, play
from policies.score import FloatArray
from policies.soft_gate import fit_policynet
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy
from policies.types import CloudSpeed, LinkState, Objective, Prices, RoutingState

if TYPE_CHECKING:
    from cluster.train_policy import PPORun

TRACES = ("driving", "rural", "walking")
SLICE_S = 30  # the first half minute of a trace is trained on, the second held out
SCENARIO_S, ARRIVALS_PER_S = 300, 4.0
BURST_S = 30  # a rate lasts so long; drawn exponentially, minutes vary by 0.7 of their mean: less than real ones
LOAD = 1.2  # of the coupled cloud if everything went there: a queue that decisions can keep short, or not
BUDGET_SHARE, BUDGET_S = 0.3, 60.0  # of all requests: less than an unconstrained threshold would send
TRAINED, CHOSEN, JUDGED = 48, 24, 36  # scenarios
SEARCHED = 12  # of those trained on, that a search plays: 20 s
SEARCH_BLOCK = 5  # requests of one threshold while searching: a fifth of the time, and hardly another order
SHARES = np.linspace(0.0, 1.0, 41)
DUALS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
ALL = 1_000_000  # requests: a fixed threshold is the same for all


@dataclass(frozen=True, slots=True)
class Coupled:
    """Requests with both answers on some scenarios: a world to train or to judge in."""

    outcomes: Outcomes
    scenarios: Sequence[Scenario]
    coupling: Coupling
    speed: CloudSpeed
    objective: Objective
    seed: int = 0

    def earned(self, policy: ThresholdPolicy, block: int = 1) -> float:
        """Utility in V per request; the same requests for every policy."""
        requests = [len(scenario.arrivals_s) for scenario in self.scenarios]
        return float(np.average(self.by_scenario(policy, block), weights=requests))

    def by_scenario(self, policy: ThresholdPolicy, block: int = 1) -> FloatArray:
        """Utility in V per request of each scenario: [len(scenarios)]."""
        given = (self.outcomes, self.scenarios, self.coupling, self.speed, self.objective)
        return play(policy, *given, block=ALL if isinstance(policy, FixedThreshold) else block, seed=self.seed)


def worlds(
    outcomes: tuple[Outcomes, Outcomes], prices: Prices, speed: CloudSpeed, objective: Objective, seed: int
) -> tuple[Coupled, Coupled, Coupled]:
    """To train in, to choose an iteration in, and, with the requests and traces held out, to judge in."""
    train, held = outcomes
    around = (coupling(train), speed, objective, seed)
    shown = scenarios(prices, TRAINED + CHOSEN, seed, False)
    return (
        Coupled(train, shown[:TRAINED], *around),
        Coupled(train, shown[TRAINED:], *around),
        Coupled(held, scenarios(prices, JUDGED, seed, True), *around),
    )


def best_fixed(world: Coupled) -> FixedThreshold:
    """Of the thresholds that each keep another share of the drafts, the one that earns most in ``world``."""
    taus = np.unique([0.0, *np.quantile(world.outcomes.score, SHARES), 1.0])
    return max((FixedThreshold(float(tau)) for tau in taus), key=world.earned)


def best_priced(world: Coupled) -> OptimalThreshold:
    """The closed form, with the measured gain, under the price on the cloud that earns most in ``world``.

    The price is a dual one: everything the cloud costs counts 1 + mu times, as if answers were worth that much less.
    """
    curve, objective = GainCurve.fit(world.outcomes), world.objective
    rules = [
        OptimalThreshold(replace(objective, value_usd=objective.value_usd / (1.0 + mu)), world.speed, curve=curve)
        for mu in DUALS
    ]
    return max(rules, key=lambda rule: world.earned(rule, SEARCH_BLOCK))


def improved(
    train: Coupled, choose: Coupled, states: Sequence[RoutingState], iterations: int, floor: float = 0.0
) -> PPORun:
    """A network fitted under the best price on the cloud, made better by search and by PPO in ``train``.

    Args:
        choose: where the iteration is chosen.
        states: what the fit covers.

    Raises:
        BadConfig: there is too little to fit on.
        EngineError: PPO diverged.
    """
    from cluster.train_policy import train_ppo  # noqa: PLC0415  (RLlib takes seconds to import)

    few = replace(train, scenarios=train.scenarios[:SEARCHED])
    priced = best_priced(few).objective
    net = fit_policynet(train.outcomes, states, train.speed, priced, floor=floor, seed=train.seed)
    start = search(net, best_fixed(few).value, lambda policy: few.earned(policy, SEARCH_BLOCK), train.seed)
    env = {name: getattr(train, name) for name in ("scenarios", "coupling", "speed", "objective")}
    env["outcomes"] = expected(train.outcomes)
    return train_ppo(start, env, lambda policy: choose.earned(policy, SEARCH_BLOCK), iterations, train.seed)


def expected(outcomes: Outcomes) -> Outcomes:
    """The same requests with the chance that either answer is right, given the score: luck is noise to a gradient.

    Both chances rise with the score (isotonic regression): what is hard for the edge is hard for the cloud.
    """
    sure = outcomes.part(outcomes.weights > 0)
    sure = sure.part(np.argsort(sure.score, kind="stable"))
    edge, cloud = (isotonic_regression(right, weights=sure.weights).x for right in (sure.edge_right, sure.cloud_right))
    return replace(sure, edge_right=np.clip(edge, 0.0, 1.0), cloud_right=np.clip(cloud, 0.0, 1.0))


def coupling(outcomes: Outcomes) -> Coupling:
    """A bucket of tokens for ``BUDGET_SHARE`` of a minute's requests, and a busy cloud."""
    tokens = float(np.average(outcomes.amounts[:, 1:4].sum(axis=1), weights=outcomes.weights))
    offered = tokens * ARRIVALS_PER_S
    return Coupling(BUDGET_SHARE * offered * BUDGET_S, BUDGET_S, offered / LOAD, "tokens")


def scenarios(prices: Prices, count: int, seed: int, held_out: bool) -> list[Scenario]:
    """The bundled traces with random round-trip times and tariffs, and requests that come in bursts."""
    random = np.random.default_rng([seed, held_out])
    return [_scenario(TRACES[i % len(TRACES)], prices, SLICE_S * held_out, random) for i in range(count)]


def _scenario(name: str, prices: Prices, start: int, random: np.random.Generator) -> Scenario:
    rtt_ms, tariff = float(np.exp(random.uniform(math.log(20), math.log(300)))), float(random.choice([1.0, 2.0]))
    now = Prices(**{field.name: getattr(prices, field.name) * tariff for field in fields(Prices)})
    up, down = (_rates(f"{name}.{way}", start) for way in ("up", "down"))
    links = [LinkState(rtt_ms, u, d, up=u > 0 and d > 0) for u, d in zip(up, down, strict=True)]
    trace = [(float(s), RoutingState(links[s % SLICE_S], now)) for s in range(SCENARIO_S)]
    return Scenario(trace, _arrivals(random))


def _rates(name: str, start: int) -> list[float]:
    """Bits that could have crossed in each second of a slice."""
    trace = resolve(name)
    return [8.0 * (trace.arrived(s + 1.0) - trace.arrived(s)) for s in range(start, start + SLICE_S)]


def _arrivals(random: np.random.Generator) -> list[float]:
    """A Poisson process whose rate is drawn anew every ``BURST_S``; one request at least."""
    times = [random.uniform(0, SCENARIO_S, 1)]
    for begin in range(0, SCENARIO_S, BURST_S):
        count = random.poisson(random.exponential(ARRIVALS_PER_S) * BURST_S)
        times.append(random.uniform(begin, begin + BURST_S, count))
    return [float(time) for time in np.sort(np.concatenate(times))]
