"""The three decisions: is a draft worth making, can it still be kept, is it good enough.

One rule of expected utility. A draft wins V * (s - tau)+ over the cloud, because tau is where both are worth the same
(DESIGN section 5), and costs its time. *Before* it is made, s is a forecast from the prompt: it is worth making while
``V * E[(s - tau)+] >= lambda * seconds``. *During* it, s has a sure bound: below tau nothing can be won. *After* it,
it is kept when s >= tau. Pure; nothing else decides a route. The propensity says how probable it was that the log
learns the cloud's answer, so that estimates on the log can be unbiased.
"""

from __future__ import annotations

from policies.checks import probability
from policies.early import Running, ScoreBound
from policies.types import Decision, Objective, Reason, Route


def worth_making(gain: float, seconds: float, objective: Objective) -> bool:
    """Whether a draft pays for its time.

    Args:
        gain: E[(s - tau)+], in units of V.
        seconds: that the draft will take.
        objective: what V and lambda are.
    """
    return gain > 0.0 and objective.value_usd * gain >= objective.second_usd * seconds


class Patience:
    """A watch on one draft (``actors.engine.Watch``): gives it up once no continuation can reach the threshold.

    Args:
        bound: of the weights that draft, for this prompt.
        threshold: tau of the request.
        max_tokens: beyond which the draft cannot go.
    """

    def __init__(self, bound: ScoreBound, threshold: float, max_tokens: int) -> None:
        self._bound, self._threshold, self._max_tokens = bound, threshold, max_tokens
        self.seen, self.best = Running(), 1.0

    def __call__(self, logprob: float) -> bool:
        """Take one token's log-probability; True gives the draft up."""
        taken = self.seen.add(logprob)
        self.best = self._bound.upper(self.seen, self._max_tokens) if taken else 0.0
        return self.best < self._threshold


def decide(
    score: float,
    unusable: Reason | None,
    threshold: float,
    link_up: bool,
    audit_rate: float,
) -> Decision:
    """Keep the draft or ask the cloud.

    Args:
        score: calibrated P(draft correct), in [0, 1].
        unusable: why there is no draft that could stay, whatever its score; None when there is one.
        threshold: tau, in [0, 1].
        link_up: false while the link is seen as out; the cloud is then not attempted.
        audit_rate: share of kept drafts that are also shown to the cloud, in [0, 1].

    Raises:
        ValueError: a probability lies outside [0, 1] or is NaN.
    """
    probability(score=score, threshold=threshold, audit_rate=audit_rate)
    score = 0.0 if unusable else score
    if not link_up:
        return Decision(Route.EDGE, Reason.LINK_DOWN, score, threshold, 0.0)
    if unusable:
        return Decision(Route.CLOUD, unusable, score, threshold, 1.0)
    if score >= threshold:
        return Decision(Route.EDGE, Reason.SCORE_PASSED, score, threshold, audit_rate)
    return Decision(Route.CLOUD, Reason.SCORE_BELOW, score, threshold, 1.0)
