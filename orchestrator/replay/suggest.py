"""``--suggest``: the policy settings that reach a target at least cost, found on the log.

Candidates are every fixed threshold to 1/100 from policy.floor on, and the closed form with other values of an answer:
V is the multiplier of a success target or of a budget, so sweeping it traces the closed form's quality-cost frontier.
Of those whose estimate (exact, else doubly robust) reaches a success target the one with the least money and priced
time is taken; of those within a cost or offload target the one with the most success.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import yaml

from orchestrator.policy_options import PolicyOptions
from orchestrator.replay.results import CONFIDENCE, best_estimator
from policies.errors import BadConfig
from policies.replay import Estimate, Figures, Priced, estimate, figures, kept, resample, thresholds
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy

FIXED = tuple(n / 100 for n in range(101))
VALUES = tuple(float(factor) for factor in np.geomspace(1 / 64, 64, 97))  # eight steps an octave


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: at least this success, or at most this cost in dollars per 1,000 or share of offloads."""

    name: str
    value: float

    def reached(self, means: Figures) -> bool:
        """Whether a policy with these means will do."""
        return self.measure(means) >= self.value if self.name == "success" else self.measure(means) <= self.value

    def measure(self, means: Figures) -> float:
        """The figure that is targeted, in the target's unit."""
        return TARGETS[self.name](means)

    def rank(self, means: Figures) -> tuple[float, float]:
        """The better of two that reach the target ranks lower."""
        cost = means.money_usd + means.latency_usd
        return (cost, -means.success) if self.name == "success" else (-means.success, cost)


TARGETS: dict[str, Callable[[Figures], float]] = {
    "success": lambda means: means.success,
    "cost_usd_per_k": lambda means: 1e3 * means.money_usd,
    "offload": lambda means: means.offload,
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings (keys of the section ``policy``) and what they are estimated to give."""

    target: Target
    settings: dict[str, Any]
    estimate: Estimate

    @property
    def text(self) -> str:
        """A piece of a configuration file with what it promises as its comment."""
        mean, low, high = self.estimate.mean, self.estimate.low, self.estimate.high
        promise = (
            f"# {self.target.name}={self.target.value:g}: success {mean.success:.4f} [{low.success:.4f}, "
            f"{high.success:.4f}], ${1e3 * mean.money_usd:.4g} per 1,000 [{1e3 * low.money_usd:.4g}, "
            f"{1e3 * high.money_usd:.4g}], offload {mean.offload:.4f} [{low.offload:.4f}, {high.offload:.4f}]\n"
            f"# estimator {self.estimate.estimator}, {CONFIDENCE:.0%} intervals, "
            f"{self.estimate.effective:.0f} labelled kept drafts (effective)\n"
        )
        return promise + yaml.safe_dump({"policy": self.settings}, sort_keys=False)


def parse_target(text: str) -> Target:
    """Read ``success=0.95``, ``cost_usd_per_k=0.4`` or ``offload=0.2``.

    Raises:
        BadConfig: it is none of these, or its number is out of range.
    """
    name, _, number = text.partition("=")
    if name not in TARGETS:
        raise BadConfig(
            f"--suggest {text}: unknown target. Fix: give one of {', '.join(f'{n}=NUMBER' for n in TARGETS)}"
        )
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    most = math.inf if name == "cost_usd_per_k" else 1.0
    if not (math.isfinite(value) and 0 <= value <= most):
        bound = ">= 0" if math.isinf(most) else "in [0, 1]"
        raise BadConfig(f"--suggest {text}: {name} must be a number {bound}. Fix: write it like {name}=0.4")
    return Target(name, value)


def suggest(priced: Priced, options: PolicyOptions, target: Target, seed: int = 0) -> Suggestion:
    """The best candidate for ``target``.

    Raises:
        BadConfig: none reaches it; the message says what the log's best would be.
    """
    estimator = best_estimator(priced)
    found = [
        (settings, keeps, figures(priced, keeps, estimator))
        for settings, policy in _candidates(options)
        for keeps in [kept(priced.log, thresholds(policy, priced))]
    ]
    reaching = [one for one in found if target.reached(one[2])]
    if not reaching:
        raise BadConfig(_out_of_reach(target, [target.measure(means) for *_, means in found]))
    settings, keeps, _ = min(reaching, key=lambda one: target.rank(one[2]))
    return Suggestion(target, settings, estimate(priced, keeps, estimator, resample(len(priced.log), seed), CONFIDENCE))


def _candidates(options: PolicyOptions) -> Iterator[tuple[dict[str, Any], ThresholdPolicy]]:
    """Settings and the policy they make; numbers are rounded before they are judged, so what is printed was judged."""
    for tau in (tau for tau in FIXED if tau >= options.floor):
        yield {"kind": "fixed", "value": tau}, FixedThreshold(tau)
    for factor in VALUES:
        objective = replace(options.objective, value_usd=float(f"{options.objective.value_usd * factor:.4g}"))
        settings = {"kind": "optimal", "floor": options.floor, "objective": asdict(objective)}
        yield settings, OptimalThreshold(objective, options.speed, options.floor)


def _out_of_reach(target: Target, measured: list[float]) -> str:
    """What can be had instead, rounded to the side that can really be reached."""
    if target.name == "success":
        extreme, best = "most", math.floor(1e4 * max(measured)) / 1e4
    else:
        extreme, best = "least", math.ceil(1e4 * min(measured)) / 1e4
    return (
        f"--suggest {target.name}={target.value:g}: no threshold reaches it on this log, the {extreme} is {best:g}. "
        f"Fix: ask for {target.name}={best:g}"
    )
