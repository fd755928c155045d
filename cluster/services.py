"""The router and the emulated link as services that ``placement`` can host: start, stop, gauges, info.

Each joins a plain class with the socket it listens on; every rule is theirs (``actors.router``, ``link_emulator``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.router import Router
from cluster.link_emulator import LinkEmulator, LinkSpec
from cluster.options import LinkSpecOptions
from cluster.telemetry.server import TelemetryServer
from cluster.traces import resolve
from policies.control import LinkReport, Snapshot, Swap
from policies.types import Objective, Prices


class RouterService:
    """A ``Router`` behind its gRPC server at ``host:port``."""

    def __init__(self, snapshot: Snapshot, host: str, port: int) -> None:
        self._router = Router(snapshot)
        self._host, self._server = host, TelemetryServer(self._router, host, port)

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self) -> None:
        """Cut the streams and free the port."""
        await self._server.stop()

    def gauges(self) -> dict[str, float]:
        """The router's figures."""
        return self._router.gauges()

    def info(self) -> dict[str, Any]:
        """Where it listens."""
        return {"host": self._host, "port": self._server.port}

    def sites(self) -> dict[str, LinkReport]:
        """The last report of every known site."""
        return self._router.sites

    async def publish_swap(self, swap: Swap) -> None:
        """Tell every site to run ``swap``."""
        self._router.publish_swap(swap)

    async def set_prices(self, prices: Prices) -> None:
        """New prices for every site."""
        self._router.set_prices(prices)

    async def set_objective(self, objective: Objective) -> None:
        """What answers are worth, for every site."""
        self._router.set_objective(objective)


class LinkService:
    """A ``LinkEmulator`` with its listen ports."""

    def __init__(
        self, upstreams: Mapping[str, tuple[str, int]], link: LinkSpecOptions, ports: Mapping[str, int]
    ) -> None:
        self._emulator = LinkEmulator(upstreams, link_spec(link), ports)

    async def start(self) -> None:
        """Listen."""
        await self._emulator.start()

    async def stop(self) -> None:
        """Cut every connection and free the ports."""
        await self._emulator.stop()

    def gauges(self) -> dict[str, float]:
        """The emulator's figures."""
        return self._emulator.gauges()

    def info(self) -> dict[str, Any]:
        """Listen port by upstream, and the link's name now."""
        return {"ports": self._emulator.ports, "link": self._emulator.spec.name}

    async def set_link(self, spec: LinkSpec) -> None:
        """Change the link now."""
        self._emulator.set_link(spec)


def link_spec(options: LinkSpecOptions) -> LinkSpec:
    """The emulator's own record of a configured state; traces are read here.

    Raises:
        BadConfig: a trace is neither bundled nor a readable file.
    """
    fields = options.model_dump()
    for side in ("up", "down"):
        if isinstance(fields[side], str):
            fields[side] = resolve(fields[side])
    return LinkSpec(**fields)
