"""What a client may say about the way of one request, and what follows for the decision. Pure.

A client's word goes before the policy's, but not before the operator's hard caps. What stays at the edge by a client's
word says nothing about the cloud, so its propensity is 0; what goes there by it is labelled for certain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from policies.types import Decision, Reason, Route


@dataclass(frozen=True, slots=True)
class Controls:
    """How one request is to be treated; by default as the policy sees fit.

    Args:
        route: who has to answer; None leaves it to the policy.
        max_cost_usd: what the cloud may cost at most.
        deadline_s: seconds from the request's arrival to its answer.
        private: the question leaves the edge neither for an answer nor for an audit, and no record of it is kept.
    """

    route: Route | None = None
    max_cost_usd: float | None = None
    deadline_s: float | None = None
    private: bool = False

    @property
    def stays(self) -> bool:
        """Whether the cloud is out of the question."""
        return self.private or self.route is Route.EDGE

    def left_s(self, spent_s: float) -> float | None:
        """Seconds that are left after ``spent_s``; None without a deadline."""
        return None if self.deadline_s is None else max(self.deadline_s - spent_s, 0.0)


FREE = Controls()


def wished(made: Decision, controls: Controls, link_up: bool) -> Decision:
    """What the policy ``made`` of a request, after its client's word on the route."""
    if controls.stays:
        return replace(made, route=Route.EDGE, reason=Reason.EDGE_ASKED, propensity=0.0)
    if controls.route is Route.CLOUD and link_up:
        return replace(made, route=Route.CLOUD, reason=Reason.CLOUD_ASKED, propensity=1.0)
    return made


def barred(controls: Controls, most_usd: float, expected_s: float, spent_s: float) -> Reason | None:
    """Why the client's limits forbid the cloud, or None where they do not.

    Args:
        most_usd: what the cloud may cost.
        expected_s: seconds that it will take, ``spent_s`` those that are gone.
    """
    if controls.max_cost_usd is not None and most_usd > controls.max_cost_usd:
        return Reason.TOO_DEAR
    left_s = controls.left_s(spent_s)
    return Reason.TOO_LATE if left_s is not None and expected_s > left_s else None
