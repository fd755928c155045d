"""The router: what every site's link is like, and what every site should decide with.

Plain and without a network: ``cluster.telemetry.server`` puts it behind gRPC. Sites ``report``; each
``subscribe``s once and gets the newest snapshot (older ones it had no time for are skipped, and the
newest is repeated before it can expire) and every swap. It holds a few hundred bytes a site and is not
on any request's path. It must run on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from policies.control import Directive, LinkReport, Snapshot, Swap
from policies.link import percentile
from policies.types import CloudSpeed, Objective, Prices

log = logging.getLogger(__name__)

MAX_SITES = 10_000  # past it the site silent for longest is forgotten; it is relearned when it reports
MAX_SWAPS = 16  # waiting for one site; past it its stream is ended, and on return it gets the last one
REPEATS_PER_TTL = 3.0  # a snapshot is repeated this often in its life: two may get lost
LEAST_PAUSE_S = 0.02  # between two repeats, however short a snapshot's life: no stream is a flood
SILENT_S = 30.0  # a site that has not reported for so long is counted as silent


@dataclass(slots=True)
class SiteRow:
    """The last report of a site and when it came, in seconds of the router's clock."""

    report: LinkReport
    seen_s: float


class Router:
    """Holds the link table, the snapshot of the day and the version to run.

    Args:
        snapshot: what to send first; its ``seq`` is the first one.
        clock: monotonic seconds.
    """

    def __init__(self, snapshot: Snapshot, clock: Callable[[], float] = time.monotonic) -> None:
        self._snapshot, self._clock = snapshot, clock
        self._swap: Swap | None = None
        self._apart: Mapping[str, Swap] = {}
        self._sites: dict[str, SiteRow] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._reports = self._forgotten = self._swaps_sent = self._snapshots_sent = 0

    @property
    def snapshot(self) -> Snapshot:
        """What sites are to decide with now."""
        return self._snapshot

    @property
    def swap(self) -> Swap | None:
        """The last swap published for every site that is not apart."""
        return self._swap

    @property
    def sites(self) -> dict[str, LinkReport]:
        """The last report of every known site."""
        return {name: row.report for name, row in self._sites.items()}

    def report(self, report: LinkReport) -> None:
        """Take a site's report; a site that runs other weights than published is told, once a stream."""
        self._reports += 1
        self._sites.pop(report.site, None)  # to the end: the order is that of last reports
        self._sites[report.site] = SiteRow(report, self._clock())
        if len(self._sites) > MAX_SITES:
            del self._sites[next(iter(self._sites))]
            self._forgotten += 1
        self._remind(report.site)

    def subscribe(self, site: str) -> Subscription:
        """Directives for ``site`` from now on; ends any older subscription of that site."""
        if site in self._subscriptions:
            log.warning("site %s watches again; its older stream is ended", site)
            self._subscriptions[site].close()
        subscription = Subscription(site, self)
        self._subscriptions[site] = subscription
        self._remind(site)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; nothing happens if it was replaced."""
        if self._subscriptions.get(subscription.site) is subscription:
            del self._subscriptions[subscription.site]

    def publish_swap(self, swap: Swap, apart: Mapping[str, Swap] | None = None) -> None:
        """Send ``swap`` to every subscriber that is not known to run it, and later to whoever returns.

        Args:
            apart: what other sites are to run instead, by name.
        """
        self._swap, self._apart = swap, dict(apart or {})
        for site in list(self._subscriptions):
            wanted = self._apart.get(site, swap)
            if self._version_at(site) != wanted.version:
                self._subscriptions[site].offer(wanted)

    def set_prices(self, prices: Prices) -> None:
        """New prices for everyone."""
        self._set(replace(self._snapshot, prices=prices))

    def set_objective(self, objective: Objective) -> None:
        """What answers are worth, for everyone."""
        self._set(replace(self._snapshot, objective=objective))

    def set_speed(self, speed: CloudSpeed) -> None:
        """How fast the cloud answers, for everyone."""
        self._set(replace(self._snapshot, speed=speed))

    def set_threshold_floor(self, floor: float) -> None:
        """The lowest threshold any site may use, in [0, 1]."""
        self._set(replace(self._snapshot, threshold_floor=floor))

    def gauges(self) -> dict[str, float]:
        """Counts, and the link figures over all sites that reported within SILENT_S."""
        now_s = self._clock()
        fresh = [row.report for row in self._sites.values() if now_s - row.seen_s <= SILENT_S]
        rtts_ms = [report.link.rtt_ms for report in fresh] or [0.0]
        return {
            "router_sites": len(self._sites),
            "router_sites_silent": len(self._sites) - len(fresh),
            "router_sites_down": sum(not report.link.up for report in fresh),
            "router_sites_behind": sum(self._is_behind(report.site) for report in fresh),
            "router_subscribers": len(self._subscriptions),
            "router_reports": self._reports,
            "router_sites_forgotten": self._forgotten,
            "router_snapshots_sent": self._snapshots_sent,
            "router_swaps_sent": self._swaps_sent,
            "router_snapshot_seq": self._snapshot.seq,
            "router_rtt_p50_ms": percentile(rtts_ms, 0.5),
            "router_rtt_p95_ms": percentile(rtts_ms, 0.95),
        }

    def count_sent(self, directive: Directive) -> None:
        """A subscription handed ``directive`` out."""
        if isinstance(directive, Swap):
            self._swaps_sent += 1
        else:
            self._snapshots_sent += 1

    def _set(self, snapshot: Snapshot) -> None:
        self._snapshot = replace(snapshot, seq=snapshot.seq + 1)
        for subscription in self._subscriptions.values():
            subscription.renew()

    def _remind(self, site: str) -> None:
        subscription, wanted = self._subscriptions.get(site), self._wanted(site)
        if subscription is not None and wanted is not None and self._is_behind(site):
            subscription.offer(wanted)

    def _wanted(self, site: str) -> Swap | None:
        return self._apart.get(site, self._swap)

    def _is_behind(self, site: str) -> bool:
        wanted = self._wanted(site)
        return wanted is not None and self._version_at(site) not in (None, "", wanted.version)

    def _version_at(self, site: str) -> str | None:
        row = self._sites.get(site)
        return row.report.version if row else None


class Subscription:
    """One site's directives: the newest snapshot and a short queue of swaps. Made by ``subscribe``."""

    def __init__(self, site: str, router: Router) -> None:
        self.site = site
        self._router = router
        self._swaps: deque[Swap] = deque()  # at most MAX_SWAPS: more end the stream
        self._offered: Swap | None = None
        self._stale, self._closed = True, False
        self._news = asyncio.Event()
        self._news.set()

    def renew(self) -> None:
        """There is a newer snapshot; one that was not handed out yet is thereby skipped."""
        self._stale = True
        self._news.set()

    def offer(self, swap: Swap) -> None:
        """Queue ``swap`` unless it was the last one queued; a reader that is too slow loses its stream."""
        if swap == self._offered:
            return
        if len(self._swaps) >= MAX_SWAPS:
            log.warning("site %s does not read its swaps; its stream is ended", self.site)
            self.close()
            return
        self._offered = swap
        self._swaps.append(swap)
        self._news.set()

    def close(self) -> None:
        """End the iteration once the swaps already queued are handed out."""
        self._closed = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Directive]:
        while True:
            while (directive := self._take()) is not None:
                self._router.count_sent(directive)
                yield directive
            if self._closed:
                return
            await self._wait()

    def _take(self) -> Directive | None:
        self._news.clear()
        if self._swaps:
            return self._swaps.popleft()
        if self._stale and not self._closed:
            self._stale = False
            return self._router.snapshot
        return None

    async def _wait(self) -> None:
        """Until there is news, or the snapshot is due again."""
        try:
            async with asyncio.timeout(max(self._router.snapshot.ttl_s / REPEATS_PER_TTL, LEAST_PAUSE_S)):
                await self._news.wait()
        except TimeoutError:
            self._stale = True
