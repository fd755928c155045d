"""What a site decides with, from the configuration: the first snapshot, the threshold policy, the limits, the drafting.

A fitted threshold belongs to the scores of one version of the weights. A version that came out of a training round
brings its own (``orchestrator.refit``), ``policy.file`` is for the weights it was fitted on, and all others are decided
on by the closed form, which needs nothing but calibrated scores. The log says which decides, and why.
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
from actors.swap import Weights
from orchestrator.config import Config
from orchestrator.own_threshold import FITTED, has_parent, own_threshold
from policies.budget import Budgets
from policies.control import Snapshot
from policies.errors import BadConfig, StoreError
from policies.policy_file import load_policy
from policies.threshold import ThresholdInputs, ThresholdPolicy, build_threshold

logger = logging.getLogger(__name__)

NOTHING_FITTED = "nothing was fitted for this version"


def default_snapshot(config: Config) -> Snapshot:
    """What a site decides with until the router speaks, and again when the router's word has expired."""
    policy, prices = config.policy, config.price_list.prices_at(time.time())
    return Snapshot(0, config.telemetry.snapshot_ttl_s, prices, policy.objective, policy.speed, policy.floor)


class PolicyBuilder:
    """Builds the threshold policy of a snapshot for the weights that are live.

    Args:
        config: kind, file and floor of the policy.
        weights: what the site starts with.

    Raises:
        BadConfig: nothing that is fitted can be used for these weights, and they did not come out of a round.
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        self._options = config.policy
        self._wanted = config.policy.kind in FITTED or config.policy.file is not None
        self.live(weights)
        if self._wanted and self._fitted is None and not has_parent(weights.path):
            self._configured(weights.version)

    @property
    def kind(self) -> str:
        """What decides now."""
        return "optimal" if self._options.kind in FITTED and self._fitted is None else self._options.kind

    def live(self, weights: Weights) -> None:
        """Decide for other weights from now on; reads two small files at most."""
        self.reason, self._fitted = "as configured", None
        if self._wanted:
            self.reason, self._fitted = self._own(weights) or self._in_file(weights) or (NOTHING_FITTED, None)
            logger.info("%s is decided on by %s: %s", weights.version, self.kind, self.reason)

    def __call__(self, snapshot: Snapshot) -> ThresholdPolicy:
        floor = max(self._options.floor, snapshot.threshold_floor)
        inputs = ThresholdInputs(snapshot.objective, snapshot.speed, floor, self._options.value, self._fitted)
        return build_threshold(self.kind, inputs)

    def _own(self, weights: Weights) -> tuple[str, ThresholdPolicy] | None:
        """What the version brings along."""
        try:
            found = own_threshold(weights.path, self._options.scorer)
            return None if found is None else ("fitted with this version", self._of_kind(found))
        except BadConfig as why:
            logger.error("the threshold of %s is not used: %s", weights.version, why)
            return None

    def _in_file(self, weights: Weights) -> tuple[str, ThresholdPolicy] | None:
        try:
            return "policy.file was fitted for this version", self._configured(weights.version)
        except BadConfig as why:
            logger.warning("%s waits for a policy that is fitted for it: %s", weights.version, why)
            return None

    def _configured(self, version: str) -> ThresholdPolicy:
        assert self._options.file is not None, "checked by the configuration"
        return self._of_kind(load_policy(self._options.file, version))

    def _of_kind(self, policy: ThresholdPolicy) -> ThresholdPolicy:
        """``policy``, if it is of the configured kind."""
        options = self._options
        build_threshold(options.kind, ThresholdInputs(options.objective, options.speed, fitted=policy))
        return policy


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
