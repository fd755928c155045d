"""The router without a network: what subscribers get, and what it remembers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from actors.router import MAX_SITES, MAX_SWAPS, SILENT_S, Router, Subscription
from policies.control import Directive, Held, LinkReport, Snapshot, Swap, in_force
from policies.types import CloudSpeed, LinkState, Objective, Prices

SNAPSHOT = Snapshot(1, 30.0, Prices(), Objective(0.02, 0.002, 0.97), CloudSpeed())
LINK = LinkState(40.0, 1e6, 2e6)


def report(site: str = "north", version: str = "v1", rtt_ms: float = 40.0, up: bool = True) -> LinkReport:
    return LinkReport(site, 1, replace(LINK, rtt_ms=rtt_ms, up=up), version)


def swap(version: str) -> Swap:
    return Swap(version, f"/store/{version}", "0" * 64)


async def waiting(subscription: Subscription, within_s: float = 0.05) -> list[Directive]:
    """Everything the subscription hands out until it has nothing for a while."""
    got: list[Directive] = []
    try:
        async with asyncio.timeout(within_s):
            async for directive in subscription:
                got.append(directive)
    except TimeoutError:
        pass
    return got


async def test_a_subscriber_gets_the_snapshot_at_once() -> None:
    assert await waiting(Router(SNAPSHOT).subscribe("north")) == [SNAPSHOT]


async def test_of_many_snapshots_only_the_newest_is_handed_out() -> None:
    router = Router(SNAPSHOT)
    subscription = router.subscribe("north")
    for cents in range(1, 51):
        router.set_prices(Prices(request_usd=cents / 100))
    assert await waiting(subscription) == [replace(SNAPSHOT, seq=51, prices=Prices(request_usd=0.5))]


async def test_every_setter_makes_a_new_snapshot_for_everyone() -> None:
    router = Router(SNAPSHOT)
    subscriptions = [router.subscribe(site) for site in ("north", "south")]
    router.set_prices(Prices(1.0))
    router.set_objective(Objective(1.0, 2.0, 0.5))
    router.set_speed(CloudSpeed(2.0))
    router.set_threshold_floor(0.25)
    expected = Snapshot(5, 30.0, Prices(1.0), Objective(1.0, 2.0, 0.5), CloudSpeed(2.0), 0.25)
    assert [await waiting(subscription) for subscription in subscriptions] == [[expected], [expected]]


async def test_no_swap_is_dropped_or_reordered_however_many_snapshots_come_between() -> None:
    router = Router(SNAPSHOT)
    subscription = router.subscribe("north")
    swaps = [swap(f"v{i}") for i in range(MAX_SWAPS)]
    for one in swaps:
        router.publish_swap(one)
        router.set_prices(Prices(1.0))
    assert [one for one in await waiting(subscription) if isinstance(one, Swap)] == swaps


async def test_a_reader_that_never_reads_loses_its_stream_but_not_the_last_swap() -> None:
    router = Router(SNAPSHOT)
    subscription = router.subscribe("north")
    for i in range(MAX_SWAPS + 5):
        router.publish_swap(swap(f"v{i}"))
    got = await asyncio.wait_for(collect_to_end(subscription), 1)
    assert got == [swap(f"v{i}") for i in range(MAX_SWAPS)]
    router.unsubscribe(subscription)
    router.report(report(version=f"v{MAX_SWAPS - 1}"))
    assert swap(f"v{MAX_SWAPS + 4}") in await waiting(router.subscribe("north"))


async def collect_to_end(subscription: Subscription) -> list[Directive]:
    return [directive async for directive in subscription]


async def test_a_snapshot_is_repeated_before_it_can_expire() -> None:
    router = Router(replace(SNAPSHOT, ttl_s=0.15))
    got = await waiting(router.subscribe("north"), within_s=0.4)
    assert 4 <= len(got) <= 9
    assert set(got) == {router.snapshot}


async def test_a_site_that_returns_with_other_weights_is_sent_the_swap_again() -> None:
    router = Router(SNAPSHOT)
    router.publish_swap(swap("v2"))
    router.report(report(version="v1"))
    assert await waiting(router.subscribe("north")) == [swap("v2"), SNAPSHOT]


async def test_a_site_that_reports_after_it_subscribed_is_sent_the_swap_too() -> None:
    router = Router(SNAPSHOT)
    router.publish_swap(swap("v2"))
    subscription = router.subscribe("north")
    assert await waiting(subscription) == [SNAPSHOT]
    router.report(report(version="v1"))
    assert await waiting(subscription) == [swap("v2")]


async def test_a_site_that_runs_the_version_or_does_not_say_is_left_alone() -> None:
    router = Router(SNAPSHOT)
    router.publish_swap(swap("v2"))
    router.report(report("north", version="v2"))
    router.report(report("south", version=""))
    for site in ("north", "south"):
        assert await waiting(router.subscribe(site)) == [SNAPSHOT]


async def test_in_one_stream_a_swap_is_sent_once_however_often_the_old_version_is_reported() -> None:
    router = Router(SNAPSHOT)
    subscription = router.subscribe("north")
    router.publish_swap(swap("v2"))
    for _ in range(5):
        router.report(report(version="v1"))
    assert await waiting(subscription) == [swap("v2"), SNAPSHOT]


async def test_publishing_reaches_who_runs_another_version_only() -> None:
    router = Router(SNAPSHOT)
    router.report(report("north", "v1"))
    router.report(report("south", "v2"))
    north, south = router.subscribe("north"), router.subscribe("south")
    router.publish_swap(swap("v2"))
    assert swap("v2") in await waiting(north)
    assert swap("v2") not in await waiting(south)


async def test_going_back_to_an_earlier_version_is_a_swap_as_well() -> None:
    router = Router(SNAPSHOT)
    subscription = router.subscribe("north")
    for version in ("v2", "v3", "v2"):
        router.publish_swap(swap(version))
    swaps = [one for one in await waiting(subscription) if isinstance(one, Swap)]
    assert [one.version for one in swaps] == ["v2", "v3", "v2"]


async def test_a_second_stream_of_a_site_ends_the_first() -> None:
    router = Router(SNAPSHOT)
    first = router.subscribe("north")
    second = router.subscribe("north")
    assert await asyncio.wait_for(collect_to_end(first), 1) == []
    router.unsubscribe(first)
    router.set_prices(Prices(1.0))
    assert await waiting(second) == [router.snapshot]
    router.unsubscribe(second)
    assert router.gauges()["router_subscribers"] == 0


async def test_the_table_is_bounded_and_forgets_the_site_silent_for_longest() -> None:
    router = Router(SNAPSHOT)
    for i in range(MAX_SITES):
        router.report(report(f"site-{i}"))
    router.report(report("site-0"))
    router.report(report("one-more"))
    assert len(router.sites) == MAX_SITES
    assert "site-0" in router.sites
    assert "site-1" not in router.sites
    assert router.gauges()["router_sites_forgotten"] == 1


async def test_gauges_follow_the_reports() -> None:
    now_s = [0.0]
    router = Router(SNAPSHOT, clock=lambda: now_s[0])
    router.report(report("gone", rtt_ms=5000))
    now_s[0] = SILENT_S + 1
    router.publish_swap(swap("v2"))
    for i in range(10):
        router.report(report(f"site-{i}", rtt_ms=10.0 * (i + 1), up=i != 3, version="v2" if i else "v1"))
    gauges = router.gauges()
    assert (gauges["router_sites"], gauges["router_sites_silent"], gauges["router_reports"]) == (11, 1, 11)
    assert (gauges["router_sites_down"], gauges["router_sites_behind"]) == (1, 1)
    assert (gauges["router_rtt_p50_ms"], gauges["router_rtt_p95_ms"]) == (50.0, 100.0)


@given(st.floats(0.1, 100), st.floats(0, 1000), st.floats(0, 1000))
def test_a_site_keeps_its_last_snapshot_until_it_expires(ttl_s: float, arrived_s: float, later_s: float) -> None:
    default, last = SNAPSHOT, replace(SNAPSHOT, seq=9, ttl_s=ttl_s)
    now_s = arrived_s + later_s
    expected = default if now_s - arrived_s > ttl_s else last
    assert in_force(Held(last, arrived_s), default, now_s) is expected
    assert in_force(None, default, now_s) is default


async def test_a_site_apart_gets_its_own_version_and_comes_back_with_the_others() -> None:
    router = Router(SNAPSHOT)
    north, south = router.subscribe("north"), router.subscribe("south")
    router.publish_swap(swap("v1"), {"north": swap("v2")})
    assert [swap("v2")] == [d for d in await waiting(north) if d != SNAPSHOT]
    assert [swap("v1")] == [d for d in await waiting(south) if d != SNAPSHOT]
    router.report(report("north", "v2"))
    router.report(report("south", "v1"))
    router.publish_swap(swap("v1"), {"north": swap("v2")})  # said again: nobody is behind
    assert await waiting(north) == await waiting(south) == [] and router.gauges()["router_sites_behind"] == 0
    router.publish_swap(swap("v1"))
    assert await waiting(north) == [swap("v1")] and await waiting(south) == []


async def test_a_canary_that_restarts_with_the_old_weights_is_told_again() -> None:
    router = Router(SNAPSHOT)
    router.publish_swap(swap("v1"), {"north": swap("v2")})
    router.report(report("north", "v1"))
    subscription = router.subscribe("north")
    assert swap("v2") in await waiting(subscription) and router.swap == swap("v1")
