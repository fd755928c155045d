"""A node's calls to the cloud: those a client waits for, and audits, which wait until nobody does.

Each is priced against the hard caps before it is made, tells the link what became of it, and teaches what is known of
the cloud's speed. An answer that the validity gate rejects is an error too, but a paid one. Decisions are
``edge_node``'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from actors.answer import Answer, CloudCall, Situation
from actors.chat import ChatRequest
from actors.engine import Engine
from actors.flow import Flow
from actors.limits import Limits
from actors.site_rules import SiteRules
from policies.cost import cloud_cost_usd
from policies.errors import NetGPTError, Unreachable
from policies.types import LinkState

AUDIT_WAIT_S = 30.0  # for a moment without an offload; a link that is busy for longer has no room
CUT_OFF = "the audit was cut off"


class Link(Protocol):
    """The site's own view of its link; ``actors.link_probe.LinkMonitor`` is one."""

    def state(self) -> LinkState:
        """The link as it is thought to be now."""
        ...

    def observe_offload(
        self, up_bytes: int, down_bytes: int, seconds: float, server_seconds: float | None, ok: bool
    ) -> None:
        """Learn from a real offload."""
        ...

    def gauges(self) -> dict[str, float]:
        """Its figures by name."""
        ...


class CloudCalls:
    """The calls of one node.

    Args:
        engine: the cloud leg; None for a site without a cloud.
        model: the cloud model's name in the log.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine | None,
        model: str,
        link: Link,
        limits: Limits,
        rules: SiteRules,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._model, self._link = engine, model, link
        self._limits, self._rules, self._clock = limits, rules, clock
        self._waited_for, self._idle = 0, asyncio.Event()  # calls that clients wait for; none
        self._idle.set()

    @property
    def possible(self) -> bool:
        """Whether there is a cloud, and a link to it."""
        return self._engine is not None and self._link.state().up

    def most_usd(self, request: ChatRequest, situation: Situation) -> float:
        """What an offload costs if its answer is as long as it may be and nothing is cached."""
        work = replace(situation.work, output_tokens=request.sampling.max_tokens, cached_tokens=0)
        return cloud_cost_usd(work, situation.snapshot.prices)

    async def offload(
        self, request: ChatRequest, situation: Situation, timeout_s: float | None = None, flow: Flow | None = None
    ) -> CloudCall:
        """A call that a client waits for, already allowed by the caps; ``flow`` takes the answer as it comes."""
        self._waited_for += 1
        self._idle.clear()
        cost_usd = most_usd = self.most_usd(request, situation)
        try:
            made = await self._ask(request, situation, timeout_s, flow)
            cost_usd = made.cost_usd
        finally:
            self._waited_for -= 1
            if not self._waited_for:
                self._idle.set()
            self._limits.settle(most_usd, cost_usd)
        return made

    async def audit(self, answer: Answer) -> CloudCall:
        """What the cloud would have answered, asked when nobody waits for the link; an error where it cannot be."""
        nothing = CloudCall(self._model, 0.0)
        try:
            async with asyncio.timeout(AUDIT_WAIT_S):
                await self._idle.wait()
        except TimeoutError:
            return replace(nothing, error="the link had no room for the audit")
        most_usd = self.most_usd(answer.request, answer.situation)
        if not self._limits.allow(most_usd):
            return replace(nothing, error="a cap is reached")
        found = await self._ask(answer.request, answer.situation)
        self._limits.settle(most_usd, found.cost_usd)
        return found

    def cut_off(self) -> CloudCall:
        """What is known of an audit that did not end."""
        return CloudCall(self._model, 0.0, error=CUT_OFF)

    async def _ask(
        self, request: ChatRequest, situation: Situation, timeout_s: float | None = None, flow: Flow | None = None
    ) -> CloudCall:
        began, sampling = self._clock(), replace(request.sampling, hear=flow.hear if flow else None)
        try:
            if self._engine is None:
                raise Unreachable("no cloud is configured")
            async with asyncio.timeout(timeout_s):
                generation = await self._engine.generate(request.cloud_prompt, sampling)
        except TimeoutError:  # the client's own limit, which says nothing about the link
            return CloudCall(self._model, self._clock() - began, error=f"no answer within the {timeout_s:.3g} s left")
        except NetGPTError as why:
            seconds = self._clock() - began
            self._link.observe_offload(len(request.payload), 0, seconds, None, not isinstance(why, Unreachable))
            return CloudCall(self._model, seconds, error=f"{type(why).__name__}: {why}")
        seconds = self._clock() - began
        parsed = request.read(generation.completions[0].text)
        call = CloudCall(self._model, seconds, generation, parsed, request.problem(parsed))
        if generation.shared:  # it cost nothing, and took as long as was left of somebody else's call
            return call
        self._link.observe_offload(generation.up_bytes, generation.down_bytes, seconds, None, True)
        self._limits.cloud.called(situation.work, call.work, situation.state, seconds)
        self._rules.learn(self._limits.cloud.speed)
        return replace(call, cost_usd=cloud_cost_usd(call.work, situation.state.prices))
