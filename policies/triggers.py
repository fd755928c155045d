"""When to run a training round: enough new labels, enough time, or drift; never too soon after the last one.

A state machine of three numbers, with the clock passed in: ``due`` says why a round should run now, or nothing;
``begun`` and ``done`` are told of it. A round that published nothing doubles the pause before the next, up to a bound,
so a log that teaches nothing costs ever less; one that published sets it back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TriggerRules:
    """What makes a round due.

    Args:
        labels: labelled records since the last round.
        longest_s: seconds since the last round after which a single new label is enough.
        drift: whether an alarm makes a round due, if there is a new label.
        pause_s: least seconds between the end of a round and the next.
        longest_pause_s: bound of the pause after rounds that published nothing.

    Raises:
        ValueError: a number makes no sense.
    """

    labels: int = 500
    longest_s: float = 86_400.0
    drift: bool = True
    pause_s: float = 600.0
    longest_pause_s: float = 86_400.0

    def __post_init__(self) -> None:
        if self.labels < 1:
            raise ValueError(f"labels must be >= 1, got {self.labels!r}")
        if not 0.0 < self.pause_s <= self.longest_pause_s:
            raise ValueError(
                f"0 < pause_s <= longest_pause_s is needed, got {self.pause_s!r}, {self.longest_pause_s!r}"
            )
        if not self.longest_s > 0.0:
            raise ValueError(f"longest_s must be > 0, got {self.longest_s!r}")


@dataclass(frozen=True, slots=True)
class Triggers:
    """Where the machine stands.

    Args:
        since_s: when the last round ended, or the first one could have begun; seconds of the caller's clock.
        labels: labelled records since the last round.
        failures: rounds in a row that published nothing.
    """

    rules: TriggerRules
    since_s: float
    labels: int = 0
    failures: int = 0

    @property
    def pause_s(self) -> float:
        """Least seconds from ``since_s`` to the next round."""
        doublings = min(self.failures, 64)  # 2^64 pauses are beyond any bound
        return min(self.rules.pause_s * 2.0**doublings, self.rules.longest_pause_s)

    def seen(self, labels: int) -> Triggers:
        """``labels`` more labelled records were logged."""
        assert labels >= 0, labels
        return replace(self, labels=self.labels + labels)

    def at(self, now_s: float) -> Triggers:
        """It is ``now_s``; a clock that was set back begins the wait anew, or it would take as much longer."""
        return replace(self, since_s=min(self.since_s, now_s))

    def due(self, drift: bool, now_s: float) -> str | None:
        """Why a round should run at ``now_s``; None when none should."""
        waited_s = now_s - self.since_s
        if not self.labels or waited_s < self.pause_s:
            return None
        if drift and self.rules.drift:
            return f"drift is suspected, {self.labels} new labels"
        if self.labels >= self.rules.labels:
            return f"{self.labels} new labels"
        if waited_s >= self.rules.longest_s:
            return f"{waited_s / 3600:.1f} hours since the last round, {self.labels} new labels"
        return None

    def begun(self) -> Triggers:
        """A round took all labels so far."""
        return replace(self, labels=0)

    def done(self, published: bool, now_s: float) -> Triggers:
        """A round ended at ``now_s``, or what it published was rolled back then."""
        return replace(self, since_s=now_s, failures=0 if published else self.failures + 1)
