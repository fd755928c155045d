"""The vocabulary: small frozen records that name everything a decision is made of.

Units are suffixes: ``_ms``, ``_s``, ``_bps`` (bits per second), ``_usd``. Records hold facts; what
follows from them is a property or a function of ``policies``. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Route(StrEnum):
    """Who answered a request."""

    EDGE = "edge"
    CLOUD = "cloud"


class Reason(StrEnum):
    """Why a route was taken."""

    SCORE_PASSED = "score_passed"
    SCORE_BELOW = "score_below"
    DRAFT_INVALID = "draft_invalid"
    DRAFT_ASKED_HELP = "draft_asked_help"
    DRAFT_SKIPPED = "draft_skipped"
    DRAFT_ABANDONED = "draft_abandoned"
    LINK_DOWN = "link_down"
    CLOUD_FAILED = "cloud_failed"
    CAP_REACHED = "cap_reached"
    EDGE_ASKED = "edge_asked"
    CLOUD_ASKED = "cloud_asked"
    TOO_DEAR = "too_dear"
    TOO_LATE = "too_late"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a named tool with its arguments as parsed JSON."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A model's text split into prose and tool calls.

    ``error`` says why the tool-call syntax could not be read; ``calls`` is then empty.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LinkState:
    """One site's link to the cloud, smoothed over recent measurements.

    ``up`` is false while probes see an outage; the other figures are then the last known ones.
    """

    rtt_ms: float
    up_bps: float
    down_bps: float
    jitter_ms: float = 0.0
    loss: float = 0.0
    up: bool = True


@dataclass(frozen=True, slots=True)
class Prices:
    """What the cloud charges (US dollars; ``mtok`` is a million tokens)."""

    request_usd: float = 0.0
    input_usd_per_mtok: float = 0.0
    cached_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    transfer_usd_per_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class RoutingState:
    """Everything besides the request itself that a threshold may look at.

    ``queue_s`` is the wait expected at the cloud before it begins; ``budget_left`` the share of the current
    budget window that is still unspent, in [0, 1] (1 where there is no budget).
    """

    link: LinkState
    prices: Prices
    queue_s: float = 0.0
    budget_left: float = 1.0


@dataclass(frozen=True, slots=True)
class CloudWork:
    """What one request would ask of the link and the cloud."""

    up_bytes: int
    down_bytes: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CloudSpeed:
    """The cloud's own share of latency: round trips on a warm connection, first token, pace."""

    round_trips: float = 1.0
    ttft_s: float = 0.1
    per_token_s: float = 0.005


@dataclass(frozen=True, slots=True)
class Objective:
    """What answers are worth: V, lambda and m_c of DESIGN section 5.

    ``cloud_accuracy`` is P(cloud correct); it is taken as constant in the score.
    """

    value_usd: float
    second_usd: float
    cloud_accuracy: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes, and everything that decided it.

    ``propensity`` is the probability with which the logged policy reveals the cloud's answer
    (1 for an offload, the audit rate for an accepted draft).
    """

    route: Route
    reason: Reason
    score: float
    threshold: float
    propensity: float
