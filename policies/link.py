"""What a link is like now, from what was measured of it: smoothing, percentiles, outage detection.

``LinkEstimator`` takes round trips, timed transfers, misses and the outcomes of real offloads, with the
time passed in, and gives the ``LinkState`` decisions are made with. Averages follow a step in the link
within two samples (in the spirit of Kim and Noble's flip-flop filter, 2001: stable while samples agree,
agile when they do not). The link is down after ``OUTAGE_MISSES`` misses in a row, or one miss together with a
failed offload, and up again at the first success. ``actors.link_probe`` drives it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from policies.types import LinkState

GAIN = 0.25  # weight of the newest sample: three quarters of the memory is younger than 5 samples
STEP_FACTOR = 1.5  # a sample this far off the mean, twice in a row on one side, is a new link
WINDOW = 64  # samples behind a percentile: about two minutes of probing
OUTCOMES = 64  # probe outcomes behind the loss share
LOSS_MEMORY_S = 60.0  # older outcomes tell nothing about now
OUTAGE_MISSES = 3  # one miss is a lost packet, two a bad moment
NOISE_JITTERS = 2.0  # the difference of two jittered times strays by about this many mean jitters
MIN_BPS, MAX_BPS = 1e3, 1e9  # what counts as a bandwidth
MIN_TRANSFER_S = 1e-3  # a shorter transfer is taken for this long: the rest is the machine's own noise
MIN_OFFLOAD_BYTES = 4096  # smaller offloads are all round trip: they say nothing of bandwidth

UNMEASURED = LinkState(rtt_ms=100.0, up_bps=1e6, down_bps=4e6)  # a middling cellular link


@dataclass(slots=True)
class Pace:
    """Time per unit over recent samples, weighted by units: ms per round trip, seconds per bit.

    A long transfer outweighs the noise of a short one, and even a negative time (jitter) only evens
    out another. A sample far off is held back until the next one agrees (a step: the average starts
    anew from the two) or does not (an accident: it counts like any other).
    """

    units: float = 0.0
    time: float = 0.0
    samples: int = 0
    _held: tuple[float, float] | None = None
    _side: int = 0

    @property
    def unsettled(self) -> bool:
        """Whether a sample is held back: the next one decides."""
        return self._held is not None

    @property
    def gain(self) -> float:
        """Weight of the newest sample: a plain mean at first, then GAIN."""
        return max(GAIN, 1 / max(self.samples, 1))

    def add(self, units: float, time: float, noise: float = 0.0) -> bool:
        """Take a sample of ``units`` > 0 that took ``time``, give or take ``noise``.

        Returns:
            Whether this was a step.
        """
        side, held = self._far_side(units, time, noise), self._held
        step = held is not None and side == self._side
        if step:
            self.units = self.time = self.samples = 0
        self._held, self._side = None, 0
        if held is not None:
            self._blend(*held)
        if side != 0 and not step:
            self._held, self._side = (units, time), side
        else:
            self._blend(units, time)
        return step

    def _blend(self, units: float, time: float) -> None:
        self.samples += 1
        self.units += self.gain * (units - self.units)
        self.time += self.gain * (time - self.time)

    def _far_side(self, units: float, time: float, noise: float) -> int:
        """1 if slower than expected by more than STEP_FACTOR and the noise, -1 if faster, else 0."""
        if self.samples == 0:
            return 0
        expected = self.time / self.units * units
        if time > expected * STEP_FACTOR + noise:
            return 1
        return -1 if time < expected / STEP_FACTOR - noise else 0


class LinkEstimator:
    """One site's link from its measurements.

    Args:
        prior: what to assume of a figure before its first sample.
    """

    def __init__(self, prior: LinkState = UNMEASURED) -> None:
        self._prior = prior
        self._rtt, self._up, self._down = Pace(), Pace(), Pace()
        self._jitter_ms = prior.jitter_ms
        self._rtts_ms: deque[float] = deque(maxlen=WINDOW)
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=OUTCOMES)
        self._misses, self._offload_failed, self._outage = 0, False, not prior.up

    def observe_rtt(self, rtt_ms: float, now_s: float) -> None:
        """A probe without payload came back after ``rtt_ms`` milliseconds."""
        change_ms = abs(rtt_ms - self._rtts_ms[-1]) if self._rtts_ms else self._jitter_ms
        if self._rtt.add(1.0, rtt_ms):  # what lies between the two links is not jitter
            self._jitter_ms = min(change_ms, self._jitter_ms)
        elif not self._rtt.unsettled:
            self._jitter_ms += self._rtt.gain * (change_ms - self._jitter_ms)
        self._rtts_ms.append(rtt_ms)
        self.observe_success(now_s)

    def observe_up(self, size: int, seconds: float) -> None:
        """``size`` > 0 bytes took ``seconds`` upwards, the round trip already taken off."""
        self._up.add(8.0 * size, seconds, self._noise_s)

    def observe_down(self, size: int, seconds: float) -> None:
        """``size`` > 0 bytes took ``seconds`` downwards, the round trip already taken off."""
        self._down.add(8.0 * size, seconds, self._noise_s)

    def observe_success(self, now_s: float) -> None:
        """Something came back: the link is up."""
        self._outcomes.append((now_s, True))
        self._misses, self._offload_failed, self._outage = 0, False, False

    def observe_loss(self, now_s: float) -> None:
        """A probe did not come back in time."""
        self._outcomes.append((now_s, False))
        self._misses += 1
        self._judge()

    def observe_offload_failure(self) -> None:
        """A real offload got no answer: with a missed probe beside it, that is an outage."""
        self._offload_failed = True
        self._judge()

    def observe_transit(self, up_bytes: int, down_bytes: int, seconds: float) -> None:
        """A real offload spent ``seconds`` on the link, both ways and one round trip.

        What the round trip leaves is shared out as the present estimates would have it.
        """
        up_s, down_s = 8 * up_bytes / self._up_bps, 8 * down_bytes / self._down_bps
        left_s = seconds - self._rtt_ms / 1000
        if min(up_bytes, down_bytes) <= 0 or up_bytes + down_bytes < MIN_OFFLOAD_BYTES or left_s <= 0:
            return
        self.observe_up(up_bytes, left_s * up_s / (up_s + down_s))
        self.observe_down(down_bytes, left_s * down_s / (up_s + down_s))

    def state(self, now_s: float) -> LinkState:
        """The link as it is thought to be at ``now_s``."""
        return LinkState(
            rtt_ms=self._rtt_ms,
            up_bps=self._up_bps,
            down_bps=self._down_bps,
            jitter_ms=self._jitter_ms,
            loss=self._loss(now_s),
            up=not self._outage,
        )

    def rtt_percentile_ms(self, share: float) -> float:
        """Nearest-rank percentile of the last ``WINDOW`` round trips; ``share`` in [0, 1]."""
        return percentile(self._rtts_ms, share) if self._rtts_ms else self._prior.rtt_ms

    @property
    def misses(self) -> int:
        """Probes missed in a row."""
        return self._misses

    @property
    def unsettled(self) -> bool:
        """Whether the last round trip or transfer was a surprise that the next one has to explain."""
        return any(pace.unsettled for pace in (self._rtt, self._up, self._down))

    @property
    def _rtt_ms(self) -> float:
        return self._rtt.time if self._rtt.samples else self._prior.rtt_ms

    @property
    def _up_bps(self) -> float:
        return _rate(self._up) if self._up.samples else self._prior.up_bps

    @property
    def _down_bps(self) -> float:
        return _rate(self._down) if self._down.samples else self._prior.down_bps

    @property
    def _noise_s(self) -> float:
        return NOISE_JITTERS * self._jitter_ms / 1000

    def _judge(self) -> None:
        if self._misses >= OUTAGE_MISSES or (self._offload_failed and self._misses > 0):
            self._outage = True

    def _loss(self, now_s: float) -> float:
        recent = [ok for at_s, ok in self._outcomes if now_s - at_s <= LOSS_MEMORY_S]
        return recent.count(False) / len(recent) if recent else 0.0


def percentile(values: Iterable[float], share: float) -> float:
    """Nearest-rank percentile: always one of ``values``, which must not be empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def probe_bytes(bps: float, occupy_s: float, highest: int) -> int:
    """Size of a probe that holds a link of ``bps`` for ``occupy_s`` seconds, at most ``highest``."""
    return min(int(bps * occupy_s / 8), highest)


def _rate(pace: Pace) -> float:
    """Bits per second, within what counts as a bandwidth and what can be told from noise."""
    return min(max(pace.units / max(pace.time, MIN_TRANSFER_S), MIN_BPS), MAX_BPS)
