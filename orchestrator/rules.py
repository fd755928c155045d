"""What a site decides with, from the configuration: the first snapshot, the threshold policy, the limits, the drafting.

A fitted policy belongs to the scores of one version of the weights. Other weights are decided on by the closed form,
which needs nothing but calibrated scores, until a policy is fitted for them; the log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.drafting import DraftOptions
from actors.edge_node import NodeOptions
from actors.limits import LimitOptions, Limits
from actors.scorer import Rater, Scorer, first_scorer
from orchestrator.config import Config
from policies.budget import Budgets
from policies.control import Snapshot
from policies.errors import StoreError
from policies.policy_file import load_policy
from policies.threshold import ThresholdInputs, ThresholdPolicy, build_threshold

logger = logging.getLogger(__name__)


def default_snapshot(config: Config) -> Snapshot:
    """What a site decides with until the router speaks, and again when the router's word has expired."""
    policy, prices = config.policy, config.price_list.prices_at(time.time())
    return Snapshot(0, config.telemetry.snapshot_ttl_s, prices, policy.objective, policy.speed, policy.floor)


class PolicyBuilder:
    """Builds the threshold policy of a snapshot for the weights that are live.

    Args:
        config: kind, file and floor of the policy.
        version: of the weights that the configured file has to be fitted on.

    Raises:
        BadConfig: the file cannot be used for them.
    """

    def __init__(self, config: Config, version: str) -> None:
        self._policy, self._fitted_for, self._version = config.policy, version, version
        self._fitted = load_policy(config.policy.file, version) if config.policy.file else None

    @property
    def kind(self) -> str:
        """What decides now."""
        return "optimal" if self._fitted and self._version != self._fitted_for else self._policy.kind

    def live(self, version: str) -> None:
        """Other weights are live."""
        self._version = version
        if self._fitted and version != self._fitted_for:
            logger.warning(
                "%s was fitted for %s; %s is decided on by the closed form until a policy is fitted for it",
                self._policy.file,
                self._fitted_for,
                version,
            )

    def __call__(self, snapshot: Snapshot) -> ThresholdPolicy:
        floor = max(self._policy.floor, snapshot.threshold_floor)
        inputs = ThresholdInputs(snapshot.objective, snapshot.speed, floor, self._policy.value, self._fitted)
        return build_threshold(self.kind, inputs)


def node_options(config: Config, cloud_model: str) -> NodeOptions:
    """How the node behaves."""
    policy = config.policy
    before = policy.before and policy.kind != "fixed"
    drafting = DraftOptions(policy.samples, before, policy.during, policy.explore)
    return NodeOptions(config.site.audit_rate, drafting=drafting, cloud_model=cloud_model)


def scorer(config: Config, directory: Path) -> Scorer:
    """The configured scorer of the model version to start with.

    Raises:
        StoreError: it was not fitted for these weights; says how to.
    """
    first = first_scorer(directory)
    return first if config.policy.scorer == "logprob" else replace(first, rater=_rater(config, directory))


def next_scorer(config: Config, directory: Path) -> Scorer:
    """The scorer of new weights: the configured kind where it was fitted for them, else log-probabilities."""
    plain = Scorer.load(directory)
    if config.policy.scorer == "logprob":
        return plain
    try:
        return replace(plain, rater=_rater(config, directory))
    except StoreError as why:
        logger.warning("%s; drafts of these weights are scored by their log-probabilities", why)
        return plain


def _rater(config: Config, directory: Path) -> Rater:
    from actors.scorers import build_scorer, scorer_file  # noqa: PLC0415  (only who asks for one pays for torch)

    kind = config.policy.scorer
    if not scorer_file(directory, kind).exists():
        raise StoreError(
            f"policy.scorer: {kind} was never fitted for {directory.name}. Fix: serve with scorer logprob, then run "
            f"netgpt train scorer {kind}"
        )
    return build_scorer(kind, directory)


def limits(config: Config, clock: Callable[[], float] = time.monotonic) -> Limits:
    """What the node has to keep to."""
    policy = config.policy
    options = LimitOptions(
        budgets=Budgets(policy.budget.offload_rate, policy.budget.usd_per_hour, policy.budget.p95_s),
        cap_offloads_per_hour=policy.cap.offloads_per_hour,
        cap_usd_per_hour=policy.cap.usd_per_hour,
        risk=policy.risk,
        risk_delta=policy.risk_delta,
        safe_threshold=policy.safe_threshold,
    )
    return Limits(options, policy.objective, policy.speed, clock)
