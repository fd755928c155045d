"""What improves a running system by itself: rounds when they are due, canaries, roll-backs; beside what serves.

One thread ticks: it reads what the log has that is new, ends a canary that has shown what it is, rolls back what is
live when that proves worse, and starts a round when ``policies.triggers`` says so. The round has a thread of its own,
so the watch goes on meanwhile, and its work is a Ray Train job. Nothing here is on a request's path, and no failure
here ends what serves: it is logged, and the next tick tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.model_store import ModelStore
from actors.options import CanaryOptions, LearnerOptions
from cluster.processes import give_way
from orchestrator.learner import RoundReport
from orchestrator.releases import Releases
from orchestrator.watching import Comparing, LogTail, labelled
from policies.canary import CanaryRules
from policies.errors import NetGPTError
from policies.release import Release
from policies.triggers import TriggerRules, Triggers

log = logging.getLogger(__name__)

TICK_S = 5.0  # a version that is much worse answers no longer than that after its proof is in the log
END_S = 10.0  # a tick that waits for a swap may take so long to end
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with.

    Args:
        store, log_dir: versions and the offload log.
        releases: what moves versions.
        learn: one round from what is live; blocks, reports what it can meet.
        drift: whether an alarm stands.
        clock: Unix time in seconds.
        watch: looks after what runs at single sites.
    """

    store: ModelStore
    log_dir: Path
    releases: Releases
    learn: Callable[[], RoundReport]
    drift: Callable[[], bool]
    clock: Callable[[], float] = time.time
    watch: Callable[[], None] = lambda: None


class Loop:
    """The loop of one system; ``tick`` is one turn of it."""

    def __init__(self, options: LearnerOptions, parts: Parts) -> None:
        self._options, self._parts = options, parts
        self._rules = canary_rules(options.canary)
        self._triggers = Triggers(trigger_rules(options), parts.clock())
        self._tail = LogTail(parts.log_dir, _learnt_from(parts.store))
        self._comparing: Comparing | None = None
        self._round: Round | None = None
        self._said: dict[str, str] = {}
        self.over = threading.Event()

    def tick(self) -> None:
        """Look once, and do what is due; what cannot be done is logged, and tried again the next time."""
        steps = [self._parts.releases.settle, self._finish, self._watch, self._parts.watch, self._consider]
        for step in steps if self._options.enabled else steps[:-1]:
            try:
                step()
            except NetGPTError as why:
                self._say(step.__name__, str(why), logging.ERROR)
            except Exception:  # what serves goes on, and so do the other steps
                log.exception("a turn of the learning loop failed")

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the round that runs, if one does."""
        if self._round is not None:
            self._round.join(timeout_s)

    def gauges(self) -> dict[str, float]:
        """Where it stands."""
        compared = self._comparing.gauges() if self._comparing else {}
        return {
            "learner_labels": float(self._triggers.labels),
            "learner_failures": float(self._triggers.failures),
            "learner_training": float(self._round is not None),
            **compared,
        }

    def _watch(self) -> None:
        state = self._parts.releases.state
        compared = self._compared(state)
        if compared is None:
            return
        compared.read()
        since_us = state.canary.since_us if state.canary else state.since_us
        verdict = compared.verdict(self._parts.clock() - since_us / 1e6)
        self._say("verdict", f"{compared.new} against {compared.old}: {verdict.reason}", logging.INFO)
        if verdict.action == "roll back":
            self._roll_back(state, verdict.reason)
        elif verdict.action == "promote" and state.canary:
            self._parts.releases.promote(self._parts.store.get(compared.new), verdict.reason)

    def _roll_back(self, state: Release, reason: str) -> None:
        releases = self._parts.releases
        if state.canary:
            releases.end_canary(reason)
        else:
            releases.roll_back(reason, state.previous)
        self._triggers = self._triggers.done(False, self._parts.clock())

    def _compared(self, state: Release) -> Comparing | None:
        """The comparison that is under way: of a canary with what is live, or of that with what was before."""
        if state.canary:
            new, old, begun_us = state.canary.version, state.live, state.canary.since_us
        else:
            watched_s = self._parts.clock() - state.since_us / 1e6
            if state.previous is None or watched_s > self._options.canary.watch_hours * HOUR_S:
                self._comparing = None
                return None
            new, old, begun_us = state.live, state.previous, state.begun_us
        if self._comparing is None or (self._comparing.new, self._comparing.old) != (new, old):
            self._comparing = Comparing(self._parts.log_dir, new, old, begun_us, self._rules)
        return self._comparing

    def _consider(self) -> None:
        """Start a round if one is due; none while another runs or its version is being tried."""
        self._triggers = self._triggers.seen(labelled(self._tail.read())).at(self._parts.clock())
        if self._round is not None or self._parts.releases.state.canary:
            return
        why = self._triggers.due(self._parts.drift(), self._parts.clock())
        if why is not None:
            log.warning("a training round begins: %s", why)
            self._triggers = self._triggers.begun()
            self._round = Round(self._parts.learn, self.over)
            self._round.start()

    def _finish(self) -> None:
        """Take what a round that is over came to: its version goes to the first site."""
        if self._round is None or self._round.is_alive():
            return
        report, self._round = self._round.report, None
        published = False
        try:
            if report is not None:
                published = bool(report.given) or (report.version is not None and self._try(report))
        finally:
            self._triggers = self._triggers.done(published, self._parts.clock())

    def _try(self, report: RoundReport) -> bool:
        version, releases = report.version, self._parts.releases
        assert version is not None
        if version.parent != (live := releases.state.live):
            log.warning(
                "%s is not tried: it came from %s, and %s is live by now", version.version, version.parent, live
            )
            return False
        releases.try_on(self._parts.store.get(version.version), report.reason)
        return True

    def _say(self, about: str, words: str, level: int) -> None:
        """Log it once, not every few seconds."""
        if self._said.get(about) != words:
            log.log(level, "%s", words)
            self._said[about] = words


class Round(threading.Thread):
    """A round beside the ticks; ``report`` is None until it is over, and when it failed."""

    def __init__(self, learn: Callable[[], RoundReport], over: threading.Event) -> None:
        super().__init__(name="round", daemon=True)
        self._learn, self._over = learn, over
        self.report: RoundReport | None = None

    def run(self) -> None:
        give_way()  # reading the log and fitting scorers are seconds of work
        try:
            self.report = self._learn()
            log.warning("the training round ended: %s", self.report.reason)
        except Exception:  # a thread of its own: nobody else would hear of it
            if self._over.is_set():  # its Ray was taken away
                log.info("a training round was cut off: the system ends")
            else:
                log.exception("a training round failed")


@contextmanager
def ticking(loop: Loop) -> Iterator[None]:
    """Tick while the block runs; a round that still runs at the end is left to die with its system."""

    def run() -> None:
        while not loop.over.wait(TICK_S):
            loop.tick()

    thread = threading.Thread(target=run, name="loop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.over.set()
        thread.join(END_S)


def canary_rules(options: CanaryOptions) -> CanaryRules:
    """The rule of the options."""
    return CanaryRules(options.labels, options.hours * HOUR_S, options.margin, options.delta)


def trigger_rules(options: LearnerOptions) -> TriggerRules:
    """The rule of the options."""
    longest_pause_s = options.longest_pause_hours * HOUR_S
    return TriggerRules(
        options.after_labels,
        options.after_hours * HOUR_S,
        options.on_drift,
        options.pause_minutes * 60.0,
        longest_pause_s,
    )


def _learnt_from(store: ModelStore) -> dict[str, int]:
    """The last record of each site that a trained version has seen."""
    trained = [version.meta["log"] for version in store.list() if isinstance(version.meta.get("log"), dict)]
    return {site: int(last) for log in trained for site, (_, last) in log.items()}
