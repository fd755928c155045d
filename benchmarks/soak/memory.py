"""Resident memory of this process and all below it, by role, every few seconds: restarted processes keep their role."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import psutil

EVERY_S = 2.0
CLIENTS = "benchmarks.soak.load"  # is no part of the system
_TITLE = re.compile(r"ray::[\w:]+")

Samples = list[tuple[float, Mapping[str, float]]]
"""When (monotonic seconds), and megabytes by role."""


@contextmanager
def watching() -> Iterator[Samples]:
    """Samples, taken while the block runs."""
    samples: Samples = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            samples.append((time.monotonic(), by_role()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def by_role() -> dict[str, float]:
    """Megabytes of each role now."""
    found: dict[str, float] = defaultdict(float)
    own = psutil.Process()
    found["this process"] = own.memory_info().rss / 2**20
    for process in own.children(recursive=True):
        try:
            command, mb = " ".join(process.cmdline()), process.memory_info().rss / 2**20
            if command and CLIENTS not in command:
                title = _TITLE.match(command)
                found[title[0] if title else process.name()] += mb
        except psutil.Error:
            continue
    return dict(found)


def typical(samples: Samples, from_s: float, to_s: float) -> Mapping[str, float]:
    """The median of each role between two times, over the samples in which it ran."""
    seen: dict[str, list[float]] = defaultdict(list)
    for at_s, roles in samples:
        if from_s <= at_s <= to_s:
            for role, mb in roles.items():
                seen[role].append(mb)
    return {role: median(values) for role, values in seen.items()}


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    """Megabytes by which each role that ran at both times has grown, the most first."""
    grown = [(role, after[role] - before[role]) for role in before.keys() & after.keys()]
    return sorted(grown, key=lambda pair: -pair[1])
