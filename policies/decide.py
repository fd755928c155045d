"""The decision itself: score against threshold, with the reasons and the logged probability.

Pure. ``EdgeNode`` asks it once per request; nothing else decides a route. The propensity says how probable it was that
the log learns the cloud's answer, so that estimates on the log can be unbiased.
"""

from __future__ import annotations

from policies.checks import probability
from policies.types import Decision, Reason, Route


def decide(score: float, valid: bool, threshold: float, link_up: bool, audit_rate: float) -> Decision:
    """Keep the draft or ask the cloud.

    Args:
        score: calibrated P(draft correct), in [0, 1].
        valid: whether the draft passed the validity gate; an invalid one never stays, whatever its score.
        threshold: tau, in [0, 1].
        link_up: false while the link is seen as out; the cloud is then not attempted.
        audit_rate: share of kept drafts that are also shown to the cloud, in [0, 1].

    Raises:
        ValueError: a probability lies outside [0, 1] or is NaN.
    """
    probability(score=score, threshold=threshold, audit_rate=audit_rate)
    score = score if valid else 0.0
    if not link_up:
        return Decision(Route.EDGE, Reason.LINK_DOWN, score, threshold, 0.0)
    if not valid:
        return Decision(Route.CLOUD, Reason.DRAFT_INVALID, score, threshold, 1.0)
    if score >= threshold:
        return Decision(Route.EDGE, Reason.SCORE_PASSED, score, threshold, audit_rate)
    return Decision(Route.CLOUD, Reason.SCORE_BELOW, score, threshold, 1.0)
