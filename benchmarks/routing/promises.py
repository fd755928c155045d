"""What is promised about scores, risk and budgets, on the held-out requests."""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure, at_most
from benchmarks.routing.material import Material, dearer
from policies.budget import Budgets, DualAscent, Spent, TokenBucket
from policies.calibration import auroc, brier, ece
from policies.cost import amounts, cloud_latency_s, kappa
from policies.risk import Audits, bounded_risk
from policies.types import CloudWork, LinkState, RoutingState

ALPHA, DELTA, RESAMPLES, AUDITED = 0.05, 0.1, 200, 2000
TARGET, CAP_PER_HOUR = 0.25, 900.0
ASKED_PER_S = 2.0
LINKS = (  # changed abruptly, each for 100 requests
    LinkState(10.0, 5e7, 1e8),
    LinkState(400.0, 1e5, 2e5),
    LinkState(60.0, 2e6, 8e6),
    LinkState(60.0, 2e6, 8e6, up=False),
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
    """Resamples of audits in which the realised risk on all the other requests exceeds alpha."""
    rng, wrong = np.random.default_rng(0), given.held.edge_right < 0.5
    exceeded, served = 0, []
    size = min(AUDITED, len(given.held) // 2)
    for _ in range(RESAMPLES):
        order = rng.permutation(len(given.held))
        seen, rest = order[:size], order[size:]
        ones = np.ones(size)
        found = bounded_risk(Audits(given.held.score[seen], wrong[seen], ones > 0, ones), ALPHA, DELTA)
        kept = given.held.score[rest] >= found.tau
        exceeded += bool((kept & wrong[rest]).mean() > ALPHA)
        served.append(float(kept.mean()))
    return [
        at_most(f"resamples whose risk exceeds {ALPHA:g}", exceeded / RESAMPLES, "share", DELTA),
        Figure("share served by the edge under the guarantee", float(np.mean(served)), "share"),
    ]


def budgets(given: Material, seeds: int) -> list[Figure]:
    """The offload rate over 2,000 requests while the link changes abruptly; and a hard cap."""
    worst_off, over = 0.0, 0.0
    for seed in range(seeds):
        rate, most = _ride(given, seed)
        worst_off = max(worst_off, abs(rate - TARGET))
        over = max(over, most)
    return [
        at_most(f"offload budget of {TARGET:g}: furthest off", 100 * worst_off, "points", 1.0),
        at_most("hard cap: most by which it was exceeded", over, "requests", 0.0),
    ]


def _ride(given: Material, seed: int) -> tuple[float, float]:
    """Realised offload rate under the soft budget; and by how many offloads the hard cap was exceeded."""
    rng = np.random.default_rng(seed)
    ascent = DualAscent(Budgets(offload_rate=TARGET), given.objective.value_usd)
    bucket, taken, begun, worst = TokenBucket(CAP_PER_HOUR, 3600.0, 20.0), 0, 0.0, 0.0
    sent = 0
    for n, i in enumerate(rng.integers(len(given.held), size=2000)):
        now = n / ASKED_PER_S
        state = RoutingState(LINKS[(n // 100) % len(LINKS)], dearer(given.prices, 1.0))
        work = _work(given, i)
        seconds = cloud_latency_s(work, state.link, given.speed)
        price = kappa(work, state, given.speed, given.objective) + ascent.penalty_usd(0.0, seconds)
        tau = given.objective.cloud_accuracy - price / given.objective.value_usd
        offload = state.link.up and given.held.score[i] < tau
        sent += offload
        ascent = ascent.observe(Spent(bool(offload), 0.0, seconds, state.link.up), now)
        taken += given.held.score[i] < 0.999 and bucket.take(1.0, now)
        worst = max(worst, taken - (20.0 + CAP_PER_HOUR / 3600.0 * (now - begun)))
    return sent / 2000, max(worst, 0.0)


def _work(given: Material, i: int) -> CloudWork:
    _, fresh, cached, output, up, down = given.held.amounts[i]
    work = CloudWork(int(up), int(down), int(fresh + cached), int(output), int(cached))
    assert len(amounts(work)) == 6
    return work
