"""What became of one request: the facts in the order they were found, and the log record that follows from them.

``Situation`` (link, prices, threshold), ``Draft`` (the edge's proposal), ``CloudCall`` (what the cloud said, or why
not), ``Answer`` (what was served). Frozen; ``to_record`` is the only way from here into the offload log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from actors.chat import ChatRequest
from actors.engine import Completion, FinishReason, Generation, Token
from actors.log_record import OffloadRecord
from policies.control import Snapshot
from policies.toolcalls import compact
from policies.types import CloudWork, Decision, ParsedText, Reason, Route, RoutingState

STOOD_IN = (Reason.LINK_DOWN, Reason.CLOUD_FAILED, Reason.CAP_REACHED, Reason.TOO_DEAR, Reason.TOO_LATE)
"""Reasons for which a draft is served though the cloud was wanted, or not to be had."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The edge model's own proposal.

    ``error`` says why it may not be served, ``unusable`` of what kind that is; its score is then 0. ``propensity`` was
    the probability that it was begun, ``expected`` what the prompt alone said of it (None without a forecast).
    """

    completion: Completion
    parsed: ParsedText
    error: str | None
    score: float
    version: str
    prompt_tokens: int
    seconds: float
    unusable: Reason | None = None
    propensity: float = 1.0
    expected: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the model said all it wanted to."""
        return self.unusable not in (Reason.DRAFT_SKIPPED, Reason.DRAFT_ABANDONED)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision was made with, besides the draft; ``work`` is what was expected of the cloud."""

    state: RoutingState
    snapshot: Snapshot
    policy: str
    threshold: float
    audit_rate: float
    work: CloudWork


@dataclass(frozen=True, slots=True)
class CloudCall:
    """One attempt at the cloud: ``generation`` if an answer came, ``error`` if it may not be served."""

    model: str
    seconds: float
    generation: Generation | None = None
    parsed: ParsedText | None = None
    error: str | None = None
    cost_usd: float = 0.0

    @property
    def text(self) -> str | None:
        """The answer's text, None unless it may be served (and learned from)."""
        return self.generation.completions[0].text if self.generation and not self.error else None

    @property
    def work(self) -> CloudWork:
        """What the cloud did, as far as it is known."""
        made = self.generation
        if made is None:
            return CloudWork(0, 0, 0, 0)
        tokens = sum(completion.tokens for completion in made.completions)
        cached = min(made.cached_tokens, made.prompt_tokens)
        return CloudWork(made.up_bytes, made.down_bytes, made.prompt_tokens, tokens, cached)


@dataclass(frozen=True, slots=True)
class Served:
    """The answer itself: text, and who made it with what; ``named`` are its tokens, where the client wants them."""

    text: str
    parsed: ParsedText
    finish_reason: FinishReason
    version: str
    prompt_tokens: int
    tokens: int
    named: tuple[Token, ...] = ()

    @classmethod
    def draft(cls, draft: Draft) -> Self:
        """A draft that may be served."""
        made = draft.completion
        return cls(
            made.text, draft.parsed, made.finish_reason, draft.version, draft.prompt_tokens, made.tokens, made.named
        )

    @classmethod
    def generation(cls, generation: Generation, text: str, parsed: ParsedText) -> Self:
        """The first completion of ``generation``, as ``text``."""
        made, version = generation.completions[0], generation.version
        return cls(text, parsed, made.finish_reason, version, generation.prompt_tokens, made.tokens, made.named)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and everything that was found out while answering it.

    ``route`` and ``reason`` say who answered in the end; ``decision`` what the policy wanted. ``degraded``: the cloud
    was wanted, or not to be had, and the best valid draft stands in.
    """

    request: ChatRequest
    situation: Situation
    draft: Draft
    decision: Decision
    served: Served
    route: Route
    reason: Reason
    seconds: float
    cloud: CloudCall | None = None

    @property
    def degraded(self) -> bool:
        """Whether the draft stands in for an answer of the cloud."""
        return self.reason in STOOD_IN

    @property
    def cost_usd(self) -> float:
        """What the cloud charged for this answer."""
        return self.cloud.cost_usd if self.cloud else 0.0


def to_record(answer: Answer, cloud: CloudCall | None, time_s: float) -> OffloadRecord:
    """The log's record of ``answer``.

    Args:
        cloud: what is known of the cloud's answer, be it served or found by an audit.
        time_s: Unix time.
    """
    request, draft, situation = answer.request, answer.draft, answer.situation
    generation = cloud.generation if cloud else None
    return OffloadRecord(
        time_us=int(time_s * 1e6),
        request_id=request.request_id,
        request_hash=request.question_hash,
        messages=request.messages_json,
        tools=request.tools_json,
        tool_choice=compact(request.tool_choice),
        max_tokens=request.sampling.max_tokens,
        temperature=request.sampling.temperature,
        draft=draft.completion.text,
        draft_logprobs=draft.completion.logprobs,
        draft_error=draft.error,
        draft_version=draft.version,
        score=answer.decision.score,
        threshold=answer.decision.threshold,
        policy=situation.policy,
        prices=situation.snapshot.prices,
        link=situation.state.link,
        queue_s=situation.state.queue_s,
        route=str(answer.route),
        reason=str(answer.reason),
        propensity=answer.decision.propensity,
        draft_propensity=draft.propensity,
        degraded=answer.degraded,
        cloud=cloud.text if cloud else None,
        cloud_error=cloud.error if cloud else None,
        cloud_model=cloud.model if cloud else "",
        answer=answer.served.text,
        prompt_tokens=draft.prompt_tokens,
        draft_tokens=draft.completion.tokens,
        cloud_input_tokens=generation.prompt_tokens if generation else 0,
        cloud_cached_tokens=cloud.work.cached_tokens if cloud else 0,
        cloud_output_tokens=generation.completions[0].tokens if generation else 0,
        up_bytes=generation.up_bytes if generation else 0,
        down_bytes=generation.down_bytes if generation else 0,
        draft_ms=draft.seconds * 1e3,
        cloud_ms=cloud.seconds * 1e3 if cloud else 0.0,
        total_ms=answer.seconds * 1e3,
        cost_usd=cloud.cost_usd if cloud else 0.0,
    )
