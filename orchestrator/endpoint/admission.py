"""Who may come in now: a bounded number of requests at once, a bounded line before the door, urgent ones first.

A place that falls free goes to whoever waits longest in the most urgent line. Who finds the line full is told to come
back when it will have moved, by the pace that was seen. One event loop; no locks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from enum import IntEnum

from policies.errors import Busy

PACE = 0.05  # weight of the newest request in the mean time of one
MOST_S = 60.0  # longest that anybody is told to wait


class Priority(IntEnum):
    """Lines before the door, the most urgent first."""

    INTERACTIVE = 0
    BATCH = 1


class Admission:
    """The door of one site.

    Args:
        capacity: requests at once.
        line: requests that may wait, all lines together; beyond it they are refused.
    """

    def __init__(self, capacity: int, line: int) -> None:
        self._capacity, self._line = capacity, line
        self._inside = 0
        self._lines: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        self._mean_s = 0.0
        self.refused = 0

    async def enter(self, priority: Priority = Priority.INTERACTIVE) -> None:
        """Take a place, or wait for one; ``leave`` gives it back.

        Raises:
            Busy: the line is full.
        """
        if self._inside < self._capacity:
            self._inside += 1
            return
        if self.waiting >= self._line:
            self.refused += 1
            raise Busy(f"{self._inside} requests are in flight and {self.waiting} wait already", self._retry_after_s())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[priority].append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given while its owner left
                self._hand_on()
            raise

    def leave(self, seconds: float) -> None:
        """Give the place back after ``seconds``."""
        self._mean_s += (PACE if self._mean_s else 1.0) * (seconds - self._mean_s)
        self._hand_on()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(sum(not place.done() for place in line) for line in self._lines.values())

    def gauges(self) -> dict[str, float]:
        """Levels and counts by name."""
        return {"inside": float(self._inside), "waiting": float(self.waiting), "turned_away": float(self.refused)}

    def _hand_on(self) -> None:
        """Give a place that falls free to the next in line; it is nobody's for no moment."""
        for line in self._lines.values():
            while line:
                if not (place := line.popleft()).done():
                    place.set_result(None)
                    return
        self._inside -= 1

    def _retry_after_s(self) -> int:
        ahead = self._inside + self.waiting
        return math.ceil(min(max(ahead * self._mean_s / self._capacity, 1.0), MOST_S))
