"""The sites as ``orchestrator.releases`` moves them: the router tells all of them, this system's own is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from actors.model_store import ModelVersion
from actors.swap import SwapReport
from policies.control import Swap
from policies.errors import NetGPTError

SWAP_S = 60.0  # verifying and loading an edge model takes well under a second; the directive waits for its stream
POLL_S = 0.1


class Part(Protocol):
    """A hosted service; ``cluster.placement.Placed`` is one."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of it."""
        ...


class SiteFleet:
    """The sites of a router.

    Args:
        site: this system's own.
        router, edge: where they are now; asked each time.
    """

    def __init__(self, site: str, router: Callable[[], Part], edge: Callable[[], Part]) -> None:
        self._site, self._router, self._edge = site, router, edge

    def publish(self, live: ModelVersion, canary: ModelVersion | None) -> None:
        """Tell every site to run ``live``, and this one ``canary`` where there is one; does not wait."""
        apart = {self._site: _directive(canary)} if canary else {}
        self._router().call("publish_swap", _directive(live), apart)

    def wait(self, version: str, known: int) -> SwapReport:
        """Until this site runs ``version``; what became of the ``known`` swaps before is no news.

        Raises:
            NetGPTError: it was rolled back, or is not live in time.
        """
        deadline = time.monotonic() + SWAP_S
        while time.monotonic() < deadline:
            if (fields := self._edge().call("swap_report", version, known)) is not None:
                return _live(SwapReport(**fields))
            if self._edge().call("info")["version"] == version:  # it ran before it was asked to
                return SwapReport(version, version, "live", {})
            time.sleep(POLL_S)
        raise NetGPTError(f"the site did not run {version} within {SWAP_S:.0f} s")

    def swaps_over(self) -> int:
        """Swaps of this site that are over."""
        return int(self._edge().call("info")["swaps_over"])


def _directive(version: ModelVersion) -> Swap:
    return Swap(version.version, str(version.path), version.sha256)


def _live(report: SwapReport) -> SwapReport:
    if report.outcome != "live":
        raise NetGPTError(f"{report.version} was rolled back: {report.error}")
    return report
