"""How long a decision takes on one core."""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable, Sequence

from actors.limits import LimitOptions, Limits
from actors.scorer import first_scorer
from benchmarks.figures import Figure, at_most
from benchmarks.routing.material import Material
from benchmarks.routing.thresholds import fitted
from orchestrator.bundled.train import MODELS
from policies.budget import Budgets
from policies.decide import decide
from policies.early import ScoreBound
from policies.soft_gate import typical_work
from policies.types import LinkState, RoutingState

TARGET_US = 50.0


def decisions(given: Material) -> list[Figure]:
    """Features, calibration, threshold, budget and the rule itself, for a typical draft."""
    scorer = first_scorer(MODELS / "edge")
    row = given.rows[0]
    state, work = RoutingState(LinkState(60.0, 2e6, 8e6), given.prices), typical_work(given.held)
    limits = Limits(LimitOptions(budgets=Budgets(offload_rate=0.3)), given.objective, given.speed, rng=random.Random(0))
    found = []
    for name, policy in fitted(given).items():

        def one(policy: object = policy) -> None:
            score = scorer.score(row.logprobs, True, scorer.expected(row.question, row.offered))
            tau = limits.threshold(policy.threshold(state, work), state, work, given.objective)  # type: ignore[attr-defined]
            decide(score, None, tau, True, 0.05)

        found.append(at_most(f"one decision, {name}", _microseconds(one), "us", TARGET_US))
    return [*found, Figure("the bound, each token", _token(scorer.bound, row.logprobs), "us")]


def _token(bound: ScoreBound, logprobs: Sequence[float]) -> float:
    from policies.decide import Patience  # noqa: PLC0415

    def follow() -> None:
        watch = Patience(bound, 0.0, 160)
        for logprob in logprobs:
            watch(logprob)

    return _microseconds(follow) / len(logprobs)


def _microseconds(work: Callable[[], object]) -> float:
    """The fastest of five rounds: what is slower is the machine's other work."""
    return 1e6 * min(timeit.repeat(work, number=2000, repeat=5)) / 2000
