"""The link monitor against a link that is a formula: what it costs, finds and concludes."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from actors.link_probe import FIRST_BYTES, OCCUPY_S, PROBE_BYTES_PER_MINUTE, LinkMonitor
from policies.errors import Unreachable
from policies.link import LinkEstimator
from policies.types import LinkState


class FakeLink:
    """A probe function that answers at once what a perfect link would take, and its clock."""

    def __init__(self, rtt_ms: float = 40, up_bps: float = 2e6, down_bps: float = 8e6) -> None:
        self.rtt_ms, self.up_bps, self.down_bps = rtt_ms, up_bps, down_bps
        self.up, self.largest, self.now_s = True, 1 << 20, 0.0
        self.probes: list[tuple[float, int, int]] = []

    def clock(self) -> float:
        return self.now_s

    async def probe(self, up_bytes: int, down_bytes: int) -> float:
        self.probes.append((self.now_s, up_bytes, down_bytes))
        if not self.up or up_bytes + down_bytes > self.largest:
            raise Unreachable("router: no answer")
        return self.rtt_ms / 1000 + 8 * up_bytes / self.up_bps + 8 * down_bytes / self.down_bps


def figures(state: LinkState) -> tuple[float, float, float]:
    return state.rtt_ms, state.up_bps, state.down_bps


async def rounds(monitor: LinkMonitor, link: FakeLink, count: int, step_s: float = 1.0) -> None:
    for _ in range(count):
        await monitor.measure()
        link.now_s += step_s


@pytest.mark.parametrize(("up_bps", "down_bps"), [(5e4, 1e5), (2e6, 8e6), (5e7, 1e8)])
async def test_rtt_and_bandwidth_are_found(up_bps: float, down_bps: float) -> None:
    link = FakeLink(60, up_bps, down_bps)
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 12)
    assert figures(monitor.state()) == pytest.approx((60, up_bps, down_bps), rel=0.01)


async def test_a_change_of_the_link_is_found_within_a_few_rounds() -> None:
    link = FakeLink()
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 10)
    link.rtt_ms, link.up_bps, link.down_bps = 200, 2e5, 4e5
    await rounds(monitor, link, 6)
    assert figures(monitor.state()) == pytest.approx((200, 2e5, 4e5), rel=0.05)
    link.rtt_ms, link.up_bps, link.down_bps = 10, 2e7, 4e7
    await rounds(monitor, link, 6)
    assert figures(monitor.state()) == pytest.approx((10, 2e7, 4e7), rel=0.05)


@pytest.mark.parametrize("bps", [3e5, 3e6, 3e7])
async def test_a_known_link_is_held_no_longer_than_stated(bps: float) -> None:
    link = FakeLink(40, bps, bps)
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 30)
    assert max(up + down for _, up, down in link.probes) * 8 / bps <= OCCUPY_S * 1.01


async def test_any_minute_stays_within_the_byte_budget() -> None:
    link = FakeLink(1, 1e9, 1e9)
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 1500, step_s=0.1)
    for begin_s in range(0, 90, 10):
        spent = sum(up + down for at_s, up, down in link.probes if begin_s <= at_s < begin_s + 60)
        assert 0.5 * PROBE_BYTES_PER_MINUTE < spent <= PROBE_BYTES_PER_MINUTE


async def test_without_padding_only_the_round_trip_is_measured() -> None:
    link = FakeLink()
    monitor = LinkMonitor(link.probe, link.clock, largest_bytes=0)
    await rounds(monitor, link, 5)
    assert {(up, down) for _, up, down in link.probes} == {(0, 0)}
    assert monitor.state().rtt_ms == pytest.approx(40)


async def test_a_missed_padded_probe_makes_the_next_one_small() -> None:
    link = FakeLink()
    link.largest = FIRST_BYTES
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 12)
    upwards = [up for _, up, _ in link.probes if up]
    assert max(upwards) > FIRST_BYTES
    assert all(later <= FIRST_BYTES for one, later in pairwise(upwards) if one > FIRST_BYTES)
    assert monitor.state().up


async def test_the_round_trip_of_a_fresh_connection_is_not_counted() -> None:
    link = FakeLink(rtt_ms=500)
    monitor = LinkMonitor(link.probe, link.clock)
    await monitor.measure()
    link.rtt_ms = 40
    await monitor.measure()
    assert monitor.state().rtt_ms == pytest.approx(40)


async def test_the_loop_sees_an_outage_and_its_end_and_tells_once() -> None:
    link, told = FakeLink(), list[bool]()
    monitor = LinkMonitor(link.probe, link.clock, interval_s=0.02, on_change=lambda state: told.append(state.up))
    await monitor.start()
    await asyncio.sleep(0.1)
    link.up = False
    await asyncio.sleep(0.2)
    assert not monitor.state().up
    link.up = True
    await asyncio.sleep(0.1)
    assert monitor.state().up
    await monitor.stop()
    assert told == [False, True]
    assert monitor.gauges()["link_probes_missed"] >= 3


async def test_a_silent_link_is_missed_in_time() -> None:
    async def silent(up_bytes: int, down_bytes: int) -> float:
        await asyncio.sleep(60)
        return 60.0

    near = LinkEstimator(LinkState(rtt_ms=5, up_bps=1e9, down_bps=1e9))
    monitor = LinkMonitor(silent, interval_s=0.01, patience_s=0.01, estimator=near)
    await monitor.start()
    await asyncio.sleep(0.8)
    await monitor.stop()
    assert not monitor.state().up


async def test_a_failed_offload_has_the_link_probed_at_once() -> None:
    link = FakeLink()
    monitor = LinkMonitor(link.probe, link.clock, interval_s=60)
    await monitor.start()
    await asyncio.sleep(0.02)
    link.up = False
    monitor.observe_offload(5000, 0, 2.0, None, ok=False)
    await asyncio.sleep(0.02)
    assert not monitor.state().up
    monitor.observe_offload(5000, 5000, 0.2, None, ok=True)
    assert monitor.state().up
    await monitor.stop()


async def test_offloads_with_the_servers_own_time_teach_bandwidth() -> None:
    link = FakeLink(40, 1e6, 1e6)
    monitor = LinkMonitor(link.probe, link.clock)
    await rounds(monitor, link, 8)
    for _ in range(3):
        monitor.observe_offload(25_000, 25_000, 1.0 + 0.04 + 2 * 0.8, 1.0, ok=True)
    assert figures(monitor.state()) == pytest.approx((40, 2.5e5, 2.5e5), rel=0.05)


async def test_reports_are_numbered_and_carry_the_state() -> None:
    link = FakeLink()
    monitor = LinkMonitor(link.probe, link.clock, site="north")
    await rounds(monitor, link, 4)
    first, second = monitor.report("v1", 7), monitor.report("v2", 9)
    assert (first.site, first.seq, first.version, first.log_seq) == ("north", 1, "v1", 7)
    assert (second.seq, second.link) == (2, monitor.state())


async def test_stopping_twice_or_before_starting_is_harmless() -> None:
    monitor = LinkMonitor(FakeLink().probe)
    await monitor.stop()
    await monitor.start()
    await monitor.stop()
    await monitor.stop()
