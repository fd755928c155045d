"""Against routers that users already have: one that sees the prompt alone, and a cascade with a fixed threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, at_least
from benchmarks.routing.material import Material, arrivals, states_over, traces
from policies.outcomes import kappas
from policies.prompt_score import PromptScore
from policies.score import FloatArray

OF_CLOUD = 0.95  # the success that is asked for, as a share of the cloud's
VALUES = np.geomspace(1 / 32, 32, 81)  # worth of an answer, relative to the objective's


def against_prompt_only(given: Material) -> list[Figure]:
    """Offloads at 95 % of the cloud's success: by the draft's score, and by a predictor that sees the prompt alone."""
    right = given.fit.edge_right > 0.5
    router = PromptScore.fit([row.question for row in given.fit_rows], [row.offered for row in given.fit_rows], right)
    by_prompt = np.array([router.predict(row.question, row.offered) for row in given.rows])
    perfect = given.held.edge_right - 0.5 * given.held.cloud_right
    least, ours, theirs = (_offloads_at(given, score) for score in (perfect, given.held.score, by_prompt))
    return [
        Figure("offloads at 95 % of the cloud's success, at least (a router that knows)", least, "share"),
        Figure("offloads at 95 % of the cloud's success, by the draft", ours, "share"),
        Figure("offloads at 95 % of the cloud's success, by the prompt alone", theirs, "share"),
        at_least("fewer offloads than the prompt-only router", 1.0 - ours / theirs, "share", 0.2),
    ]


def against_fixed(given: Material, recorded: Path | None, times: Path | None) -> list[Figure]:
    """Money plus priced latency at equal success over trace-driven runs, against the best fixed cascade."""
    found, saved = [], []
    for name, pair in traces(recorded).items():
        when = arrivals(times, len(given.rows), 0)
        states = states_over(pair, when, given.prices)
        alive = np.array([state.link.up for state in states])
        kappa = _own_kappa(given, states)
        target = OF_CLOUD * given.held.cloud_right.mean()
        fixed = _cheapest(given, kappa, alive, target, [np.full(len(kappa), tau) for tau in np.linspace(0, 1, 401)])
        closed = [
            np.clip(given.objective.cloud_accuracy - kappa / (given.objective.value_usd * factor), 0, 1)
            for factor in VALUES
        ]
        saved.append(1.0 - _cheapest(given, kappa, alive, target, closed) / fixed)
        found.append(Figure(f"{name}: less money and priced latency than the best fixed cascade", saved[-1], "share"))
    return [*found, at_least("mean over the traces", float(np.mean(saved)), "share", 0.15)]


def _own_kappa(given: Material, states: list) -> FloatArray:  # type: ignore[type-arg]
    """Each request's price in the state of its own arrival: [n]."""
    distinct = list(dict.fromkeys(states))
    place = {state: index for index, state in enumerate(distinct)}
    every = kappas(given.held, distinct, given.speed, given.objective)
    return every[[place[state] for state in states], np.arange(len(states))]


def _offloads_at(given: Material, score: FloatArray) -> float:
    """Smallest share of offloads, the lowest scores first, that reaches the target success."""
    order = np.argsort(score, kind="stable")
    gained = (given.held.cloud_right - given.held.edge_right)[order]
    success = given.held.edge_right.mean() + np.concatenate([[0.0], np.cumsum(gained)]) / len(score)
    reached = np.flatnonzero(success >= OF_CLOUD * given.held.cloud_right.mean())
    return float(reached[0] / len(score)) if len(reached) else 1.0


def _cheapest(given: Material, kappa: FloatArray, alive: FloatArray, target: float, rules: list[FloatArray]) -> float:
    """Least mean price of a rule that reaches the success which is possible while the link is sometimes down.

    Costs between two neighbouring rules are interpolated at the target, so that no rule profits from a coarse sweep.
    """
    held = given.held
    possible = np.where(alive, held.cloud_right, held.edge_right).mean() / held.cloud_right.mean()
    points = []
    for taus in rules:
        sent = ((held.score < taus) | (held.score == 0)) & alive
        points.append((float(np.where(sent, held.cloud_right, held.edge_right).mean()), float((sent * kappa).mean())))
    points.sort(key=lambda point: point[1])
    success, cost = (np.array(column) for column in zip(*points, strict=True))
    best = np.maximum.accumulate(success)
    first = int(np.argmax(best >= target * possible))
    if best[first] < target * possible:
        raise SystemExit(f"no rule reaches {target * possible:.3f} success on this trace; the most is {best[-1]:.3f}")
    if first == 0 or best[first] == best[first - 1]:
        return float(cost[first])
    share = (target * possible - best[first - 1]) / (best[first] - best[first - 1])
    return float(cost[first - 1] + share * (cost[first] - cost[first - 1]))
