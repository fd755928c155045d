"""``netgpt train policy``: from an offload log to the file of a threshold that follows the network.

The log's labelled requests become ``Outcomes`` (a draft is right when it says what the cloud said; the cloud itself is
right with the objective's ``cloud_accuracy``; a label stands for 1 / propensity requests, capped). What they would have
earned follows for any link and any prices, so the fit covers a wide design of states besides the log's own. Kind
``optimal`` only measures what the cloud adds at each score; of the others ``soft`` fits by gradient, and ``ppo`` goes
on from there with RLlib where decisions are coupled by a budget and a queue. The table compares on requests, and for
PPO on link traces, that were held out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.config import Config
from orchestrator.replay.reading import read
from orchestrator.screening import said
from policies.errors import BadConfig
from policies.funcdyn import ANY_WORK, FuncDyn
from policies.gain import GainCurve
from policies.outcomes import Outcomes, kappas
from policies.policy_file import save
from policies.policynet import PolicyNet
from policies.score import FloatArray
from policies.soft_gate import best_thresholds, check_enough, earned, fit_funcdyn, fit_policynet
from policies.threshold import OptimalThreshold
from policies.types import LinkState, Prices, RoutingState

T = TypeVar("T")
Policy = FuncDyn | PolicyNet | OptimalThreshold

HELD_OUT = 0.3
WEIGHT_CAP = 20.0  # the weight of an audit at the default rate; more on one record only adds noise
DESIGN_STATES, LOG_STATES = 256, 64


@dataclass(frozen=True, slots=True)
class Source:
    """What is trained on: requests, the states they were seen in, and the version that scored them.

    ``left_out`` counts the records of the log that made no sense, by reason.
    """

    outcomes: Outcomes
    states: Sequence[RoutingState]
    score_version: str
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """The policy in the file, and the rows of the tables: utility in V per request by rule."""

    policy: Policy
    figures: dict[str, float]
    coupled: dict[str, float]


def train_policy(
    source: Path | Source,
    config: Config,
    out: Path,
    *,
    method: Literal["soft", "ppo"] = "soft",
    kind: Literal["optimal", "funcdyn", "policynet"] = "policynet",
    iterations: int = 60,
    seed: int = 0,
    console: Console | None = None,
) -> Trained:
    """Fit a policy, show what it gains, write it to ``out``.

    Args:
        source: root of an offload log, or what was made of one.
        iterations: of PPO, 4,000 steps each.
        console: where the tables go; None shows nothing.

    Raises:
        BadConfig: the method does not fit the kind, there is too little to learn from, or ``out`` cannot be written.
        LogError: the log cannot be read, or nothing that makes sense is in it.
        EngineError: PPO diverged.
    """
    if method == "ppo" and kind != "policynet":
        raise BadConfig(f"method ppo trains kind policynet, got {kind}. Fix: use method soft, or kind policynet")
    given = from_log(source, config.policy.objective.cloud_accuracy) if isinstance(source, Path) else source
    if console is not None and given.left_out:
        console.print(said(given.left_out), markup=False, highlight=False)
    train, held = _split(given.outcomes, seed)
    states = [*design(_prices(config), DESIGN_STATES, seed), *spread(given.states, LOG_STATES)]
    policy = _fit(kind, train, states, config, seed)
    coupled: dict[str, float] = {}
    if method == "ppo":
        assert isinstance(policy, PolicyNet)
        policy, coupled = _ppo(policy, (train, held), states, config, iterations, seed)
    alive = [state for state in given.states if state.link.up]
    judged = spread(alive, LOG_STATES) or design(_prices(config), LOG_STATES, seed + 1)
    figures = _compare(policy, (train, held), judged, config)
    save(out, policy, given.score_version, _fitted(given, states, config, method, figures, coupled))
    if console is not None:
        console.print(_table(f"{out}: held-out requests, no coupling", figures))
        if coupled:
            console.print(_table("held-out traces with a budget and a queue", coupled))
    return Trained(policy, figures, coupled)


def _fit(kind: str, train: Outcomes, states: Sequence[RoutingState], config: Config, seed: int) -> Policy:
    options = config.policy
    if kind == "optimal":
        drafts = train.part((train.score > 0) & (train.weights > 0))
        check_enough(drafts)
        return OptimalThreshold(options.objective, options.speed, options.floor, GainCurve.fit(drafts))
    given = (train, states, options.speed, options.objective)
    if kind == "funcdyn":
        return fit_funcdyn(*given, floor=options.floor)
    return fit_policynet(*given, floor=options.floor, seed=seed)


def from_log(root: Path, cloud_accuracy: float) -> Source:
    """The labelled requests of the log's newest edge version; scores of another version mean something else.

    Raises:
        LogError: the log cannot be read, or holds no record that makes sense or no label.
    """
    reading = read(root)
    log = reading.logged
    rows = log.labelled & reading.newest
    score = np.where(log.valid, log.score, 0.0)[rows]
    weights = np.minimum(1.0 / log.propensity[rows], WEIGHT_CAP)
    cloud = np.full(len(score), cloud_accuracy)
    outcomes = Outcomes(score, log.edge_right[rows], cloud, log.amounts[rows], weights)
    return Source(outcomes, log.states, reading.version, reading.left_out)


def design(prices: Prices, count: int, seed: int) -> list[RoutingState]:
    """Random states that cover what a link, a price list (a quarter to five times ``prices``) and a queue may do."""
    random = np.random.default_rng(seed)

    def scaled(low: float, high: float) -> float:
        return float(np.exp(random.uniform(math.log(low), math.log(high))))

    states = []
    for _ in range(count):
        link = LinkState(
            scaled(5.0, 800.0), scaled(5e4, 1e8), scaled(5e4, 1e8), random.uniform(0, 100), random.uniform(0, 0.1)
        )
        dearer = Prices(**{field.name: getattr(prices, field.name) * scaled(0.25, 5.0) for field in fields(Prices)})
        queue_s = random.exponential(1.0) if random.random() < 0.5 else 0.0  # half the time there is none
        states.append(RoutingState(link, dearer, float(queue_s), random.random()))
    return states


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most ``most`` of ``items``, evenly."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, most).astype(int))] if items else []


def _ppo(
    gate: PolicyNet,
    outcomes: tuple[Outcomes, Outcomes],
    states: Sequence[RoutingState],
    config: Config,
    iterations: int,
    seed: int,
) -> tuple[PolicyNet, dict[str, float]]:
    """The network for coupled decisions, with what each rule earns on the held-out traces; ``gate`` knows of none."""
    from cluster import session  # noqa: PLC0415
    from orchestrator.coupled import best_fixed, best_priced, improved, worlds  # noqa: PLC0415

    options = config.policy
    train, choose, judge = worlds(outcomes, _prices(config), options.speed, options.objective, seed)
    live = session.start(config.ray)
    try:
        run = improved(train, choose, states, iterations, options.floor)
    finally:
        live.stop()
    fixed = best_fixed(train)
    return run.policy, {
        f"best fixed ({fixed.value:.2f})": judge.earned(fixed),
        "closed form": judge.earned(OptimalThreshold(options.objective, options.speed, options.floor)),
        "closed form, best price on the cloud": judge.earned(best_priced(train)),
        "soft gate": judge.earned(gate),
        "after the search": judge.earned(run.start),
        f"PPO, iteration {run.iteration}": judge.earned(run.policy),
    }


def _compare(
    policy: Policy, outcomes: tuple[Outcomes, Outcomes], states: Sequence[RoutingState], config: Config
) -> dict[str, float]:
    """Utility in V per request on the held-out requests, each in every state; the best fixed is found on the others."""
    train, held = outcomes
    options, value = config.policy, config.policy.objective.value_usd
    learnt = kappas(train, states, options.speed, options.objective).mean(axis=0, keepdims=True)
    price = kappas(held, states, options.speed, options.objective)
    fixed = float(best_thresholds(train, learnt, value)[0])

    def mean(taus: FloatArray) -> float:
        return float(earned(held, price, taus, value).mean()) / value

    ours = (
        policy.taus(price)
        if isinstance(policy, OptimalThreshold)
        else np.array([policy.threshold(state, ANY_WORK) for state in states])
    )
    name = "closed form, measured gain" if isinstance(policy, OptimalThreshold) else type(policy).__name__
    return {
        f"best fixed ({fixed:.2f})": mean(np.full(len(states), fixed)),
        "closed form": mean(OptimalThreshold(options.objective, options.speed, options.floor).taus(price)),
        name: mean(ours),
        "per-state oracle": mean(best_thresholds(held, price, value)),
    }


def _table(title: str, figures: dict[str, float]) -> Table:
    """Utilities in answers per 1,000 requests, and what each gains over the first row."""
    table = Table(title=title, title_justify="left")
    for name in ("policy", "utility, V per 1,000", "against best fixed"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    first = next(iter(figures.values()))
    for name, figure in figures.items():
        table.add_row(name, f"{1e3 * figure:.1f}", f"{1e3 * (figure - first):+.1f}")
    return table


def _fitted(
    given: Source,
    states: Sequence[RoutingState],
    config: Config,
    method: str,
    figures: dict[str, float],
    coupled: dict[str, float],
) -> dict[str, Any]:
    """What the file says for people."""
    return {
        "method": method,
        "requests": len(given.outcomes),
        "left_out": dict(given.left_out),
        "states": len(states),
        "objective": asdict(config.policy.objective),
        "speed": asdict(config.policy.speed),
        "utility_per_value": figures,
        "coupled_utility_per_value": coupled,
    }


def _prices(config: Config) -> Prices:
    """Of this hour: the design covers what a tariff makes of them."""
    return config.price_list.prices_at(time.time())


def _split(outcomes: Outcomes, seed: int) -> tuple[Outcomes, Outcomes]:
    rows = np.random.default_rng(seed).permutation(len(outcomes))
    held = int(HELD_OUT * len(rows))
    return outcomes.part(rows[held:]), outcomes.part(rows[:held])
