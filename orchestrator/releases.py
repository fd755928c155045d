"""Moves a version to one site, to all, or back: told to the sites, waited for, then written down.

``Releases`` is the only one that changes ``ModelStore.release`` while a system runs; one move at a time. What is
written down has happened at the site of this system (of one site's own version, at that site): a swap that fails leaves
the record, and what the sites are told, as they were. Whether to move is ``policies.canary``'s, when is
``orchestrator.loop``'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from actors.model_store import ModelStore, ModelVersion
from actors.swap import SwapReport
from policies.errors import NetGPTError, StoreError
from policies.release import Release, started

log = logging.getLogger(__name__)


class Fleet(Protocol):
    """The sites, as they are told what to run."""

    def publish(self, live: ModelVersion, apart: Mapping[str, ModelVersion]) -> None:
        """Tell every site to run ``live``, or what ``apart`` has for it; does not wait."""
        ...

    def wait(self, site: str, version: str, known: int) -> SwapReport:
        """Until ``site`` runs ``version``; raises ``NetGPTError`` when it does not."""
        ...

    def swaps_over(self, site: str) -> int:
        """Swaps of ``site`` that are over, for ``wait``; raises ``NetGPTError`` when it cannot be reached."""
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
        """Make ``version`` live everywhere, or at its site if it is one site's own.

        Raises:
            NetGPTError: it was rolled back by the site, or is not live in time; nothing has changed then.
        """
        with self._turn:
            if version.site is not None:
                state = self.state.give(version.site, version.version, why, self._now_us)
                return self._make(state, version.site, f"{version.version} is live at {version.site}: {why}")
            state = self.state.promote(version.version, why, self._now_us)
            return self._make(state, self._site, f"{version.version} is live: {why}")

    def try_on(self, version: ModelVersion, why: str) -> SwapReport:
        """Make ``version`` the canary; raises as ``promote`` does."""
        with self._turn:
            state = self.state.try_on(version.version, self._site, why, self._now_us)
            return self._make(state, self._site, f"{version.version} is tried on {self._site}: {why}")

    def end_canary(self, why: str) -> str:
        """The canary's site goes back to what it ran; the version that runs there then."""
        with self._turn:
            if (canary := self.state.canary) is None:
                raise StoreError("no version is being tried on a site")
            state = self.state.end_canary(why, self._now_us)
            self._make(state, self._site, f"{canary.version} is rolled back: {why}")
            return state.of(self._site)

    def roll_back(self, why: str, target: str | None = None) -> str:
        """From the canary to what is live, or without one from what is live to ``target``; what runs then.

        Args:
            target: its parent by default.

        Raises:
            StoreError: there is no parent, or it is gone or damaged.
            NetGPTError: the site could not load it.
        """
        with self._turn:
            before = self.state
            if before.canary is not None:
                return self.end_canary(why)
            back = target or self._parent(before.live)
            self._store.get(back)
            state = before.roll_back(back, why, self._now_us)
            self._make(state, self._site, f"{before.live} is rolled back: {why}")
            return back

    def take_back(self, site: str, why: str) -> str:
        """``site`` gives up its own version for the one before, or what is live; what runs there then.

        Raises:
            StoreError: it has none of its own.
            NetGPTError: the site could not load the other one.
        """
        with self._turn:
            before = self.state
            if site not in before.personal:
                raise StoreError(f"site {site!r} has no version of its own: it runs {before.live}")
            state = before.take_back(site, why, self._now_us)
            self._make(state, site, f"{before.of(site)} is rolled back at {site}: {why}")
            return state.of(site)

    def settle(self) -> None:
        """Tell the sites again what to run: a router or site that restarted has forgotten it."""
        with self._turn:
            self._publish(self.state)

    def _make(self, state: Release, site: str, words: str) -> SwapReport:
        """Carry a move out: the sites are told, ``site`` is waited for, then ``state`` is written down."""
        wanted = self._store.get(state.apart.get(site, state.live)).version
        known = self._fleet.swaps_over(site)
        try:
            self._publish(state)
            report = self._fleet.wait(site, wanted, known)
        except NetGPTError:
            try:
                self.settle()
            except NetGPTError as why:
                log.error("the sites could not be told to stay as they are: %s", why)
            raise
        self._store.record(state)
        log.warning("%s", words)
        return report

    def _publish(self, state: Release) -> None:
        apart = {site: self._store.read(version) for site, version in state.apart.items()}
        self._fleet.publish(self._store.read(state.live), apart)

    def _parent(self, version: str) -> str:
        parent = self._store.read(version).parent
        if parent is None:
            raise StoreError(f"{version} has no parent: it is the model that everything started from")
        return parent

    @property
    def _now_us(self) -> int:
        return int(self._clock() * 1e6)
