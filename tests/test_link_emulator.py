"""The emulated link, with real sockets on both sides of it."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.link_emulator import MAX_CONNECTIONS, MIN_WINDOW, LinkEmulator, LinkSpec
from cluster.traces import SYNTHETIC, Trace, capacity, load, resolve
from policies.errors import BadConfig

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "link_traces"
WIDE = LinkSpec("wide", 50e6, 100e6, delay_ms=5)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A server behind the link that counts what arrives and when."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, int]] = []

    @property
    def received(self) -> int:
        return sum(size for _, size in self.arrivals)

    def received_by(self, at_s: float) -> int:
        return sum(size for when, size in self.arrivals if when <= at_s)

    async def sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.arrivals.append((time.monotonic(), len(data)))
        writer.close()

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.arrivals.append((time.monotonic(), len(data)))
                writer.write(data)
        writer.close()


class Rig:
    """A link with one upstream, and clients that are closed at the end."""

    def __init__(self, link: LinkEmulator, port: int) -> None:
        self.link, self.port = link, port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def flood(self) -> None:
        """Send without end, on a connection of its own."""
        _, writer = await self.connect()
        self._tasks.append(asyncio.create_task(flood(writer)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self.link.stop()


@asynccontextmanager
async def linked(handler: Handler, spec: LinkSpec) -> AsyncIterator[Rig]:
    far_writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    link = LinkEmulator({"far": server.sockets[0].getsockname()[:2]}, spec)
    rig = Rig(link, (await link.start())["far"])
    try:
        yield rig
    finally:
        await rig.close()
        server.close()
        for writer in far_writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def flood(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(bytes(16384))
            await writer.drain()


async def ping_ms(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    begun_s = time.perf_counter()
    writer.write(b"!")
    assert await reader.readexactly(1) == b"!"
    return (time.perf_counter() - begun_s) * 1000


async def within(rel: float, expected: float, measure: Callable[[], Awaitable[float]]) -> bool:
    """Whether one of three measurements comes close: a busy machine can spoil any, a wrong link spoils all."""
    for _ in range(3):
        if await measure() == pytest.approx(expected, rel=rel):
            return True
    return False


async def share_of_capacity(rate: float | Trace, seconds: float) -> float:
    """What a sender with always more to send gets through, over what the link could have carried."""
    far, curve = Upstream(), capacity(rate)
    spec = LinkSpec("measured", rate, 1e6, delay_ms=10)
    async with linked(far.sink, LinkSpec("before", 1e6, 1e6)) as rig:
        await rig.flood()
        await asyncio.sleep(0.2)
        rig.link.set_link(spec)
        origin_s = time.monotonic() + spec.delay_ms / 1000
        await asyncio.sleep(seconds)
    from_s, to_s = 0.2, seconds - 0.2
    carried = far.received_by(origin_s + to_s) - far.received_by(origin_s + from_s)
    return carried / (curve.arrived(to_s) - curve.arrived(from_s))


@pytest.mark.parametrize("bps", [5e6, 50e6, 100e6])
async def test_a_constant_link_carries_its_rate_within_5_percent(bps: float) -> None:
    assert await within(0.05, 1, lambda: share_of_capacity(bps, 1.5))


async def off_trace(traces: list[Trace], seconds: float) -> dict[str, float]:
    """What was carried over what the trace would have, where that is off by more than 5% three times."""
    for _ in range(3):
        shares = await asyncio.gather(*(share_of_capacity(trace, seconds) for trace in traces))
        off = [(trace, share) for trace, share in zip(traces, shares, strict=True) if abs(share - 1) > 0.05]
        traces = [trace for trace, _ in off]
    return {trace.name: share for trace, share in off}


async def test_shipped_traces_are_followed_within_5_percent() -> None:
    assert await off_trace([resolve(name) for name in sorted(SYNTHETIC)], 6.0) == {}


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded traces (../shared/data/link_traces) are not here")
async def test_recorded_traces_are_followed_within_5_percent() -> None:
    assert await off_trace([load(path) for path in sorted(REAL.iterdir())], 6.0) == {}


async def test_both_directions_run_at_their_own_rates_at_once() -> None:
    far, back = Upstream(), 0
    spec = LinkSpec("uneven", up=4e6, down=8e6)

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(far.sink(reader, writer))
            tasks.create_task(flood(writer))

    async with linked(both, spec) as rig:
        reader, writer = await rig.connect()
        task, begun_s = asyncio.create_task(flood(writer)), time.monotonic()
        while (elapsed_s := time.monotonic() - begun_s) < 1.5:
            back += len(await reader.read(1 << 16))
        task.cancel()
        writer.transport.abort()
        assert 0.8 * 4e6 < far.received * 8 / elapsed_s < 1.05 * 4e6
        assert 0.8 * 8e6 < back * 8 / elapsed_s < 1.05 * 8e6


async def test_connections_of_all_ports_share_one_capacity() -> None:
    one, other = Upstream(), Upstream()
    servers = [await asyncio.start_server(far.sink, "127.0.0.1", 0) for far in (one, other)]
    upstreams = {f"far{i}": server.sockets[0].getsockname()[:2] for i, server in enumerate(servers)}
    link = LinkEmulator(upstreams, LinkSpec("shared", 8e6, 1e6))
    ports = await link.start()
    rigs = [Rig(link, port) for port in ports.values()]
    for rig in rigs:
        await rig.flood()
    await asyncio.sleep(1.5)
    total, first = one.received + other.received, one.received
    for rig in rigs:
        await rig.close()
    for server in servers:
        server.close()
    assert 0.8 * 8e6 < total * 8 / 1.5 < 1.1 * 8e6
    assert first / total == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("delay_ms", [20, 80])
async def test_a_round_trip_takes_twice_the_delay_within_15_percent(delay_ms: float) -> None:
    async with linked(Upstream().echo, replace(WIDE, delay_ms=delay_ms)) as rig:
        ends = await rig.connect()
        await ping_ms(*ends)  # the first one waits for the connection
        rtts_ms = sorted([await ping_ms(*ends) for _ in range(9)])
    assert 2 * delay_ms <= rtts_ms[0]
    assert rtts_ms[2] <= 2 * delay_ms * 1.15


async def test_opening_a_connection_costs_a_round_trip() -> None:
    async with linked(Upstream().echo, replace(WIDE, delay_ms=50)) as rig:
        first_ms = min([await ping_ms(*await rig.connect()) for _ in range(3)])
    assert 200 <= first_ms <= 200 * 1.15


async def test_jitter_spreads_round_trips_by_what_it_says() -> None:
    async with linked(Upstream().echo, replace(WIDE, delay_ms=80, jitter_ms=20)) as rig:
        pairs = [await rig.connect() for _ in range(20)]
        await asyncio.gather(*(ping_ms(*pair) for pair in pairs))
        rtts = [rtt for _ in range(3) for rtt in await asyncio.gather(*(ping_ms(*pair) for pair in pairs))]
    assert 0.85 * 160 < statistics.mean(rtts) < 1.25 * 160
    assert 18 < statistics.stdev(rtts) < 45  # two draws of 20 ms: 28 ms


async def test_jitter_and_loss_neither_lose_nor_reorder_a_byte() -> None:
    sent = bytes(range(256)) * 400
    spec = LinkSpec("rough", 20e6, 20e6, delay_ms=5, jitter_ms=10, loss=0.05)
    async with linked(Upstream().echo, spec) as rig:
        reader, writer = await rig.connect()
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 20) == sent
        assert rig.link.gauges()["link_stalls"] > 0
        writer.close()


async def test_a_loss_is_a_stall_of_its_own_connection() -> None:
    async with linked(Upstream().echo, replace(WIDE, loss=0.2)) as rig:
        pairs = await asyncio.gather(*(rig.connect() for _ in range(40)))
        await asyncio.gather(*(ping_ms(*pair) for pair in pairs))
        stalls = rig.link.gauges()["link_stalls"]
        rtts = await asyncio.gather(*(ping_ms(*pair) for pair in pairs))
        stalls = rig.link.gauges()["link_stalls"] - stalls
    stalled = sum(rtt > 200 for rtt in rtts)
    assert 5 <= stalled <= 25  # 1 - 0.8**2 = 36% of 40 both-way trips
    assert stalls >= stalled


async def test_in_an_outage_nothing_flows_and_afterwards_everything_arrives() -> None:
    far = Upstream()
    async with linked(far.echo, WIDE) as rig:
        reader, writer = await rig.connect()
        await ping_ms(reader, writer)
        rig.link.set_link(replace(WIDE, outage=True))
        writer.write(b"held")
        late_reader, late_writer = await rig.connect()  # accepted, then silent
        late_writer.write(b"new")
        before = far.received
        await asyncio.sleep(0.3)
        assert far.received == before
        rig.link.set_link(WIDE)
        assert await asyncio.wait_for(reader.readexactly(4), 2) == b"held"
        assert await asyncio.wait_for(late_reader.readexactly(3), 2) == b"new"


async def test_bytes_on_their_way_are_stopped_by_an_outage_too() -> None:
    far = Upstream()
    async with linked(far.echo, replace(WIDE, delay_ms=100)) as rig:
        reader, writer = await rig.connect()
        await ping_ms(reader, writer)
        writer.write(b"x")
        await asyncio.sleep(0.05)
        rig.link.set_link(replace(WIDE, outage=True))
        await asyncio.sleep(0.3)
        assert far.received == 1
        rig.link.set_link(WIDE)
        assert await asyncio.wait_for(reader.readexactly(1), 2) == b"x"


async def test_what_an_idle_link_could_have_carried_is_lost() -> None:
    far = Upstream()
    async with linked(far.sink, LinkSpec("slow", 400e3, 400e3)) as rig:
        _, writer = await rig.connect()
        await asyncio.sleep(0.8)  # 40 kB unused
        writer.write(bytes(40_000))
        await asyncio.sleep(0.4)
        assert far.received == pytest.approx(400e3 / 8 * 0.4, rel=0.25)


async def test_a_change_of_the_link_holds_for_bytes_already_waiting() -> None:
    async with linked(Upstream().echo, LinkSpec("slow", 50e3, 50e3)) as rig:
        reader, writer = await rig.connect()
        await ping_ms(reader, writer)
        writer.write(bytes(12_000))  # two seconds of the slow link, and as much back
        await asyncio.sleep(0.1)
        rig.link.set_link(WIDE)
        await asyncio.wait_for(reader.readexactly(12_000), 1)


async def test_a_slow_link_stops_the_sender_rather_than_fill_the_memory() -> None:
    async with linked(Upstream().sink, LinkSpec("slow", 100e3, 100e3)) as rig:
        await rig.flood()
        await asyncio.sleep(0.5)
        taken_in = rig.link.gauges()["link_up_bytes"]
    assert taken_in <= MIN_WINDOW + 100e3 / 8 * 0.6 + 4096


async def test_an_upstream_that_does_not_read_stops_the_sender() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with linked(deaf, LinkSpec("wide", 400e6, 1e6)) as rig:
        await rig.flood()
        await asyncio.sleep(1.0)
        taken_in = rig.link.gauges()["link_up_bytes"]
        await asyncio.sleep(0.3)
        assert rig.link.gauges()["link_up_bytes"] == taken_in


async def test_a_client_may_end_its_side_and_still_read_the_answer() -> None:
    async def answer_at_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read(-1))).encode())
        writer.close()

    async with linked(answer_at_end, WIDE) as rig:
        reader, writer = await rig.connect()
        writer.write(bytes(5000))
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 2) == b"5000"
        writer.close()


async def test_an_upstream_that_refuses_resets_the_client() -> None:
    with socket.socket() as held:  # bound, so that nobody else gets the port, but nobody listens
        held.bind(("127.0.0.1", 0))
        link = LinkEmulator({"far": held.getsockname()}, WIDE)
        rig = Rig(link, (await link.start())["far"])
        reader, _ = await rig.connect()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(-1), 10) == b""
        await rig.close()


async def test_an_upstream_that_resets_resets_the_client() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with linked(rude, WIDE) as rig:
        reader, writer = await rig.connect()
        writer.write(b"hello there")
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(-1), 2) == b""
        writer.close()
        await asyncio.sleep(0.1)
        assert rig.link.gauges()["link_connections"] == 0


async def test_more_connections_than_the_bound_are_reset() -> None:
    async with linked(Upstream().echo, replace(WIDE, outage=True)) as rig:
        pairs = [await rig.connect() for _ in range(MAX_CONNECTIONS + 3)]
        await asyncio.sleep(0.1)
        assert rig.link.gauges()["link_connections"] == MAX_CONNECTIONS
        assert rig.link.gauges()["link_refused"] == 3
        for _, writer in pairs:
            writer.transport.abort()


async def test_stopping_cuts_connections_and_frees_the_port() -> None:
    async with linked(Upstream().echo, WIDE) as rig:
        reader, writer = await rig.connect()
        await ping_ms(reader, writer)
        await rig.link.stop()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(-1), 2) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await rig.connect()


async def test_a_taken_port_is_named_and_the_others_are_freed() -> None:
    async with linked(Upstream().echo, WIDE) as rig:
        taken = rig.port
        async with linked(Upstream().echo, WIDE) as gone:
            free = gone.port
        link = LinkEmulator({"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 1)}, WIDE, {"a": free, "b": taken})
        with pytest.raises(BadConfig, match=f"127.0.0.1:{taken} for b"):
            await link.start()
        with pytest.raises(ConnectionRefusedError):
            await gone.connect()


@pytest.mark.parametrize(
    ("field", "value"),
    [("up", 0), ("down", -1), ("up", float("nan")), ("delay_ms", -1), ("jitter_ms", float("inf")), ("loss", 1)],
)
def test_an_impossible_link_is_refused_by_figure(field: str, value: float) -> None:
    with pytest.raises(BadConfig, match=field):
        replace(WIDE, **{field: value})
