"""What a site decides with: the router's last snapshot while it is fresh, the scorer of each version of its weights.

Both are bounded state and no more: ``SiteRules`` builds the threshold policy once per snapshot, ``Scorers``
keeps the calibrators of the last few versions, so a draft made before a swap is scored by the calibrator it belongs to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from actors.clamped import Clamped
from actors.scorer import Scorer
from policies.control import Held, Snapshot, in_force
from policies.threshold import ThresholdPolicy
from policies.types import CloudSpeed, RoutingState

logger = logging.getLogger(__name__)

SPEED_STEP = 0.05  # relative change of the cloud's speed that is worth building the policy anew
KEPT_SCORERS = 4  # drafts in flight span two versions, a roll-back three; the oldest beyond that is forgotten


class Build(Protocol):
    """Makes the threshold policy of a snapshot."""

    @property
    def kind(self) -> str:
        """Its name, for the log."""
        ...

    def __call__(self, snapshot: Snapshot) -> ThresholdPolicy:
        """The policy; raises ValueError when the snapshot's numbers are out of range."""
        ...


class SiteRules:
    """The snapshot in force and the threshold policy built from it.

    Args:
        build: makes the policy of a snapshot.
        default: the site's own conservative snapshot, in force when the router's has expired.
        clock: monotonic seconds.
    """

    def __init__(self, build: Build, default: Snapshot, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        self._default, self._build, self._clock = default, build, clock
        self._default_policy = build(default)
        self._held: tuple[Held, ThresholdPolicy] | None = None
        self._speed: CloudSpeed | None = None
        self._clamped = Clamped()

    @property
    def kind(self) -> str:
        """Name of the policy that decides now."""
        return self._build.kind

    def apply(self, snapshot: Snapshot) -> None:
        """Decide with ``snapshot`` from now on; one that makes no sense is counted and ignored."""
        try:
            policy = self._policy(snapshot)
        except ValueError as why:
            self.refused += 1
            logger.error("snapshot %d is ignored: %s", snapshot.seq, why)
            return
        self._held = Held(snapshot, self._clock()), policy

    def learn(self, speed: CloudSpeed) -> None:
        """Take the cloud's speed as measured here, whatever a snapshot says of it."""
        known = self.current()[0].speed if self._speed is None else self._speed
        if not _differ(known, speed):
            return
        self._speed = speed
        self.renew()

    def renew(self) -> None:
        """Build the policies again: what they are made of has changed."""
        self._default_policy = self._policy(self._default)
        if self._held is not None:
            self._held = self._held[0], self._policy(self._held[0].snapshot)

    def current(self) -> tuple[Snapshot, ThresholdPolicy]:
        """The snapshot in force now, and its policy."""
        if self._held is not None:
            held, policy = self._held
            if in_force(held, self._default, self._clock()) is held.snapshot:
                return held.snapshot, policy
        return self._default, self._default_policy

    def clamped(self, state: RoutingState) -> int:
        """How many figures of ``state`` lie outside what the policy was fitted on; see ``actors.clamped``."""
        return self._clamped.count(self.current()[1], state)

    def _policy(self, snapshot: Snapshot) -> ThresholdPolicy:
        return self._build(replace(snapshot, speed=self._speed or snapshot.speed))


def _differ(known: CloudSpeed, now: CloudSpeed) -> bool:
    """Whether a policy built for ``known`` would notice."""
    pairs = ((known.ttft_s, now.ttft_s), (known.per_token_s, now.per_token_s))
    return any(abs(a - b) > SPEED_STEP * max(a, b) for a, b in pairs)


class Scorers:
    """The scorers of the last few versions of the weights, by version."""

    def __init__(self, version: str, scorer: Scorer) -> None:
        self._by_version = {version: scorer}

    def add(self, version: str, scorer: Scorer) -> None:
        """Know ``scorer`` as that of ``version``, from before its weights go live."""
        self._by_version.pop(version, None)
        self._by_version[version] = scorer
        while len(self._by_version) > KEPT_SCORERS:
            self._by_version.pop(next(iter(self._by_version)))

    def of(self, version: str) -> Scorer:
        """The scorer of the weights that made a draft; of an unknown version, the newest."""
        return self._by_version.get(version) or next(reversed(self._by_version.values()))

    def drop(self, version: str) -> None:
        """Forget ``version``, whose weights never went live."""
        self._by_version.pop(version, None)
