"""What stands around the threshold: budgets, hard caps, a guarantee on wrong answers, drift, the cloud as learnt.

One per node. ``threshold`` and ``floor`` turn the policy's tau into the one that counts; ``allow`` is the hard cap;
``answered`` and ``labelled`` are told what became of requests. Which wins: a budget is a price and lowers tau; a
guarantee and an alarm are floors and raise it again; a cap forbids the cloud whatever tau says. The rules are
``policies.budget``, ``risk`` and ``drift``; here is their state, bounded; the cloud's is ``CloudKnowledge``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from actors.answer import Answer, CloudCall
from actors.cloud_knowledge import CloudKnowledge
from policies.budget import Budgets, DualAscent, Spent, TokenBucket
from policies.cost import cloud_cost_usd, cloud_latency_s
from policies.drift import MIN_SCORES, DriftMonitor, Reference
from policies.risk import Audits, SafeThreshold, bounded_risk
from policies.toolcalls import same_answer
from policies.types import CloudSpeed, CloudWork, Objective, Reason, RoutingState

logger = logging.getLogger(__name__)

PROOF_SIZE = 100  # labels of the first attempt at a proof; each further one has twice as many and half the delta
ATTEMPTS = 7  # what 6,400 labels do not prove is not so
REFERENCE_SCORES = 2 * MIN_SCORES  # of new weights, before changes are looked for
CALIBRATION_GAP = 0.05  # labels may be off by this much, and by the cloud's own mistakes, without an alarm


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """What a node has to keep to; None is no such limit.

    Args:
        budgets: kept to on average.
        cap_offloads_per_hour, cap_usd_per_hour: never exceeded, drafts are served instead.
        risk: most that P(served by the edge and wrong) may be, kept with probability 1 - ``risk_delta``.
        safe_threshold: the least threshold while drift is suspected; 0 ignores drift.
    """

    budgets: Budgets = field(default_factory=Budgets)
    cap_offloads_per_hour: float | None = None
    cap_usd_per_hour: float | None = None
    risk: float | None = None
    risk_delta: float = 0.05
    safe_threshold: float = 0.9


class Limits:
    """The limits of one node.

    Args:
        objective: what V and the cloud's accuracy are.
        speed: the cloud's speed before anything was learnt.
        clock: monotonic seconds; ``rng`` breaks ties in the drift test.
    """

    def __init__(
        self,
        options: LimitOptions,
        objective: Objective,
        speed: CloudSpeed,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._options, self._clock, self._rng = options, clock, rng or random.Random()
        self._gap = min(CALIBRATION_GAP + 1.0 - objective.cloud_accuracy, 1.0)
        self._ascent = DualAscent(options.budgets, objective.value_usd)
        self._budgeted = any(value is not None for value in _values(options.budgets))
        self._offloads = _bucket(options.cap_offloads_per_hour)
        self._dollars = _bucket(options.cap_usd_per_hour)
        self.cloud = CloudKnowledge(speed, clock)
        self._forget("")

    @property
    def budget_left(self) -> float:
        """Share of the scarcest hard cap that is left, in [0, 1]; 1 without one."""
        now_s = self._clock()
        return min((bucket.left(now_s) for bucket in (self._offloads, self._dollars) if bucket), default=1.0)

    def threshold(self, tau: float, state: RoutingState, work: CloudWork, objective: Objective) -> float:
        """The policy's ``tau`` under budgets, in [0, 1]; ``floor`` comes on top."""
        if self._budgeted:
            seconds = cloud_latency_s(work, state.link, self.cloud.speed, state.queue_s)
            penalty = self._ascent.penalty_usd(cloud_cost_usd(work, state.prices), seconds)
            tau = max(tau - penalty / objective.value_usd, 0.0)
        return tau

    def allow(self, most_usd: float) -> bool:
        """Take one offload of at most ``most_usd`` from the hard caps; False when one is reached."""
        now_s = self._clock()
        if self._dollars and not self._dollars.take(most_usd, now_s):
            return False
        if self._offloads and not self._offloads.take(1.0, now_s):
            if self._dollars:
                self._dollars.put_back(most_usd)
            return False
        return True

    def settle(self, most_usd: float, cost_usd: float) -> None:
        """What an allowed offload did not spend goes back."""
        if self._dollars:
            self._dollars.put_back(max(most_usd - cost_usd, 0.0))

    def answered(self, answer: Answer) -> None:
        """A request has its answer."""
        if self._budgeted:
            self._count(answer)
        if answer.draft.version != self._version:
            self._forget(answer.draft.version)
        self._watch(answer.draft.expected, answer.decision.score)

    def labelled(self, answer: Answer, cloud: CloudCall | None) -> None:
        """A request is done; ``cloud`` is what is known of the cloud's answer, served or found by an audit."""
        draft, propensity = answer.draft, answer.decision.propensity
        failed = cloud is not None and cloud.text is None  # no answer came: missing at random
        if not draft.whole or draft.version != self._version or propensity <= 0.0 or failed:
            return
        truth = cloud.parsed if cloud else None
        right = truth is not None and draft.error is None and same_answer(draft.parsed, truth)
        if truth is None:
            return
        if self._options.risk is not None and propensity == 1.0:
            self._prove(answer.decision.score, not right)
        if self._monitor and draft.error is None:
            self._monitor.observe_label(answer.decision.score, right)
            self._alarm(self._monitor)

    def gauges(self) -> dict[str, float]:
        """Every figure by name."""
        drift = self._monitor.gauges() if self._monitor else {}
        return {
            **self._ascent.gauges(),
            **self.cloud.gauges(),
            **drift,
            "budget_left": self.budget_left,
            "drift_alarm": float(self._alarmed),
            "threshold_floor": self.floor,
            "edge_risk": self._proved.risk,
        }

    @property
    def floor(self) -> float:
        """The least threshold that guarantee and alarm allow.

        Whether a draft is made does not depend on it: what never is drafted could never prove itself.
        """
        risk = self._proved.tau if self._options.risk is not None else 0.0
        return max(risk, self._options.safe_threshold if self._alarmed else 0.0)

    def _count(self, answer: Answer) -> None:
        asked = answer.cloud is not None
        possible = answer.reason is not Reason.EDGE_ASKED and not answer.degraded
        self._ascent = self._ascent.observe(Spent(asked, answer.cost_usd, answer.seconds, possible), self._clock())

    def _forget(self, version: str) -> None:
        """New weights: nothing that was proved or watched holds for them."""
        self._version, self._attempt = version, 0
        self._audits: list[tuple[float, bool]] = []  # at most PROOF_SIZE * 2 ** (ATTEMPTS - 1)
        self._scores: list[float] = []  # at most REFERENCE_SCORES
        self._monitor: DriftMonitor | None = None
        self._alarmed = False
        self._proved = SafeThreshold(1.0, 0.0, "nothing is known of these weights yet")

    def _watch(self, expected: float | None, score: float) -> None:
        """One more request.

        Not its score is watched but what its prompt says of it: which drafts are made at all depends on the threshold,
        so their scores change with every link, while of prompts all are seen. Without a forecast labels alone are.
        """
        if self._options.safe_threshold == 0.0:
            return
        if self._monitor is not None:
            if expected is not None:
                self._monitor.observe_score(expected, self._rng.random())
                self._alarm(self._monitor)
            return
        self._scores.append(score if expected is None else expected)
        if len(self._scores) >= REFERENCE_SCORES:
            self._monitor = DriftMonitor(Reference.fit(self._scores, self._gap))

    def _alarm(self, monitor: DriftMonitor) -> None:
        if self._alarmed or not monitor.state.alarm:
            return
        self._alarmed = True
        reason, safe = monitor.state.reason, self._options.safe_threshold
        logger.warning("%s; the threshold of %s is at least %.2f from now on", reason, self._version, safe)

    def _prove(self, score: float, wrong: bool) -> None:
        """One more label while everything goes to the cloud; a proof, once made, holds for these weights.

        Only then is every draft labelled with certainty, and looking again and again would find a proof by chance:
        so the sizes are fixed, and delta is shared out among them.
        """
        size = PROOF_SIZE * 2**self._attempt
        if self._proved.tau < 1.0 or self._attempt >= ATTEMPTS:
            return
        self._audits.append((score, wrong))
        if len(self._audits) < size:
            return
        assert self._options.risk is not None
        scores, wrongs = (np.array(column) for column in zip(*self._audits, strict=True))
        ones, self._attempt = np.ones(size), self._attempt + 1
        delta = self._options.risk_delta / 2**self._attempt
        self._proved = bounded_risk(Audits(scores, wrongs, ones > 0, ones), self._options.risk, delta)
        logger.warning("%s: %s", self._version, self._proved.reason)


def _bucket(limit: float | None) -> TokenBucket | None:
    return None if limit is None else TokenBucket(limit, 3600.0)


def _values(budgets: Budgets) -> tuple[float | None, ...]:
    return budgets.offload_rate, budgets.usd_per_hour, budgets.p95_s
