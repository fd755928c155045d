"""The rules that a replay compares: named policies, and always edge-only, cloud-only and what the log's own did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os.path import isfile
from pathlib import Path

from orchestrator.policy_options import PolicyOptions
from policies.errors import BadConfig
from policies.fitting import BoolArray
from policies.replay import Priced, kept, thresholds
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy

PolicyLoader = Callable[[Path, str | None], ThresholdPolicy]
"""Reads a policy file made for the scores of an edge version; raises ``BadConfig``."""

EDGE_ONLY, CLOUD_ONLY, LOGGED = "edge only", "cloud only", "as logged"


def build_policy(name: str, options: PolicyOptions, version: str, load: PolicyLoader) -> ThresholdPolicy:
    """The policy ``fixed:TAU``, ``optimal`` or the one in a file.

    Raises:
        BadConfig: there is no such policy, or its file cannot be used.
    """
    kind, _, value = name.partition(":")
    if kind == "fixed":
        return FixedThreshold(_tau(name, value))
    if name == "optimal":
        return OptimalThreshold(options.objective, options.speed, options.floor)
    path = Path(name)
    if path.suffix != ".json":
        raise BadConfig(f"--policy {name}: there is no such policy. Fix: give fixed:TAU, optimal or a policy FILE.json")
    if not isfile(path):
        raise BadConfig(f"--policy {name}: there is no such file. Fix: give the path that netgpt train policy wrote")
    return load(path, version or None)


def rules(priced: Priced, policies: Sequence[tuple[str, ThresholdPolicy]]) -> dict[str, BoolArray]:
    """Which drafts each rule keeps, [n], by name.

    Raises:
        BadConfig: a policy gives a threshold that is no probability.
    """
    log = priced.log
    found = {EDGE_ONLY: log.score >= 0.0, CLOUD_ONLY: ~log.up, LOGGED: ~log.offloaded}
    for name, policy in policies:
        try:
            found[name] = kept(log, thresholds(policy, priced))
        except ValueError as why:
            raise BadConfig(f"--policy {name}: it cannot decide on this log: {why}. Fix: fit it again") from why
    return found


def _tau(name: str, value: str) -> float:
    try:
        tau = float(value)
    except ValueError:
        tau = -1.0
    if not 0.0 <= tau <= 1.0:
        raise BadConfig(f"--policy {name}: the threshold must be a number in [0, 1]. Fix: write it like fixed:0.7")
    return tau
