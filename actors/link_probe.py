"""Measures a site's link: small active probes, and the timing of the site's own offloads.

``LinkMonitor`` asks its ``probe`` function for round trips: an empty one and, right after it, one that
is padded up or down, in turn; the difference of the two times over the padding is the bandwidth. Probes
are bounded in bytes and in the time they hold the link. It feeds a ``LinkEstimator`` and does no I/O of
its own; ``cluster.telemetry.client.TelemetryClient.probe`` is the usual probe function.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from policies.control import LinkReport
from policies.errors import NetGPTError
from policies.link import LinkEstimator, probe_bytes
from policies.types import LinkState

log = logging.getLogger(__name__)

PROBE_BYTES_PER_MINUTE = 2_400_000  # both directions; reached only on links faster than 2.6 Mbit/s
BURST_BYTES = 128 * 1024  # of that budget, what may be spent at once after a silence
OVERHEAD_BYTES = 256  # HTTP/2 frames and headers of one probe, both directions
OCCUPY_S = 0.1  # a probe holds the link no longer: less than what a user notices
FIRST_BYTES = 2048  # padding after a miss: 0.16 s even at 100 kbit/s
GROWTH = 4  # how much the padding may grow from one answered probe to the next
HURRY_ROUNDS = 4  # rounds without a pause after a surprise: two settle each direction
LARGEST_BYTES = 32 * 1024  # default of the largest padding: 5 ms at 50 Mbit/s, still above a busy machine's noise
QUEUE_BYTES = 16 * 1024  # of our own traffic a probe may have to wait behind

Probe = Callable[[int, int], Awaitable[float]]
"""Send so many padding bytes, ask for so many back, return the seconds it took; raises NetGPTError."""


class LinkMonitor:
    """Keeps one site's ``LinkState`` current.

    Args:
        probe: the round trip to measure.
        clock: monotonic seconds.
        site: named in reports.
        interval_s: pause between two rounds of probes.
        largest_bytes: most padding of one probe; 0 leaves bandwidth to the offloads.
        patience_s: a probe is missed after this and what the estimates say it needs.
        on_change: called with the new state when the link goes down or comes up.
        estimator: what turns measurements into a state.
    """

    def __init__(
        self,
        probe: Probe,
        clock: Callable[[], float] = time.monotonic,
        *,
        site: str = "",
        interval_s: float = 1.0,
        largest_bytes: int = LARGEST_BYTES,
        patience_s: float = 0.5,
        on_change: Callable[[LinkState], None] | None = None,
        estimator: LinkEstimator | None = None,
    ) -> None:
        self._probe, self._clock, self._site = probe, clock, site
        self._interval_s, self._patience_s, self._on_change = interval_s, patience_s, on_change
        self._estimator = estimator or LinkEstimator()
        self._allowance, self._refilled_s = float(BURST_BYTES), clock()
        self._largest, self._upwards = largest_bytes, True
        self._ceiling = {True: FIRST_BYTES, False: FIRST_BYTES}  # by direction, True is up
        self._fresh = True
        self._seq = self._probes = self._missed = self._bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin probing."""
        self._task = asyncio.create_task(self._run(), name=f"link-monitor:{self._site}")
        self._task.add_done_callback(_complain)

    async def stop(self) -> None:
        """Stop probing; the last state stays readable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def state(self) -> LinkState:
        """The link as it is thought to be now."""
        return self._estimator.state(self._clock())

    def report(self, version: str = "", log_seq: int = 0) -> LinkReport:
        """The next report of this site, with the weights live here and the log's last record."""
        self._seq += 1
        return LinkReport(self._site, self._seq, self.state(), version, log_seq)

    def observe_offload(
        self, up_bytes: int, down_bytes: int, seconds: float, server_seconds: float | None, ok: bool
    ) -> None:
        """Learn from a real offload.

        Args:
            up_bytes: sent, ``down_bytes`` received.
            seconds: from the first byte sent to the last received.
            server_seconds: of those, what the far end says it spent; None if it does not say.
            ok: whether an answer came, whatever its status; False for refused, reset, timed out.
        """
        was_up = self.state().up
        if ok:
            self._estimator.observe_success(self._clock())
            if server_seconds is not None:
                self._estimator.observe_transit(up_bytes, down_bytes, seconds - server_seconds)
        else:
            self._estimator.observe_offload_failure()
            self._wake.set()
        self._tell(was_up)

    def gauges(self) -> dict[str, float]:
        """The state, percentiles of the round trip, and what probing cost."""
        state = self.state()
        return {
            "link_up": float(state.up),
            "link_rtt_ms": state.rtt_ms,
            "link_rtt_p50_ms": self._estimator.rtt_percentile_ms(0.5),
            "link_rtt_p95_ms": self._estimator.rtt_percentile_ms(0.95),
            "link_jitter_ms": state.jitter_ms,
            "link_up_bps": state.up_bps,
            "link_down_bps": state.down_bps,
            "link_loss": state.loss,
            "link_probes": self._probes,
            "link_probes_missed": self._missed,
            "link_probe_bytes": self._bytes,
        }

    async def _run(self) -> None:
        hurried = 0
        while True:
            self._wake.clear()
            await self.measure()
            missing = self._estimator.misses > 0 and self.state().up
            hurry = (missing or self._estimator.unsettled) and hurried < HURRY_ROUNDS
            hurried = hurried + 1 if hurry else 0
            await self._pause(0.0 if hurry else self._interval_s)

    async def measure(self) -> None:
        """One round: an empty probe and, if it came back, a padded one."""
        fresh, self._fresh = self._fresh, False
        empty_s = await self._timed(0, 0)
        if empty_s is None:
            return
        was_up = self.state().up
        if fresh:  # it may have had to connect first: a sign of life, not a distance
            self._estimator.observe_success(self._clock())
        else:
            self._estimator.observe_rtt(empty_s * 1000, self._clock())
            await self._measure_bandwidth(empty_s)
        self._tell(was_up)

    async def _measure_bandwidth(self, empty_s: float) -> None:
        state = self.state()
        bps = state.up_bps if self._upwards else state.down_bps
        wanted = probe_bytes(bps, OCCUPY_S, min(self._ceiling[self._upwards], self._largest))
        size = min(wanted, int(self._refill()) - OVERHEAD_BYTES)
        if size < min(wanted, FIRST_BYTES) or size <= 0:
            return
        upwards, self._upwards = self._upwards, not self._upwards
        padded_s = await self._timed(size, 0) if upwards else await self._timed(0, size)
        held_s = None if padded_s is None else padded_s - empty_s
        self._ceiling[upwards] = self._next_ceiling(self._ceiling[upwards], size, held_s)
        if held_s is not None:
            observe = self._estimator.observe_up if upwards else self._estimator.observe_down
            observe(size, held_s)

    def _next_ceiling(self, ceiling: int, size: int, held_s: float | None) -> int:
        """Most padding of the next probe, after one of ``size`` held the link this long (None: missed)."""
        if held_s is None:
            return FIRST_BYTES
        if held_s > OCCUPY_S:
            return max(int(size * OCCUPY_S / held_s), FIRST_BYTES)
        return min(ceiling * GROWTH, self._largest)

    async def _timed(self, up_bytes: int, down_bytes: int) -> float | None:
        """Seconds of one probe, or None if it was missed."""
        self._probes += 1
        self._spend(up_bytes + down_bytes + OVERHEAD_BYTES)
        try:
            async with asyncio.timeout(self._timeout_s()):
                return await self._probe(up_bytes, down_bytes)
        except (TimeoutError, NetGPTError) as error:
            log.debug("probe of %s missed: %r", self._site, error)
        was_up = self.state().up
        self._missed += 1
        self._fresh = True
        self._estimator.observe_loss(self._clock())
        self._tell(was_up)
        return None

    def _timeout_s(self) -> float:
        state = self.state()
        queue_s = OCCUPY_S + 8 * QUEUE_BYTES / min(state.up_bps, state.down_bps)
        return self._patience_s + 4 * state.rtt_ms / 1000 + min(queue_s, 4 * OCCUPY_S + 2.0)

    def _refill(self) -> float:
        """What may be spent now: any minute sees at most PROBE_BYTES_PER_MINUTE."""
        now_s = self._clock()
        rate = (PROBE_BYTES_PER_MINUTE - BURST_BYTES) / 60
        self._allowance = min(BURST_BYTES, self._allowance + (now_s - self._refilled_s) * rate)
        self._refilled_s = now_s
        return self._allowance

    def _spend(self, size: int) -> None:
        self._refill()
        self._allowance -= size
        self._bytes += size

    def _tell(self, was_up: bool) -> None:
        state = self.state()
        if state.up != was_up:
            log.warning("link of %s is %s", self._site or "this site", "up" if state.up else "down")
            if self._on_change is not None:
                self._on_change(state)

    async def _pause(self, seconds: float) -> None:
        """Sleep, or less if a failed offload asks for a probe now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("link monitor stopped: %r", error, exc_info=error)
