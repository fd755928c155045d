"""The edge node of one site: draft, score, decide, answer, log.

A plain class on one event loop, without HTTP and without Ray. It is given its engine, its cloud leg, the link's
state, the rules of the moment and the log, and makes every decision itself; drafts are ``actors.drafting``'s. What can
fail around it: the edge engine (the request goes to the cloud), the cloud (the best valid draft, ``degraded``), both
(``Refused`` 503), the log (counted, never felt by a client). Cancelling ``answer`` cancels the draft or the cloud call
it waits for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from actors.answer import Answer, CloudCall, Draft, Served, Situation, to_record
from actors.chat import ChatRequest
from actors.cloud_calls import CloudCalls, Link
from actors.controls import barred, wished
from actors.drafting import Drafter, DraftOptions, Outlook
from actors.engine import Engine
from actors.flow import Flow, Listener, broken_off
from actors.limits import LimitOptions, Limits
from actors.log_record import OffloadRecord
from actors.node_counts import NodeCounts
from actors.scorer import Scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Swapper, SwapReport, Weights
from policies.cost import cloud_latency_s
from policies.decide import decide
from policies.errors import NetGPTError, Refused
from policies.types import CloudWork, Decision, LinkState, Reason, Route, RoutingState

logger = logging.getLogger(__name__)
T = TypeVar("T")

UP_OVERHEAD_BYTES, DOWN_OVERHEAD_BYTES = 400, 600  # HTTP headers and OpenAI's envelope around prompt and answer
AUDIT_UPLOAD_S = 1.0  # an upload that takes longer would hold up the next request's
UNAVAILABLE, TOO_LATE = 503, 504


class Log(Protocol):
    """Where records go; ``actors.offload_log.OffloadLog`` is one."""

    def append(self, record: OffloadRecord) -> int | None:
        """Take one record without blocking; None when it was shed."""
        ...

    def gauges(self) -> dict[str, float]:
        """Its figures by name."""
        ...


class Observer(Protocol):
    """Told about every answer and every swap, for metrics; must not block or raise."""

    def answered(self, answer: Answer) -> None:
        """One request was answered."""
        ...

    def swapped(self, report: SwapReport) -> None:
        """A swap ended, one way or the other."""
        ...


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node behaves.

    Args:
        audit_rate: share of kept drafts the cloud also answers in the background, for the log.
        audit_limit: audits at once; while so many run none is begun, and the propensity logged is 0.
        drafting: how drafts are made.
        cloud_model: the cloud model's name in the log.
    """

    audit_rate: float = 0.05
    audit_limit: int = 4
    drafting: DraftOptions = field(default_factory=DraftOptions)
    cloud_model: str = "cloud"


class EdgeNode:
    """Answers requests at the edge where that is good enough, and in the cloud where it is not.

    Args:
        engine: the edge model, loaded.
        weights: the version it was loaded with.
        scorers: the scorer of that version, and room for the next.
        cloud: the cloud leg; None makes the site edge-only.
        rules: snapshot and threshold policy.
        limits: budgets, caps and guarantees; None for none, not even a watch for drift.
        link, log: see the protocols above.
        verify: checks a version's directory against its checksum before a swap.
        load_scorer: reads the scorer of a version's directory.
        clock: monotonic seconds; ``wall`` is Unix time; ``rng`` draws the audits.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        weights: Weights,
        scorers: Scorers,
        cloud: Engine | None,
        rules: SiteRules,
        link: Link,
        log: Log,
        verify: Callable[[Path, str], None],
        limits: Limits | None = None,
        load_scorer: Callable[[Path], Scorer] = Scorer.load,
        options: NodeOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.rules, self.options = rules, options or NodeOptions()
        self.observers: list[Observer] = []
        self.counts = NodeCounts()
        self._link, self._log, self._has_cloud = link, log, cloud is not None
        self._clock, self._wall, self._rng = clock, wall, rng or random.Random()
        self.limits = limits or _unlimited(rules)
        self._cloud = CloudCalls(cloud, self.options.cloud_model, link, self.limits, rules, clock)
        self._swapper = Swapper(engine, weights, scorers, verify, clock, load_scorer)
        self._drafter = Drafter(engine, scorers, self.options.drafting, lambda: self.version, clock, self._rng)
        self._audits: set[asyncio.Task[None]] = set()  # at most options.audit_limit, see _has_room

    @property
    def version(self) -> str:
        """The weights that are live."""
        return self._swapper.live.version

    async def answer(self, request: ChatRequest, listener: Listener | None = None) -> Answer:
        """Answer ``request`` and see to it that exactly one record of it is logged.

        Args:
            listener: is given the answer while it comes: the cloud's, or a draft's that nothing competes with. What it
                did not get, the caller has to give it.

        Raises:
            BadRequest: no model could answer it as sent.
            EngineError: the answer broke off when the listener had heard a part of it.
            Refused: (503) the cloud was not to be had and no valid draft either; (504) the request's deadline passed.
        """
        began = self._clock()
        try:
            flow = Flow(request, listener, Route.EDGE) if listener else None
            proposing = self._drafter.propose(request, self._outlook(request), flow.hear if flow else None)
            draft = await _in_time(proposing, request.controls.deadline_s)
            work = self._drafter.work(request, draft, UP_OVERHEAD_BYTES, DOWN_OVERHEAD_BYTES)
            situation = self._situation(self.limits.cloud.expected(work))
            decision = self._decide(request, draft, situation, self._clock() - began)
            decision = flow.kept(decision) if flow else decision
            answer = await self._settle(request, draft, situation, decision, began, flow)
        except (asyncio.CancelledError, NetGPTError) as why:
            self.counts.failed(why)
            raise
        self._finish(answer)
        return answer

    async def swap(self, version: str, path: Path, sha256: str) -> SwapReport:
        """Make other weights live while requests run; see ``actors.swap``. Failure keeps the old ones."""
        report = await self._swapper.swap(Weights(version, path), sha256)
        self.counts.swapped(report)
        for observer in self.observers:
            observer.swapped(report)
        return report

    async def close(self, grace_s: float = 5.0) -> None:
        """Let running audits end within ``grace_s``, then cut them; their records are logged either way."""
        if self._audits:
            await asyncio.wait(self._audits, timeout=grace_s)
        for audit in list(self._audits):
            audit.cancel()
        await asyncio.gather(*self._audits, return_exceptions=True)

    def gauges(self) -> dict[str, float]:
        """Every figure of the site by name: requests, last decision, link, log and its lag, money.

        ``inputs_clamped`` is how many figures of link, prices, queue and budget lie outside what the threshold was
        fitted on; 0 for one that was not fitted.
        """
        log = self._log.gauges()
        lag = log.get("log_seq", 0.0) - log.get("log_durable_seq", 0.0)
        own = {**self.counts.gauges(self.version), **self.limits.gauges()}
        clamped = float(self.rules.clamped(self._state()))
        return {**own, **self._link.gauges(), **log, "log_lag": lag, "inputs_clamped": clamped}

    def _outlook(self, request: ChatRequest) -> Outlook | None:
        """What a draft will have to compete with; None where the cloud could not be asked."""
        if request.controls.stays or not self._cloud.possible:
            return None
        work = self._drafter.expected_work(request, UP_OVERHEAD_BYTES, DOWN_OVERHEAD_BYTES)
        tau = self._tau(self._state(), self.limits.cloud.expected(work))
        return Outlook(tau, self.rules.current()[0].objective)

    def _state(self) -> RoutingState:
        prices = self.rules.current()[0].prices
        return RoutingState(self._link.state(), prices, self.limits.cloud.queue_s, self.limits.budget_left)

    def _tau(self, state: RoutingState, work: CloudWork) -> float:
        snapshot, policy = self.rules.current()
        return self.limits.threshold(policy.threshold(state, work), state, work, snapshot.objective)

    def _situation(self, work: CloudWork) -> Situation:
        state, snapshot = self._state(), self.rules.current()[0]
        if not self._has_cloud:
            return Situation(state, snapshot, self.rules.kind, 0.0, 0.0, work)
        tau = max(self._tau(state, work), self.limits.floor)
        audit_rate = self.options.audit_rate if self._has_room(state.link, work) else 0.0
        return Situation(state, snapshot, self.rules.kind, tau, audit_rate, work)

    def _has_room(self, link: LinkState, work: CloudWork) -> bool:
        """Whether the link can carry an audit."""
        quick = 8.0 * work.up_bytes <= AUDIT_UPLOAD_S * link.up_bps
        return link.up and quick and len(self._audits) < self.options.audit_limit

    def _decide(self, request: ChatRequest, draft: Draft, situation: Situation, spent_s: float) -> Decision:
        state, controls = situation.state, request.controls
        link_up = state.link.up or not self._has_cloud
        made = decide(draft.score, draft.unusable, situation.threshold, link_up, situation.audit_rate)
        made = wished(made, controls, link_up)
        if made.route is not Route.CLOUD:
            return made
        most_usd = self._cloud.most_usd(request, situation)
        expected_s = cloud_latency_s(situation.work, state.link, self.limits.cloud.speed, state.queue_s)
        why_not = barred(controls, most_usd, expected_s, spent_s)
        if why_not is None and not self.limits.allow(most_usd):
            why_not = Reason.CAP_REACHED
        return replace(made, route=Route.EDGE, reason=why_not, propensity=0.0) if why_not else made

    async def _settle(
        self,
        request: ChatRequest,
        draft: Draft,
        situation: Situation,
        decision: Decision,
        began: float,
        flow: Flow | None,
    ) -> Answer:
        """Carry the decision out; where the cloud fails, the best valid draft stands in."""
        route, reason, cloud = decision.route, decision.reason, None
        if decision.route is Route.CLOUD:
            of_cloud = flow.of_cloud(decision) if flow else None
            left_s = request.controls.left_s(self._clock() - began)
            cloud = await self._cloud.offload(request, situation, left_s, of_cloud)
            if cloud.error is not None:
                if of_cloud and of_cloud.begun:
                    raise broken_off(cloud.error)
                route, reason = Route.EDGE, Reason.CLOUD_FAILED
        if cloud and cloud.error is None:
            assert cloud.generation is not None and cloud.parsed is not None
            served = Served.generation(cloud.generation, cloud.generation.completions[0].text, cloud.parsed)
        else:
            left_s = request.controls.left_s(self._clock() - began)
            if not draft.whole:
                draft = await _in_time(self._drafter.draft(request, flow.hear if flow else None), left_s)
            why_not = str(reason) if cloud is None or cloud.error is None else cloud.error
            served = await self._from_edge(request, draft, why_not, left_s, flow is not None and flow.begun)
        return Answer(request, situation, draft, decision, served, route, reason, self._clock() - began, cloud)

    async def _from_edge(
        self, request: ChatRequest, draft: Draft, why_not: str, left_s: float | None, begun: bool
    ) -> Served:
        """The draft, or what a grammar makes or its length leaves of it; one that has begun is not replaced."""
        if draft.error is None:
            return Served.draft(draft)
        if not begun and (strict := await _in_time(self._drafter.strict(request, draft.completion.text), left_s)):
            return strict
        made = draft.completion
        if rest := request.remainder(made.text, made.finish_reason == "length"):
            return Served.draft(replace(draft, parsed=rest))
        if begun:
            raise broken_off(draft.error)
        raise Refused(f"no answer: the cloud is not to be had ({why_not}), nor a valid draft", UNAVAILABLE)

    def _finish(self, answer: Answer) -> None:
        """Log now, or after the audit if this answer is drawn for one."""
        self.counts.answered(answer)
        self.limits.answered(answer)
        for observer in self.observers:
            observer.answered(answer)
        kept = answer.reason is Reason.SCORE_PASSED
        if kept and self._rng.random() < answer.decision.propensity:
            audit = asyncio.create_task(self._audit(answer), name=f"audit-{answer.request.request_id}")
            self._audits.add(audit)
            audit.add_done_callback(self._audits.discard)
        else:
            self._record(answer, answer.cloud)

    async def _audit(self, answer: Answer) -> None:
        """Ask the cloud what it would have answered, for the log alone."""
        found = self._cloud.cut_off()
        try:
            found = await self._cloud.audit(answer)
        finally:
            self.counts.audited(found)
            self._record(answer, found)

    def _record(self, answer: Answer, cloud: CloudCall | None) -> None:
        if answer.request.controls.private:
            return
        self.limits.labelled(answer, cloud)
        try:
            self._log.append(to_record(answer, cloud, self._wall()))
        except Exception:  # whatever a log does, the client has its answer
            self.counts.log_failures += 1
            logger.exception("request %s could not be logged", answer.request.request_id)


async def _in_time(work: Coroutine[Any, Any, T], left_s: float | None) -> T:
    """What ``work`` gives, within ``left_s`` seconds.

    Raises:
        Refused: (504) they were not enough.
    """
    if left_s is None:
        return await work
    try:
        async with asyncio.timeout(left_s):
            return await work
    except TimeoutError:
        raise Refused("no answer within the request's deadline_ms", TOO_LATE) from None


def _unlimited(rules: SiteRules) -> Limits:
    snapshot, _ = rules.current()
    return Limits(LimitOptions(safe_threshold=0.0), snapshot.objective, snapshot.speed)
