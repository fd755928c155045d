"""How long a decision takes on one core, and a score that reads the model's hidden states."""

from __future__ import annotations

import random
import shutil
import tempfile
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.engine import Completion, Prompt
from actors.limits import LimitOptions, Limits
from actors.scorer import Proposal, first_scorer
from actors.scorers import DraftScorer, Evidence, Labelled, build_scorer, fit_scorer
from benchmarks.both_answers import SEED, Both
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.routing.material import Material, grid
from benchmarks.routing.thresholds import fitted
from orchestrator.bundled.train import MODELS
from orchestrator.tasks.generator import Split, Task, tasks
from policies.budget import Budgets
from policies.calibration import auroc
from policies.decide import decide, worth_making
from policies.early import ScoreBound
from policies.replay import Estimator, Logged, figures, kept, price, thresholds
from policies.soft_gate import typical_work
from policies.threshold import OptimalThreshold, ThresholdPolicy
from policies.toolcalls import parse
from policies.types import LinkState, RoutingState

TARGET_US = 50.0
TARGET_MS = 2.0  # of a preference score
TARGET_RATE, LOGGED = 200_000, 200_000  # requests a second, and in the log
LEARNT = 4000  # requests at most that the reward head and its map are fitted on, half each
TIMED, ROUNDS = 100, 10


def decisions(given: Material) -> list[Figure]:
    """For a typical request: once before its draft, from the prompt; once after it, from the draft.

    Before: p(x), what a draft would gain, threshold, budget. After: features, calibration, threshold, budget, the rule.
    """
    scorer = first_scorer(MODELS / "edge")
    row = given.rows[0]
    state, work = RoutingState(LinkState(60.0, 2e6, 8e6), given.prices), typical_work(given.held)
    limits = Limits(LimitOptions(budgets=Budgets(offload_rate=0.3)), given.objective, given.speed, rng=random.Random(0))
    assert scorer.forecast is not None and scorer.forecast.spread is not None
    spread, expected, found = scorer.forecast.spread, scorer.expected(row.question, row.offered), []
    for name, policy in fitted(given).items():

        def tau(policy: ThresholdPolicy = policy) -> float:
            return limits.threshold(policy.threshold(state, work), state, work, given.objective)

        def before(tau: Callable[[], float] = tau) -> None:
            worth_making(spread.gain(scorer.expected(row.question, row.offered) or 0.0, tau()), 0.1, given.objective)

        def after(tau: Callable[[], float] = tau) -> None:
            decide(scorer.score(row.logprobs, True, expected), None, tau(), True, 0.05)

        found.append(at_most(f"one decision before a draft, {name}", _microseconds(before), "us", TARGET_US))
        found.append(at_most(f"one decision after it, {name}", _microseconds(after), "us", TARGET_US))
    token = Figure("the bound, each token", _token(scorer.bound, row.logprobs), "us")
    return [*found, token, *replay_rate(given), *preference(given)]


def replay_rate(given: Material) -> list[Figure]:
    """Logged requests a second that a replay prices, decides and estimates, where each saw a state of its own."""
    states = [replace(state, queue_s=0.001 * n) for n in range(LOGGED // 100) for state in grid(given.prices)]
    row = np.arange(LOGGED) % len(given.held)
    score, propensity = given.held.score[row], np.where(given.held.score[row] < 0.7, 1.0, 0.1)
    labelled = np.random.default_rng(0).random(LOGGED) < propensity
    right, amounts = given.held.edge_right[row] * (score > 0), given.held.amounts[row]
    log = Logged(
        score, score > 0, score < 0.7, labelled, propensity, right, amounts, np.arange(LOGGED), states,
    )  # fmt: skip
    rule = OptimalThreshold(given.objective, given.speed)

    def once() -> None:
        priced = price(log, given.speed, given.objective)
        figures(priced, kept(log, thresholds(rule, priced)), Estimator.DR)

    return [at_least("replay", LOGGED / min(timeit.repeat(once, number=1, repeat=5)), "requests/s", TARGET_RATE)]


def preference(given: Material) -> list[Figure]:
    """The scorer that reads hidden states, fitted on the one half of the requests and judged on the other."""
    asked = list(zip([*given.fit_rows, *given.rows], tasks(SEED, Split.TEST), strict=False))
    half = len(given.fit_rows)
    fit = [_labelled(row, task) for row, task in asked[:half][:LEARNT]]
    valid = [(row, task) for row, task in asked[half:][:LEARNT] if row.draft_valid]
    held, right = [_labelled(row, task) for row, task in valid], np.array([row.edge_right for row, _ in valid])
    with _one_thread(), tempfile.TemporaryDirectory() as scratch:
        edge = shutil.copytree(MODELS / "edge", Path(scratch) / "edge")
        fit_scorer("preference", Evidence(edge, fit[: len(fit) // 2], fit[len(fit) // 2 :]))
        scorer = build_scorer("preference", edge)
        scores = np.array([scorer.score(one.prompt, one.proposals).scores[0] for one in held])
        took = _milliseconds(scorer, held[:TIMED])
    return [
        at_most("a preference score, one draft", took, "ms", TARGET_MS),
        Figure("a preference score, AUROC on valid drafts", auroc(scores, right), ""),
    ]


def _labelled(row: Both, task: Task) -> Labelled:
    assert task.messages[-1]["content"] == row.question, "the kept answers are to other requests"
    draft = Proposal(Completion(row.draft, row.logprobs, "stop", len(row.logprobs)), parse(row.draft), row.draft_valid)
    return Labelled(Prompt(task.messages, task.tools), [draft], task.text)


def _milliseconds(scorer: DraftScorer, drafts: Sequence[Labelled]) -> float:
    """The median request's fastest of ``ROUNDS``, each of which scores every request once."""
    rounds = [
        [timeit.timeit(lambda one=one: scorer.score(one.prompt, one.proposals), number=1) for one in drafts]  # type: ignore[misc]
        for _ in range(ROUNDS)
    ]
    return 1e3 * float(np.median(np.min(rounds, axis=0)))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
