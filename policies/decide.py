"""The three decisions: is a draft worth making, is it worth finishing, is it good enough. One expected-utility rule.

A draft costs its time and wins V * (s - tau)+ over the cloud, because tau is where edge and cloud are worth the same
(DESIGN section 5): so it is worth going on while ``V * E[(s - tau)+] > lambda * seconds left``. *Before* it the
expectation is a forecast from the prompt, *during* it a sure bound on s, *after* it s itself with no time left: keep
when s >= tau. Pure; nothing else decides a route. The propensity says how probable it was that the log learns the
cloud's answer, so that estimates on the log can be unbiased.
"""

from __future__ import annotations

from policies.checks import probability
from policies.early import Running, ScoreBound
from policies.types import Decision, Objective, Reason, Route


def worth_going_on(gain: float, seconds: float, objective: Objective) -> bool:
    """Whether a draft still pays.

    Args:
        gain: E[(s - tau)+] or an upper bound of it, in units of V.
        seconds: that the draft will still take.
        objective: what V and lambda are.
    """
    return gain > 0.0 and objective.value_usd * gain >= objective.second_usd * seconds


class Patience:
    """A watch on one draft (``actors.engine.Watch``): gives it up once no continuation is worth its time.

    Args:
        bound: of the weights that draft.
        threshold: tau of the request.
        objective: what V and lambda are.
        max_tokens: beyond which the draft cannot go.
        expected_tokens, token_s: how long a draft is usually, and seconds a token takes.
    """

    def __init__(
        self,
        bound: ScoreBound,
        threshold: float,
        objective: Objective,
        max_tokens: int,
        expected_tokens: float,
        token_s: float,
    ) -> None:
        self._bound, self._threshold, self._objective = bound, threshold, objective
        self._max_tokens, self._expected_tokens, self._token_s = max_tokens, expected_tokens, token_s
        self.seen, self.best = Running(), 1.0

    def __call__(self, logprob: float) -> bool:
        """Take one token's log-probability; True gives the draft up."""
        if not self.seen.add(logprob):
            self.best = 0.0
            return True
        self.best = self._bound.upper(self.seen, self._max_tokens)
        left = max(self._expected_tokens - self.seen.count, 1.0) * self._token_s
        return not worth_going_on(self.best - self._threshold, left, self._objective)


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
