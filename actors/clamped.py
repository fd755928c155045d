"""Whether a fitted threshold decides where it was fitted: figures outside its range are clamped to it, and said so.

Looked at when gauges are read, about once a second or less, never per request; what comes and goes in between is not
seen.
"""

from __future__ import annotations

import logging

from policies.funcdyn import ByState, StateInputs
from policies.threshold import ThresholdPolicy
from policies.types import RoutingState

logger = logging.getLogger(__name__)

MOST_WARNINGS = 32  # for one policy: one for each set of figures, and a link that does all at once needs no more


class Clamped:
    """What was said of the policy that decides now; another one, even of the same kind, is warned of anew."""

    def __init__(self) -> None:
        self._inputs: StateInputs | None = None
        self._said: set[tuple[str, ...]] = set()  # at most MOST_WARNINGS

    def count(self, policy: ThresholdPolicy, state: RoutingState) -> int:
        """How many figures of ``state`` are clamped; 0 where ``policy`` was not fitted or the link is down."""
        if not isinstance(policy, ByState) or not state.link.up:
            return 0
        if policy.inputs != self._inputs:
            self._inputs, self._said = policy.inputs, set()
        names = tuple(policy.outside(state))
        if names and names not in self._said and len(self._said) < MOST_WARNINGS:
            self._said.add(names)
            logger.warning(
                "outside the range that the threshold was fitted on, and clamped to it: %s. "
                "Fix: netgpt train policy on a log of now",
                ", ".join(names),
            )
        return len(names)
