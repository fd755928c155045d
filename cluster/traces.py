"""How much a link could have carried by any moment: constant rates and Mahimahi traces.

A ``Capacity`` is a non-decreasing curve of bytes over seconds and its inverse; ``link_emulator`` paces
with nothing else. A ``Trace`` has Mahimahi's format: each line is a millisecond at which one packet of
1500 bytes may cross, repeated at the end; an opportunity nobody uses is lost. The traces in
``traces_data/`` are our own: synthetic, written by ``python -m cluster.traces``, equal to what
``synthesise`` returns. Nothing here sleeps or opens sockets.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from os.path import isfile
from pathlib import Path
from typing import Protocol

from policies.errors import BadConfig

PACKET_BYTES = 1500
MAX_OPPORTUNITIES = 5_000_000  # 7.5 GB of capacity, 40 MB of memory: more is a wrong file
MAX_MS = 7 * 24 * 3_600_000  # no recording is longer: times are in another unit
MAX_DIGITS = 15  # of a time in ms; Python refuses to read thousands of them
DATA = Path(__file__).parent / "traces_data"


class Capacity(Protocol):
    """What a link can carry, as a curve that starts at 0 bytes and 0 seconds."""

    @property
    def mean_bps(self) -> float: ...

    @property
    def peak_bps(self) -> float:
        """Highest rate that lasts for a tenth of a second."""
        ...

    def arrived(self, at_s: float) -> float:
        """Bytes that could have crossed by ``at_s``."""
        ...

    def moment(self, size: float) -> float:
        """First second by which ``size`` bytes could have crossed."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same rate for ever."""

    bps: float

    @property
    def mean_bps(self) -> float:
        return self.bps

    @property
    def peak_bps(self) -> float:
        return self.bps

    def arrived(self, at_s: float) -> float:
        return at_s * self.bps / 8

    def moment(self, size: float) -> float:
        return size * 8 / self.bps


@dataclass(frozen=True)
class Trace:
    """Delivery opportunities of ``PACKET_BYTES`` each, in milliseconds, ascending; the last one is the period.

    Raises:
        BadConfig: empty, unsorted, negative, without length in time, or longer than a week.
    """

    name: str
    opportunities_ms: tuple[int, ...]

    def __post_init__(self) -> None:
        times = self.opportunities_ms
        if not times or times[-1] <= 0 or times[0] < 0:
            raise BadConfig(f"trace {self.name}: needs times in ms from 0 on, the last one above 0")
        if times[-1] > MAX_MS:
            raise BadConfig(f"trace {self.name}: {times[-1]} ms is longer than a week; times are milliseconds")
        if any(later < earlier for earlier, later in pairwise(times)):
            raise BadConfig(f"trace {self.name}: times must ascend; sort the lines numerically")

    @property
    def period_s(self) -> float:
        return self.opportunities_ms[-1] / 1000

    @property
    def mean_bps(self) -> float:
        return len(self.opportunities_ms) * PACKET_BYTES * 8 / self.period_s

    @cached_property
    def peak_bps(self) -> float:
        width_ms = min(100, self.opportunities_ms[-1])
        times = self.opportunities_ms
        densest = max(bisect_right(times, t + width_ms) - i for i, t in enumerate(times))
        return densest * PACKET_BYTES * 8000 / width_ms

    def arrived(self, at_s: float) -> float:
        rounds, rest_ms = divmod(at_s * 1000, self.opportunities_ms[-1])
        packets = rounds * len(self.opportunities_ms) + bisect_right(self.opportunities_ms, rest_ms)
        return packets * PACKET_BYTES

    def moment(self, size: float) -> float:
        if size <= 0:
            return 0.0
        index = math.ceil(size / PACKET_BYTES) - 1
        rounds, rest = divmod(index, len(self.opportunities_ms))
        return (rounds * self.opportunities_ms[-1] + self.opportunities_ms[rest]) / 1000


def capacity(rate: float | Trace) -> Capacity:
    """A capacity from a rate in bits per second, or a trace as it is."""
    return rate if isinstance(rate, Trace) else ConstantRate(rate)


def load(path: Path) -> Trace:
    """Read a Mahimahi file.

    Raises:
        BadConfig: the file is missing or a line is not a time in ms; names file, line and fix.
    """
    try:
        with path.open(encoding="ascii") as lines:
            return Trace(path.name, tuple(_times(lines, path)))
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not a readable trace file ({error})") from error


def resolve(name: str) -> Trace:
    """A trace by the name of a bundled one (``driving.down``) or by path.

    Raises:
        BadConfig: neither; the message lists the bundled names.
    """
    if name in SYNTHETIC:
        return load(DATA / name)
    if not isfile(name):  # of pathlib, a name too long for any file would raise
        known = ", ".join(sorted(SYNTHETIC))
        raise BadConfig(f"trace {name!r}: no such file, and not one of the bundled traces: {known}")
    return load(Path(name))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A radio link seen by a moving user: a slow log-normal walk, with fades that begin by chance.

    ``spread`` is the standard deviation of ln(rate); ``fade_per_s`` the chance per second that a fade
    begins, ``fade_s`` its mean length, ``fade_depth`` the share of the rate that is left in it.
    """

    seed: int
    seconds: int
    median_bps: float
    spread: float
    fade_per_s: float
    fade_s: float
    fade_depth: float


SYNTHETIC = {
    "driving.down": Recipe(11, 60, 2.4e6, 0.55, 0.06, 1.2, 0.06),
    "driving.up": Recipe(12, 60, 1.0e6, 0.55, 0.06, 1.2, 0.06),
    "rural.down": Recipe(21, 60, 0.5e6, 0.45, 0.10, 1.5, 0.10),
    "rural.up": Recipe(22, 60, 0.2e6, 0.45, 0.10, 1.5, 0.10),
    "walking.down": Recipe(31, 60, 3.0e6, 0.35, 0.02, 0.6, 0.25),
    "walking.up": Recipe(32, 60, 1.2e6, 0.35, 0.02, 0.6, 0.25),
}
STEP_S = 0.05  # the walk's grain: finer than any fade, coarser than a packet
MEMORY_S = 3.0  # how long the walk remembers: shadowing at driving speed lasts seconds


def synthesise(name: str) -> Trace:
    """The bundled trace ``name``, made anew from its recipe; always the same."""
    recipe = SYNTHETIC[name]
    times: list[int] = []
    credit = 0.0
    for step, rate_bps in enumerate(_rates(recipe)):
        packets = rate_bps * STEP_S / 8 / PACKET_BYTES
        whole = int(credit + packets)
        times += [round(1000 * STEP_S * (step + (i + 1 - credit) / packets)) for i in range(whole)]
        credit += packets - whole
    return Trace(name, (*times, recipe.seconds * 1000))


def write(directory: Path) -> None:
    """Write every bundled trace into ``directory``, one opportunity a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in SYNTHETIC:
        (directory / name).write_text(text(synthesise(name)), encoding="ascii")


def text(trace: Trace) -> str:
    """The trace in Mahimahi's format."""
    return "".join(f"{time_ms}\n" for time_ms in trace.opportunities_ms)


def _times(lines: Iterator[str], path: Path) -> Iterator[int]:
    for number, line in enumerate(lines, start=1):
        if number > MAX_OPPORTUNITIES:
            raise BadConfig(f"{path}: more than {MAX_OPPORTUNITIES} lines; cut the trace")
        if not line.strip().isdigit() or len(line) > MAX_DIGITS:
            raise BadConfig(f"{path}:{number}: {line.strip()[:MAX_DIGITS]!r} is not a whole number of ms")
        yield int(line)


def _rates(recipe: Recipe) -> Iterator[float]:
    """The walk: an autoregressive ln(rate) times a two-state fade, one value per ``STEP_S``."""
    rng = random.Random(recipe.seed)
    keep = 1 - STEP_S / MEMORY_S
    level, fading = 0.0, False
    for _ in range(round(recipe.seconds / STEP_S)):
        level = keep * level + recipe.spread * math.sqrt(1 - keep * keep) * _normal(rng)
        change = STEP_S / recipe.fade_s if fading else STEP_S * recipe.fade_per_s
        fading ^= rng.random() < change
        yield recipe.median_bps * math.exp(level) * (recipe.fade_depth if fading else 1.0)


def _normal(rng: random.Random) -> float:
    """Nearly normal, from uniform draws alone: those are the same on every Python version."""
    return sum(rng.random() for _ in range(12)) - 6.0


if __name__ == "__main__":
    write(DATA)
