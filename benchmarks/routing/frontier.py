"""Against routers that users already have: one that sees the prompt alone, and a cascade with a fixed threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.scorer import first_scorer
from benchmarks.figures import Figure, at_least
from benchmarks.routing.drafts import TOKEN_S, Drafts
from benchmarks.routing.material import Material, arrivals, states_over, traces
from orchestrator.bundled.train import MODELS
from policies.fitting import BoolArray, IntArray
from policies.gain import GainCurve
from policies.outcomes import kappas
from policies.prompt_score import PromptScore
from policies.score import FloatArray

OF_CLOUD = 0.95  # the success that is asked for, as a share of the cloud's
LEVELS = (OF_CLOUD, 0.99, 1.0)
VALUES = np.geomspace(1 / 32, 32, 81)  # worth of an answer, relative to the objective's
TAUS = np.linspace(0.0, 1.0, 401)
Point = tuple[float, float]  # success, dollars a request


def against_prompt_only(given: Material) -> list[Figure]:
    """Offloads at a share of the cloud's success: by the draft's score, and by predictors that see the prompt alone.

    The best of the latter predicts what RouteLLM's do, that the cloud wins. The fewest offloads that any router could
    do with are those of one that knows both answers.
    """
    found, gain = [], given.held.cloud_right - given.held.edge_right
    wins = _by_prompt(given, (given.fit.cloud_right > 0.5) & (given.fit.edge_right < 0.5))
    fails = 1.0 - _by_prompt(given, given.fit.edge_right > 0.5)
    cloud = _by_prompt(given, given.fit.cloud_right > 0.5)
    for level in LEVELS:
        at = f"offloads at {level:.0%} of the cloud's success"
        theirs = min(_offloads_at(given, worth, level) for worth in (wins, fails))
        ours = _offloads_at(given, 1.0 - given.held.score, level)
        fewer = 1.0 - ours / theirs
        name = f"fewer offloads than the prompt-only router at {level:.0%}"
        found += [
            Figure(f"{at}, by a router that knows both answers", _offloads_at(given, gain, level), "share"),
            Figure(f"{at}, by the prompt alone", theirs, "share"),
            Figure(f"{at}, by the draft's score", ours, "share"),
            Figure(
                f"{at}, by the score and P(cloud right | x)",
                _offloads_at(given, cloud - given.held.score, level),
                "share",
            ),
            at_least(name, fewer, "share", 0.2) if level == OF_CLOUD else Figure(name, fewer, "share"),
        ]
    return found


def against_fixed(given: Material, recorded: Path | None, times: Path | None) -> list[Figure]:
    """Money plus priced latency, drafts included, at equal success over trace-driven runs, against the best cascade.

    Both have the same scores. The cascade makes every draft and has one threshold; ours follows link and price list,
    and does not begin or finish drafts that could not be kept.
    """
    drafts, found, threshold_only, saved = Drafts.of(given.rows, first_scorer(MODELS / "edge")), [], [], []
    for name, pair in traces(recorded).items():
        states = states_over(pair, arrivals(times, len(given.rows), 0), given.prices)
        run = Run(given, drafts, _own_kappa(given, states), np.array([state.link.up for state in states]))
        fixed = run.cheapest([run.cascade(np.full(len(given.rows), tau)) for tau in TAUS])
        threshold_only.append(1.0 - run.cheapest([run.cascade(run.taus(value)) for value in run.values]) / fixed)
        saved.append(1.0 - run.cheapest([run.early(value) for value in run.values]) / fixed)
        found.append(Figure(f"{name}: less money and priced latency than the best fixed cascade", saved[-1], "share"))
    return [
        *found,
        Figure("mean over the traces, by the threshold alone", float(np.mean(threshold_only)), "share"),
        at_least("mean over the traces", float(np.mean(saved)), "share", 0.15),
    ]


class Run:
    """One trace: the requests at their arrivals, each with its own price ``kappa`` [n] and link ``alive`` [n]."""

    def __init__(self, given: Material, drafts: Drafts, kappa: FloatArray, alive: BoolArray) -> None:
        self._given, self._drafts, self._kappa, self._alive = given, drafts, kappa, alive
        self._curve, self._second = GainCurve.fit(given.fit), given.objective.second_usd
        self.values = VALUES * given.objective.value_usd

    def taus(self, value_usd: float) -> FloatArray:
        """The optimal threshold of each request if an answer were worth so much."""
        return self._curve.taus(self._kappa / value_usd)

    def cascade(self, taus: FloatArray) -> Point:
        """Every draft is made to its end."""
        return self._point(self._below(taus), self._drafts.length)

    def early(self, value_usd: float) -> Point:
        """With the decisions before and during a draft; while the link is down all drafts are made."""
        taus = self.taus(value_usd)
        begun = self._drafts.begun(taus, value_usd, self._second)
        tokens = np.where(self._alive, self._drafts.made(taus, begun), self._drafts.length)
        return self._point(self._below(taus) | ~begun, tokens)

    def cheapest(self, points: list[Point]) -> float:
        """Least cost of a rule that reaches the success which is possible while the link is sometimes down.

        Costs between two neighbouring rules are interpolated at the target: no rule profits from a coarse sweep.
        """
        held = self._given.held
        target = OF_CLOUD * float(np.where(self._alive, held.cloud_right, held.edge_right).mean())
        success, cost = (np.array(column) for column in zip(*sorted(points, key=lambda p: p[1]), strict=True))
        best = np.maximum.accumulate(success)
        first = int(np.argmax(best >= target))
        if best[first] < target:
            raise SystemExit(f"no rule reaches {target:.3f} success on this trace; the most is {best[-1]:.3f}")
        if first == 0 or best[first] == best[first - 1]:
            return float(cost[first])
        share = (target - best[first - 1]) / (best[first] - best[first - 1])
        return float(cost[first - 1] + share * (cost[first] - cost[first - 1]))

    def _below(self, taus: FloatArray) -> BoolArray:
        score = self._given.held.score
        return np.asarray((score < taus) | (score == 0.0))

    def _point(self, sent: BoolArray, tokens: IntArray) -> Point:
        held, sent = self._given.held, sent & self._alive
        success = np.where(sent, held.cloud_right, held.edge_right).mean()
        return float(success), float((sent * self._kappa + self._second * TOKEN_S * tokens).mean())


def _by_prompt(given: Material, label: BoolArray) -> FloatArray:
    """P(label | prompt) of the held-out requests, fitted on the others: [n]."""
    router = PromptScore.fit([row.question for row in given.fit_rows], [row.offered for row in given.fit_rows], label)
    return np.array([router.predict(row.question, row.offered) for row in given.rows])


def _own_kappa(given: Material, states: list) -> FloatArray:  # type: ignore[type-arg]
    """Each request's price in the state of its own arrival: [n]."""
    distinct = list(dict.fromkeys(states))
    place = {state: index for index, state in enumerate(distinct)}
    every = kappas(given.held, distinct, given.speed, given.objective)
    return every[[place[state] for state in states], np.arange(len(states))]


def _offloads_at(given: Material, worth: FloatArray, level: float) -> float:
    """Smallest share of offloads, the most worthwhile first, that reaches ``level`` of the cloud's success."""
    order = np.argsort(-worth, kind="stable")
    gained = (given.held.cloud_right - given.held.edge_right)[order]
    success = given.held.edge_right.mean() + np.concatenate([[0.0], np.cumsum(gained)]) / len(worth)
    reached = np.flatnonzero(success >= level * given.held.cloud_right.mean())
    return float(reached[0] / len(worth)) if len(reached) else 1.0
