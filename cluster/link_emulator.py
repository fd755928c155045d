"""One link between two places, as a TCP forwarder: bandwidth, delay, jitter, loss, outage.

Every listen port forwards to one upstream; all connections of all ports share one capacity per
direction, first come first served. Nothing is dropped, for it is TCP: a lost packet crosses twice and
holds up its own connection for a retransmission timeout; in an outage bytes wait, and new connections
are accepted but get no answer. Opening a connection costs a round trip. Capacity counts payload bytes.

``LinkEmulator`` is what others drive; ``_Direction`` says when bytes arrive (it sleeps only to wait for
that moment, so a slow machine delays but does not narrow the link); ``_Connection`` moves the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.traces import PACKET_BYTES, Trace, capacity
from policies.errors import BadConfig

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256  # past it, new connections are reset: an upstream's listen backlog is no deeper
SYN_BYTES = 40  # headers of a segment without payload
RTO_MIN_S = 0.2  # Linux's smallest retransmission timeout
GRAIN_S = 0.002  # a chunk fills the link this long: fine beside any delay, 500 wake-ups a second at most
STANDING_S = 0.1  # backlog a sender may keep in the link's queue: covers this machine's own hiccups
MIN_WINDOW, MAX_WINDOW = 16 * 1024, 4 * 1024 * 1024  # TCP's first window; 100 Mbit/s for 0.3 s
MIN_CHARGE = 256  # a chunk's bookkeeping in bytes, so one-byte writes cannot fill the memory
SOCKET_BYTES = 128 * 1024  # asyncio's own read and write limits, doubled: what a connection holds besides


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A state of the link. Rates are bits per second or traces; ``up`` is from listener to upstream.

    ``delay_ms`` is one way; ``jitter_ms`` is its standard deviation (normal, order kept); ``loss`` is
    the chance that a packet of 1500 bytes has to be sent again, in [0, 1).

    Raises:
        BadConfig: a figure is out of range; the message names it.
    """

    name: str
    up: float | Trace
    down: float | Trace
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    outage: bool = False

    def __post_init__(self) -> None:
        for side, rate in (("up", self.up), ("down", self.down)):
            if not isinstance(rate, Trace) and not 0 < rate < math.inf:
                raise BadConfig(f"link {self.name}: {side} is {rate}: give bits per second > 0, or an outage")
        if not (0 <= self.delay_ms < math.inf and 0 <= self.jitter_ms < math.inf):
            raise BadConfig(f"link {self.name}: delay_ms and jitter_ms must be at least 0")
        if not 0 <= self.loss < 1:
            raise BadConfig(f"link {self.name}: loss is {self.loss}, must be in [0, 1)")


class LinkEmulator:
    """Forwards each named upstream (host, port) through one shared link.

    Args:
        upstreams: where each name's traffic goes.
        spec: the link to start with.
        ports: listen port by name; 0 or absent picks a free one.
        host: address to listen on.
        seed: of loss and jitter.
    """

    def __init__(
        self,
        upstreams: Mapping[str, tuple[str, int]],
        spec: LinkSpec,
        ports: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self._upstreams, self._wanted, self._host = dict(upstreams), dict(ports or {}), host
        self._up, self._down = _Direction(random.Random(seed)), _Direction(random.Random(seed + 1))
        self._servers: dict[str, asyncio.Server] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._accepted = self._refused = 0

    async def start(self) -> dict[str, int]:
        """Listen; returns the port of each name.

        Raises:
            BadConfig: a port is taken; the others are freed again.
        """
        self.set_link(self.spec)
        for name in self._upstreams:
            self._servers[name] = await self._listen(name)
        return self.ports

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        for server in self._servers.values():
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._servers.clear()

    @property
    def ports(self) -> dict[str, int]:
        """Listen port by upstream name; empty before ``start``."""
        return {name: server.sockets[0].getsockname()[1] for name, server in self._servers.items()}

    def set_link(self, spec: LinkSpec) -> None:
        """Change the link now, for bytes on their way too; a trace begins at its start."""
        self.spec = spec
        self._up.set(spec, spec.up)
        self._down.set(spec, spec.down)
        log.info("link is %s%s", spec.name, " (outage)" if spec.outage else "")

    def gauges(self) -> dict[str, float]:
        """Counts since the start, and what is open now."""
        return {
            "link_connections": len(self._connections),
            "link_accepted": self._accepted,
            "link_refused": self._refused,
            "link_up_bytes": self._up.carried,
            "link_down_bytes": self._down.carried,
            "link_stalls": self._up.stalls + self._down.stalls,
            "link_outage": float(self.spec.outage),
        }

    async def _listen(self, name: str) -> asyncio.Server:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._accept(self._upstreams[name], reader, writer)

        port = self._wanted.get(name, 0)
        try:
            return await asyncio.start_server(accept, self._host, port, limit=SOCKET_BYTES // 2)
        except OSError as error:
            await self.stop()
            raise BadConfig(
                f"link port {self._host}:{port} for {name} cannot be used ({error.strerror}); "
                "choose another, or 0 for a free one"
            ) from error

    def _accept(self, upstream: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            self._refused += 1
            writer.transport.abort()
            return
        self._accepted += 1
        connection = _Connection(upstream, self._up, self._down)
        task = asyncio.create_task(connection.run(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


@dataclass(slots=True, eq=False)
class _Chunk:
    """Bytes on the link: when they came, when the last one had left the sender, when it arrives."""

    size: int
    entered_s: float
    left_s: float = math.inf
    due_s: float = math.inf


class _Direction:
    """One direction's queue, kept as arithmetic: each chunk's times are known as soon as it enters."""

    def __init__(self, rng: random.Random) -> None:
        self.carried = self.stalls = 0
        self._rng = rng
        self._waiting: deque[_Chunk] = deque()  # not yet left; the connections' windows bound it
        self._changed = asyncio.Event()

    def set(self, spec: LinkSpec, rate: float | Trace) -> None:
        """Take a new state; chunks that have not left yet are sent anew under it, in order."""
        self._spec, self._capacity = spec, capacity(rate)
        self._origin_s = now = asyncio.get_running_loop().time()
        self._position = 0.0
        self._forget_sent(now)
        for chunk in self._waiting:
            chunk.entered_s = now
            self._schedule(chunk)
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def grain(self) -> int:
        """Bytes to move at once, [PACKET_BYTES, 64 KiB]."""
        return int(min(max(self._capacity.mean_bps * GRAIN_S / 8, PACKET_BYTES), 65536))

    @property
    def window(self) -> int:
        """Bytes one connection may have on the link: what keeps it full, and a little standing queue."""
        travel_s = (2 * self._spec.delay_ms + 4 * self._spec.jitter_ms) / 1000 + STANDING_S
        return int(min(max(self._capacity.peak_bps / 8 * travel_s, MIN_WINDOW), MAX_WINDOW))

    def send(self, size: int) -> _Chunk:
        """Queue ``size`` bytes behind everything that is waiting."""
        chunk = _Chunk(size, asyncio.get_running_loop().time())
        self._forget_sent(chunk.entered_s)
        self._waiting.append(chunk)
        self._schedule(chunk)
        self.carried += size
        return chunk

    async def arrival(self, chunk: _Chunk) -> None:
        """Wait until ``chunk`` has arrived, whatever the link does meanwhile."""
        while self._spec.outage or chunk.due_s > asyncio.get_running_loop().time():
            until = None if self._spec.outage else chunk.due_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._changed.wait()

    def _schedule(self, chunk: _Chunk) -> None:
        if self._spec.outage:
            chunk.left_s = chunk.due_s = math.inf
            return
        lost = self._lost_packets(chunk.size)
        missed = self._capacity.arrived(chunk.entered_s - self._origin_s)
        self._position = max(self._position, missed) + chunk.size + lost * PACKET_BYTES
        chunk.left_s = self._origin_s + self._capacity.moment(self._position)
        chunk.due_s = chunk.left_s + self._travel_s(lost > 0)

    def _travel_s(self, stalled: bool) -> float:
        delay_s, jitter_s = self._spec.delay_ms / 1000, self._spec.jitter_ms / 1000
        stall_s = RTO_MIN_S + 2 * delay_s if stalled else 0.0
        return max(0.0, self._rng.gauss(delay_s, jitter_s)) + stall_s

    def _lost_packets(self, size: int) -> int:
        if self._spec.loss == 0:
            return 0
        packets = math.ceil(size / PACKET_BYTES)
        lost = sum(self._rng.random() < self._spec.loss for _ in range(packets))
        self.stalls += lost > 0
        return lost

    def _forget_sent(self, now: float) -> None:
        while self._waiting and self._waiting[0].left_s <= now:
            self._waiting.popleft()


class _Flow:
    """One direction of one connection: reads while its window has room, writes what has arrived."""

    def __init__(self, direction: _Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._direction, self._reader, self._writer = direction, reader, writer
        self._under_way: asyncio.Queue[tuple[_Chunk, bytes]] = asyncio.Queue()  # bounded by the window
        self._used, self._room = 0, asyncio.Event()

    async def take_in(self) -> None:
        """Read until the end; a full window stops reading, and so the sender."""
        data = b"more"
        while data:
            while self._used >= self._direction.window:
                self._room.clear()
                await self._room.wait()
            data = await self._reader.read(self._direction.grain)
            self._used += max(len(data), MIN_CHARGE)
            self._under_way.put_nowait((self._direction.send(len(data)), data))

    async def give_out(self) -> None:
        """Write each chunk when it has arrived; the end of the stream crosses like any byte."""
        while True:
            chunk, data = await self._under_way.get()
            await self._direction.arrival(chunk)
            if not data:
                break
            self._writer.write(data)
            await self._writer.drain()
            self._used -= max(len(data), MIN_CHARGE)
            self._room.set()
        self._writer.write_eof()


class _Connection:
    """One client's connection and its other half to the upstream."""

    def __init__(self, upstream: tuple[str, int], up: _Direction, down: _Direction) -> None:
        self._upstream, self._up, self._down = upstream, up, down

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until both sides have ended; a failure of one side resets the other."""
        writers = [writer]
        try:
            await self._up.arrival(self._up.send(SYN_BYTES))
            far_reader, far_writer = await asyncio.open_connection(*self._upstream, limit=SOCKET_BYTES // 2)
            writers.append(far_writer)
            await self._down.arrival(self._down.send(SYN_BYTES))
            await _exchange(_Flow(self._up, reader, far_writer), _Flow(self._down, far_reader, writer))
            for open_writer in writers:
                open_writer.close()
                await open_writer.wait_closed()
        except* OSError as errors:
            log.debug("connection to %s:%d reset: %s", *self._upstream, errors.exceptions)
        finally:
            for open_writer in writers:
                open_writer.transport.abort()


async def _exchange(*flows: _Flow) -> None:
    async with asyncio.TaskGroup() as tasks:
        for flow in flows:
            tasks.create_task(flow.take_in())
            tasks.create_task(flow.give_out())
