"""The router and the emulated link as services that ``placement`` can host: start, stop, gauges, info.

Each joins a plain class with the socket it listens on; every rule is theirs (``actors.router``, ``link_emulator``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from actors.router import Router
from cluster.link_emulator import LinkEmulator, LinkSpec
from cluster.options import LinkSpecOptions
from cluster.telemetry.server import TelemetryServer
from cluster.telemetry.trust import NOBODY, Trust
from cluster.traces import resolve
from policies.control import LinkReport, Snapshot, Swap
from policies.tariff import Tariff
from policies.types import Objective, Prices

MINUTE_S = 60.0


class RouterService:
    """A ``Router`` behind its gRPC server at ``host:port``, for whom ``trust`` admits.

    Its prices follow ``tariff`` by ``wall``, Unix time in seconds.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        host: str,
        port: int,
        tariff: Tariff | None = None,
        trust: Trust = NOBODY,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._router, self._tariff, self._wall = Router(snapshot), tariff or Tariff.constant(snapshot.prices), wall
        self._host, self._server = host, TelemetryServer(self._router, host, port, trust=trust)
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen."""
        await self._server.start()
        self._following = asyncio.create_task(self._follow(), name="tariff")

    async def stop(self) -> None:
        """Cut the streams and free the port."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
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

    async def publish_swap(self, swap: Swap, apart: Mapping[str, Swap] | None = None) -> None:
        """Tell every site to run ``swap``, or what ``apart`` has for it."""
        self._router.publish_swap(swap, apart)

    async def set_prices(self, prices: Prices) -> None:
        """New prices for every site, from now on and at every hour."""
        self._tariff = Tariff.constant(prices)
        self._router.set_prices(prices)

    async def set_objective(self, objective: Objective) -> None:
        """What answers are worth, for every site."""
        self._router.set_objective(objective)

    async def _follow(self) -> None:
        """Send the prices of each minute in which they change; prices change on whole minutes."""
        while True:
            now_s = self._wall()
            prices = self._tariff.prices_at(now_s)
            if prices != self._router.snapshot.prices:
                self._router.set_prices(prices)
            await asyncio.sleep(MINUTE_S - now_s % MINUTE_S + 0.01)


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
