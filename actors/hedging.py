"""A second call for a straggler, within a budget (ours, after "The Tail at Scale", Dean and Barroso 2013).

A call that takes longer than 95 % of the calls before it is made once more; whichever answers first is the answer, and
the other is cancelled. At most ``share`` of all calls are made twice, so a cloud that is slow throughout is not asked
twice as often. A call that somebody listens to is never doubled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling

REMEMBERED, LEAST = 200, 20  # calls the 95 % are taken of, and below how many nothing is known
SLOW = 0.95
BURST = 5.0  # second calls that may follow each other whatever the share


class Hedged:
    """Asks ``engine`` twice where the first answer is late.

    Args:
        share: of the calls that may be made twice, in [0, 1].
        clock: monotonic seconds.
    """

    def __init__(self, engine: Engine, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._share, self._clock = engine, share, clock
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._allowed = BURST
        self.hedged = 0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; the first call's failure is the answer unless a second is on the way."""
        self._allowed = min(self._allowed + self._share, BURST)
        began, patience_s = self._clock(), self._patience_s()
        if sampling.hear is not None or patience_s is None:
            made = await self._engine.generate(prompt, sampling)
        else:
            made = await self._twice(prompt, sampling, patience_s)
        self._seconds.append(self._clock() - began)
        return made

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``."""
        return await self._engine.load(path, version)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()

    async def _twice(self, prompt: Prompt, sampling: Sampling, patience_s: float) -> Generation:
        calls = [asyncio.create_task(self._engine.generate(prompt, sampling))]
        try:
            await asyncio.wait(calls, timeout=patience_s)
            if not calls[0].done() and self._allowed >= 1.0:
                self._allowed -= 1.0
                self.hedged += 1
                calls.append(asyncio.create_task(self._engine.generate(prompt, sampling)))
            return await _first_good(calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _patience_s(self) -> float | None:
        """Seconds after which a call is late; None while too little is known."""
        if not self._share or len(self._seconds) < LEAST:
            return None
        return sorted(self._seconds)[math.ceil(SLOW * len(self._seconds)) - 1]


async def _first_good(calls: list[asyncio.Task[Generation]]) -> Generation:
    """The first answer; the last failure where none comes."""
    waiting = set(calls)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        good = next((call for call in done if call.exception() is None), None)
        if good is not None or not waiting:
            return (good or done.pop()).result()
