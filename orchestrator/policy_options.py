"""Settings of the decision: what scores a draft, how good it must be, which budgets and guarantees hold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from actors.options import Options
from policies.types import CloudSpeed, Objective


class BudgetOptions(Options):
    """What is kept to on average, by a price on offloads that rises until it is met; null is no such budget."""

    offload_rate: float | None = Field(default=None, ge=0, le=1)
    """Share of the requests that may go to the cloud."""

    usd_per_hour: float | None = Field(default=None, ge=0)
    """Money the cloud may cost."""

    p95_s: float | None = Field(default=None, gt=0)
    """Seconds that 95 % of the requests may take."""


class CapOptions(Options):
    """What is never exceeded: beyond it the best valid draft is served instead; null is no cap."""

    offloads_per_hour: float | None = Field(default=None, ge=0)
    """Requests that may go to the cloud."""

    usd_per_hour: float | None = Field(default=None, ge=0)
    """Money the cloud may cost."""


class PolicyOptions(Options):
    """When a draft is good enough."""

    kind: Literal["optimal", "fixed", "funcdyn", "policynet"] = "optimal"
    """optimal follows link and prices (the closed form); funcdyn and policynet were fitted on a log (see file);
    fixed is one value."""

    file: Path | None = None
    """What ``netgpt train policy`` wrote; decides for the weights it was fitted on. funcdyn and policynet need one, and
    a version that a training round publishes brings its own; for optimal it says what the cloud really adds at each
    score, and weights that it was not fitted on do without."""

    value: float = Field(default=0.5, ge=0, le=1)
    """For kind fixed: the threshold on P(draft correct)."""

    floor: float = Field(default=0.0, ge=0, le=1)
    """Whatever the kind: the threshold never falls below this."""

    scorer: Literal["logprob", "preference", "ensemble"] = "logprob"
    """What scores a draft: its calibrated log-probabilities, or what ``netgpt train scorer`` has fitted: a reward
    model on the edge's hidden states, or both together with the agreement of several drafts. A training round fits it
    anew."""

    samples: int = Field(default=1, ge=1, le=16)
    """Drafts per request, of which the best by score counts; more than one helps only at a temperature above 0."""

    before: bool = True
    """Whether a draft that would hardly be kept, judged by its prompt, is not begun (kind fixed begins all)."""

    during: bool = True
    """Whether a draft that can no longer be kept is abandoned, so that the cloud is asked sooner."""

    explore: float = Field(default=0.05, ge=0, le=1)
    """Share of the drafts not worth beginning that are made all the same, to notice when they would be kept."""

    budget: BudgetOptions = BudgetOptions()
    """Kept to on average."""

    cap: CapOptions = CapOptions()
    """Never exceeded."""

    risk: float | None = Field(default=None, gt=0, lt=1)
    """Most that P(answered by the edge and wrong) may be; until labels prove it, everything goes to the cloud."""

    risk_delta: float = Field(default=0.05, gt=0, lt=1)
    """Probability with which ``risk`` may be missed."""

    safe_threshold: float = Field(default=0.9, ge=0, le=1)
    """The threshold is at least this from the moment when scores or labels drift, until new weights come; 0: never."""

    objective: Objective = Objective(value_usd=0.02, second_usd=0.002, cloud_accuracy=0.97)
    """value_usd: worth of a correct answer. second_usd: price of a second. cloud_accuracy: P(cloud correct)."""

    speed: CloudSpeed = CloudSpeed()
    """round_trips on a warm connection, ttft_s to the cloud's first token, per_token_s after it."""
