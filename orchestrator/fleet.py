"""The sites as ``orchestrator.releases`` moves them: the router tells all of them, the one concerned is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
        router: where it is now.
        edge: where a site is now; raises ``NetGPTError`` when it is nowhere.
    """

    def __init__(self, router: Callable[[], Part], edge: Callable[[str], Part]) -> None:
        self._router, self._edge = router, edge

    def publish(self, live: ModelVersion, apart: Mapping[str, ModelVersion]) -> None:
        """Tell every site to run ``live``, or what ``apart`` has for it; does not wait."""
        elsewhere = {site: _directive(version) for site, version in apart.items()}
        self._router().call("publish_swap", _directive(live), elsewhere)

    def wait(self, site: str, version: str, known: int) -> SwapReport:
        """Until ``site`` runs ``version``; what became of the ``known`` swaps before is no news.

        Raises:
            NetGPTError: it was rolled back, or is not live in time.
        """
        deadline = time.monotonic() + SWAP_S
        while time.monotonic() < deadline:
            if (fields := self._edge(site).call("swap_report", version, known)) is not None:
                return _live(SwapReport(**fields))
            if self._edge(site).call("info")["version"] == version:  # it ran before it was asked to
                return SwapReport(version, version, "live", {})
            time.sleep(POLL_S)
        raise NetGPTError(f"site {site} did not run {version} within {SWAP_S:.0f} s")

    def swaps_over(self, site: str) -> int:
        """Swaps of ``site`` that are over."""
        return int(self._edge(site).call("info")["swaps_over"])


def _directive(version: ModelVersion) -> Swap:
    return Swap(version.version, str(version.path), version.sha256)


def _live(report: SwapReport) -> SwapReport:
    if report.outcome != "live":
        raise NetGPTError(f"{report.version} was rolled back: {report.error}")
    return report
