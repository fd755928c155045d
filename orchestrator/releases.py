"""Moves a version to one site, to all, or back: told to the sites, waited for, then written down.

``Releases`` is the only one that changes ``ModelStore.release`` while a system runs; one move at a time. What is
written down has happened at the site of this system: a swap that fails leaves the record, and what the sites are told,
as they were. Whether to move is ``policies.canary``'s, when is ``orchestrator.loop``'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from actors.model_store import ModelStore, ModelVersion
from actors.swap import SwapReport
from policies.errors import NetGPTError, StoreError
from policies.release import Release, started

log = logging.getLogger(__name__)


class Fleet(Protocol):
    """The sites, as they are told what to run."""

    def publish(self, live: ModelVersion, canary: ModelVersion | None) -> None:
        """Tell every site to run ``live``, and this system's own ``canary`` where there is one; does not wait."""
        ...

    def wait(self, version: str, known: int) -> SwapReport:
        """Until this system's site runs ``version``; raises ``NetGPTError`` when it does not."""
        ...

    def swaps_over(self) -> int:
        """Swaps of this system's site that are over, for ``wait``."""
        ...


class Releases:
    """What runs at the sites of ``fleet``.

    Args:
        store: where the versions and the record are.
        fleet: the sites.
        site: this system's own, where a canary goes.
        clock: Unix time in seconds.
    """

    def __init__(self, store: ModelStore, fleet: Fleet, site: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._fleet, self._site, self._clock = store, fleet, site, clock
        self._turn = threading.RLock()

    @property
    def state(self) -> Release:
        """What runs now."""
        found = self._store.release
        if found is None:
            raise StoreError("no version of the edge model is live here")
        return found

    def start(self, version: str) -> None:
        """The system starts with ``version``; a canary that was under way goes on if that is what it is tried on."""
        with self._turn:
            self._store.record(started(self._store.release, version, self._now_us))

    def promote(self, version: ModelVersion, why: str) -> SwapReport:
        """Make ``version`` live everywhere.

        Raises:
            NetGPTError: it was rolled back by the site, or is not live in time; nothing has changed then.
        """
        with self._turn:
            state = self.state
            report = self._run(version, None)
            self._keep(state.promote(version.version, why, self._now_us), f"{version.version} is live: {why}")
            return report

    def try_on(self, version: ModelVersion, why: str) -> SwapReport:
        """Make ``version`` the canary; raises as ``promote`` does."""
        with self._turn:
            state = self.state
            report = self._run(self._store.get(state.live), version)
            words = f"{version.version} is tried on {self._site}: {why}"
            self._keep(state.try_on(version.version, self._site, why, self._now_us), words)
            return report

    def end_canary(self, why: str) -> str:
        """The canary goes back to what is live; the version that runs then."""
        with self._turn:
            state = self.state
            if state.canary is None:
                raise StoreError("no version is being tried on a site")
            self._run(self._store.get(state.live), None)
            self._keep(state.end_canary(why, self._now_us), f"{state.canary.version} is rolled back: {why}")
            return state.live

    def roll_back(self, why: str, target: str | None = None) -> str:
        """From the canary to what is live, or without one from what is live to ``target``; what runs then.

        Args:
            target: its parent by default.

        Raises:
            StoreError: there is no parent, or it is gone or damaged.
            NetGPTError: the site could not load it.
        """
        with self._turn:
            state = self.state
            if state.canary is not None:
                return self.end_canary(why)
            back = self._store.get(target or self._parent(state.live))
            self._run(back, None)
            self._keep(state.roll_back(back.version, why, self._now_us), f"{state.live} is rolled back: {why}")
            return back.version

    def settle(self) -> None:
        """Tell the sites again what to run: a router or site that restarted has forgotten it."""
        with self._turn:
            state = self.state
            canary = self._store.read(state.canary.version) if state.canary else None
            self._fleet.publish(self._store.read(state.live), canary)

    def _run(self, live: ModelVersion, canary: ModelVersion | None) -> SwapReport:
        known = self._fleet.swaps_over()
        try:
            self._fleet.publish(live, canary)
            return self._fleet.wait((canary or live).version, known)
        except NetGPTError:
            try:
                self.settle()
            except NetGPTError as why:
                log.error("the sites could not be told to stay as they are: %s", why)
            raise

    def _parent(self, version: str) -> str:
        parent = self._store.read(version).parent
        if parent is None:
            raise StoreError(f"{version} has no parent: it is the model that everything started from")
        return parent

    def _keep(self, state: Release, words: str) -> None:
        self._store.record(state)
        log.warning("%s", words)

    @property
    def _now_us(self) -> int:
        return int(self._clock() * 1e6)
