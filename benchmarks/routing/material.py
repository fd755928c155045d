"""What everything here is measured on: real answers of both models, a grid of link states, and traces with arrivals.

No model was trained on any of the requests. Rules are fitted on one half and judged on the other; the worth of an
answer, of a second and the prices are those of the demo; ``cloud_accuracy`` is what the cloud reached on the one.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.both_answers import Both, collect, outcomes, scores
from cluster.traces import Trace, load, resolve
from orchestrator.demo.run import demo_config
from orchestrator.tasks.generator import Split
from policies.outcomes import Outcomes
from policies.score import FloatArray
from policies.types import CloudSpeed, LinkState, Objective, Prices, RoutingState

BANDWIDTHS_BPS = (0.1e6, 0.5e6, 2e6, 10e6, 50e6)
RTTS_MS = (10.0, 50.0, 100.0, 200.0, 400.0)
DEARER = (0.5, 1.0, 2.0, 5.0)
SYNTHETIC = ("driving", "rural", "walking")
TRACE_RTT_MS = 60.0  # of a cellular link without a queue
TARIFF_S, PEAK = 300.0, 4.0  # the price list changes every five minutes, between itself and four times itself
WINDOW_S = 1.0  # over which a site would have measured its bandwidth


@dataclass(frozen=True, slots=True)
class Material:
    """Requests to fit on and to judge with, and what answers are worth."""

    fit_rows: Sequence[Both]
    rows: Sequence[Both]
    fit: Outcomes
    held: Outcomes
    objective: Objective
    prices: Prices
    speed: CloudSpeed


def material(quick: bool, var: Path) -> Material:
    """The bundled models' answers (asked once, then kept under ``var``)."""
    every = collect(Split.TEST, 800 if quick else 12_000, var)
    fit_rows, rows = every[: len(every) // 2], every[len(every) // 2 :]
    config = demo_config(var)
    fit = outcomes(fit_rows, scores(fit_rows))
    objective = replace(config.policy.objective, cloud_accuracy=float(fit.cloud_right.mean()))
    return Material(fit_rows, rows, fit, outcomes(rows, scores(rows)), objective, config.prices, config.policy.speed)


def grid(prices: Prices) -> list[RoutingState]:
    """Bandwidth x round-trip time x price: 100 states."""
    return [
        RoutingState(LinkState(rtt, bps, bps), dearer(prices, factor))
        for bps, rtt, factor in product(BANDWIDTHS_BPS, RTTS_MS, DEARER)
    ]


def dearer(prices: Prices, factor: float) -> Prices:
    """Every price times ``factor``."""
    return Prices(**{field.name: factor * getattr(prices, field.name) for field in fields(Prices)})


def traces(recorded: Path | None) -> dict[str, tuple[Trace, Trace]]:
    """Up and down by name: the synthetic ones, and those recorded where there are any."""
    found = {name: (resolve(f"{name}.up"), resolve(f"{name}.down")) for name in SYNTHETIC}
    for up in sorted(recorded.glob("*.up")) if recorded else ():
        down = up.with_suffix(".down")
        if down.exists():
            found[up.stem] = (load(up), load(down))
    return found


def arrivals(file: Path | None, count: int, seed: int) -> FloatArray:
    """Seconds at which requests come: the head of a recorded trace, or at random at its mean rate (Poisson)."""
    if file is None:
        return np.cumsum(np.random.default_rng(seed).exponential(1 / 2.5, count))
    with file.open(encoding="ascii") as lines:
        stamps = [row["TIMESTAMP"][:26] for row in csv.DictReader(lines)]
    times = np.array([datetime.fromisoformat(stamp).timestamp() for stamp in stamps[:count]])
    return np.asarray(times - times[0], dtype=np.float64)


def states_over(pair: tuple[Trace, Trace], times: FloatArray, prices: Prices) -> list[RoutingState]:
    """What a site sees at each arrival: bandwidth of the last second, the price list of the moment."""
    return [_state(pair, float(now), prices) for now in times]


def _state(pair: tuple[Trace, Trace], now: float, prices: Prices) -> RoutingState:
    begun = max(now - WINDOW_S, 0.0)
    up, down = (8.0 * (trace.arrived(begun + WINDOW_S) - trace.arrived(begun)) / WINDOW_S for trace in pair)
    factor = PEAK if int(now // TARIFF_S) % 2 else 1.0
    return RoutingState(LinkState(TRACE_RTT_MS, up, down, up=up > 0 and down > 0), dearer(prices, factor))
