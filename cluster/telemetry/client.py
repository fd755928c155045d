"""A site's end of the telemetry: probes, the report stream, the directive stream.

``TelemetryClient`` keeps trying for as long as it runs: a stream that breaks is opened again after a
pause that doubles up to ``RECONNECT_MAX_S``. It keeps no state of the link or of the snapshot: those are
``actors.link_probe.LinkMonitor`` and ``policies.control.Held``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

from grpc import aio

from cluster.telemetry import telemetry_pb2 as pb
from cluster.telemetry.channel import (
    KEEPALIVE_S,
    MAX_PROBE_BYTES,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
    client_options,
)
from cluster.telemetry.convert import directive_from_message, report_to_message
from cluster.telemetry.telemetry_pb2_grpc import TelemetryStub
from cluster.telemetry.trust import NOBODY, Trust
from policies.control import Directive, LinkReport
from policies.errors import BadRequest, Unreachable

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0  # the link monitor gives up earlier; this bounds callers that do not
PADDING = bytes(MAX_PROBE_BYTES)


class TelemetryClient:
    """Talks to the router at ``target`` (host:port) for ``site``, with what ``trust`` has to show.

    ``keepalive_s`` is the pause between pings; a dead link is noticed after 1.5 times as long.
    """

    def __init__(self, target: str, site: str, *, trust: Trust = NOBODY, keepalive_s: float = KEEPALIVE_S) -> None:
        self._trust = trust
        self._target, self._site, self._keepalive_s = target, site, keepalive_s
        self._channel: aio.Channel | None = None
        self._breaks = self._reports = self._directives = self._refused = 0

    async def start(self) -> None:
        """Make the channel; connecting happens with the first call."""
        self._channel = self._trust.channel(self._target, client_options(self._keepalive_s))
        self._stub = TelemetryStub(self._channel)

    async def stop(self) -> None:
        """Close the channel: probes fail with ``Unreachable``, ``report`` and ``watch`` end."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close(None)

    async def probe(self, up_bytes: int, down_bytes: int, timeout_s: float = PROBE_TIMEOUT_S) -> float:
        """Seconds for ``up_bytes`` of padding to go and ``down_bytes`` to come back.

        Raises:
            Unreachable: no answer within ``timeout_s``, no connection, or another answer than asked for.
        """
        assert up_bytes <= MAX_PROBE_BYTES and down_bytes <= MAX_PROBE_BYTES
        request = pb.ProbeRequest(padding=PADDING[:up_bytes], reply_bytes=down_bytes)
        with self._translated():
            begun_s = time.perf_counter()
            reply = await self._stub.Probe(request, timeout=timeout_s, metadata=self._trust.metadata)
            taken_s = time.perf_counter() - begun_s
        if len(reply.padding) != down_bytes:  # counted as sent, it would be taken for a fast link
            raise Unreachable(f"router {self._target}: a probe for {down_bytes} bytes got {len(reply.padding)}")
        return taken_s

    async def report(self, source: Callable[[], LinkReport], interval_s: float) -> None:
        """Send ``source()`` every ``interval_s`` until cancelled or stopped."""
        backoff = Backoff()
        while self._channel is not None:
            with self._survived("report"), self._translated():
                messages = self._messages(source, interval_s, backoff)
                await self._stub.Report(messages, metadata=self._trust.metadata)
            await backoff.sleep()

    async def watch(self) -> AsyncIterator[Directive]:
        """Every directive for this site, over however many connections, until stopped.

        One that makes no sense is counted and passed over: the last snapshot holds until it expires.
        """
        backoff = Backoff()
        while self._channel is not None:
            with self._survived("watch"), self._translated():
                call = self._stub.Watch(pb.SiteId(site=self._site), metadata=self._trust.metadata)
                async for message in call:
                    backoff.reset()
                    directive = self._understood(message)
                    if directive is not None:
                        self._directives += 1
                        yield directive
            await backoff.sleep()

    def gauges(self) -> dict[str, float]:
        """Counts since the start."""
        return {
            "telemetry_reports": self._reports,
            "telemetry_directives": self._directives,
            "telemetry_breaks": self._breaks,
            "telemetry_refused": self._refused,
        }

    def _understood(self, message: pb.Directive) -> Directive | None:
        try:
            return directive_from_message(message)
        except BadRequest as why:
            self._refused += 1
            log.error("a directive of router %s is ignored: %s", self._target, why)
            return None

    async def _messages(
        self, source: Callable[[], LinkReport], interval_s: float, backoff: Backoff
    ) -> AsyncIterator[pb.LinkReport]:
        while True:
            try:
                message = report_to_message(source())
            except Exception:
                log.exception("no report could be made")  # gRPC would only break the stream
                raise
            yield message
            self._reports += 1
            backoff.reset()
            await asyncio.sleep(interval_s)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """gRPC's ways to say that nobody answered, as one."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # our caller's wish; otherwise gRPC says so that the channel was closed
            raise Unreachable(f"router {self._target}: connection closed") from None
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError) as error:
            why = error.details() if isinstance(error, aio.AioRpcError) else error
            raise Unreachable(f"router {self._target}: {why}") from error

    @contextlib.contextmanager
    def _survived(self, stream: str) -> Iterator[None]:
        try:
            yield
        except Unreachable as error:
            self._breaks += 1
            log.info("%s stream of %s broke: %s", stream, self._site, error)


class Backoff:
    """A pause that doubles from RECONNECT_MIN_S to RECONNECT_MAX_S, with jitter, until reset."""

    def __init__(self) -> None:
        self._next_s = RECONNECT_MIN_S

    def reset(self) -> None:
        """The next pause is the shortest again."""
        self._next_s = RECONNECT_MIN_S

    async def sleep(self) -> None:
        """Pause for between half and all of the present length."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, RECONNECT_MAX_S)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
