"""What is promised about scores, risk and budgets, on the held-out requests."""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure, at_most
from benchmarks.routing.material import Material
from policies.budget import Budgets, DualAscent, Spent, TokenBucket
from policies.calibration import auroc, brier, ece
from policies.cost import cloud_latency_s, kappa
from policies.risk import Audits, bounded_risk
from policies.types import CloudWork, LinkState, RoutingState

ALPHA, DELTA, RESAMPLES, AUDITED = 0.05, 0.1, 200, 2000
CAP_PER_HOUR, BURST = 900.0, 20.0
ASKED_PER_S = 2.0
LINKS = (  # changed abruptly, after so many requests
    (LinkState(10.0, 5e7, 1e8), 150),
    (LinkState(400.0, 1e5, 2e5), 100),
    (LinkState(60.0, 2e6, 8e6), 100),
    (LinkState(60.0, 2e6, 8e6, up=False), 50),
)


def calibration(given: Material) -> list[Figure]:
    """How well the scores hold."""
    right = given.held.edge_right > 0.5
    return [
        at_most("expected calibration error", ece(given.held.score, right), "share", 0.03),
        Figure("Brier score", brier(given.held.score, right), ""),
        Figure("AUROC", auroc(given.held.score, right), ""),
    ]


def guarantee(given: Material) -> list[Figure]:
    """Resamples of audits, drawn from the held-out requests, after which the risk on all of these exceeds alpha."""
    rng, score, wrong = np.random.default_rng(0), given.held.score, given.held.edge_right < 0.5
    exceeded, served, ones = 0, [], np.ones(AUDITED)
    for _ in range(RESAMPLES):
        seen = rng.integers(len(score), size=AUDITED)
        found = bounded_risk(Audits(score[seen], wrong[seen], ones > 0, ones), ALPHA, DELTA)
        kept = score >= found.tau
        exceeded += bool((kept & wrong).mean() > ALPHA)
        served.append(float(kept.mean()))
    return [
        at_most(f"resamples whose risk exceeds {ALPHA:g}", exceeded / RESAMPLES, "share", DELTA),
        Figure("share served by the edge under the guarantee", float(np.mean(served)), "share"),
    ]


def budgets(given: Material, seeds: int) -> list[Figure]:
    """A budget on offloads over 2,000 requests while the link changes abruptly; and a hard cap.

    The budget lies half-way between what no budget can forbid (invalid drafts) and what is sent without one: a budget
    above demand is met by doing nothing, one below the invalid drafts by nobody.
    """
    off, over, targets = 0.0, 0.0, []
    for seed in range(seeds):
        free, forced = _ride(given, seed, None), _ride(given, seed, 0.0)
        targets.append((free[0] + forced[0]) / 2)
        rate, most = _ride(given, seed, targets[-1])
        off, over = max(off, abs(rate - targets[-1])), max(over, most)
    return [
        Figure("offload budget", float(np.mean(targets)), "share"),
        at_most("offload budget: furthest off in any run", 100 * off, "points", 1.0),
        at_most("hard cap: most by which it was exceeded", over, "requests", 0.0),
    ]


def _ride(given: Material, seed: int, budget: float | None) -> tuple[float, float]:
    """Realised offload rate under a soft budget; and by how many offloads the hard cap was exceeded."""
    links = [link for link, length in LINKS for _ in range(length)]
    ascent = DualAscent(Budgets(offload_rate=budget), given.objective.value_usd)
    bucket, taken, worst, sent = TokenBucket(CAP_PER_HOUR, 3600.0, BURST), 0, 0.0, 0
    for n, i in enumerate(np.random.default_rng(seed).integers(len(given.held), size=2000)):
        now, score = n / ASKED_PER_S, given.held.score[i]
        state = RoutingState(links[n % len(links)], given.prices)
        work = _work(given, i)
        seconds = cloud_latency_s(work, state.link, given.speed)
        price = kappa(work, state, given.speed, given.objective) + ascent.penalty_usd(0.0, seconds)
        tau = given.objective.cloud_accuracy - price / given.objective.value_usd
        offload = bool(state.link.up and (score < tau or score == 0.0))
        sent += offload
        ascent = ascent.observe(Spent(offload, 0.0, seconds, state.link.up), now)
        taken += offload and bucket.take(1.0, now)
        worst = max(worst, taken - (BURST + CAP_PER_HOUR / 3600.0 * now))
    return sent / 2000, max(worst, 0.0)


def _work(given: Material, i: int) -> CloudWork:
    _, fresh, cached, output, up, down = given.held.amounts[i]
    return CloudWork(int(up), int(down), int(fresh + cached), int(output), int(cached))
