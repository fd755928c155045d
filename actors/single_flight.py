"""Equal questions that are asked at the same time are asked once.

Only what has one answer is shared: greedy or seeded requests that nobody listens to. The first to take the answer pays
for it; for the others it is ``shared``. A call goes on while anybody waits for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import orjson

from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling


class _Flight:
    """One call on the way."""

    def __init__(self, task: asyncio.Task[Generation]) -> None:
        self.task, self.waiting, self.paid = task, 0, False


class SingleFlight:
    """Asks ``engine`` once for all who ask the same meanwhile; as many calls are remembered as are on the way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights: dict[bytes, _Flight] = {}

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``."""
        if not _has_one_answer(sampling):
            return await self._engine.generate(prompt, sampling)
        key = _key(prompt, sampling)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._engine.generate(prompt, sampling)))
        flight.waiting += 1
        try:
            made = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.task.done() or not flight.waiting:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]
        first, flight.paid = not flight.paid, True
        return made if first else replace(made, shared=True)

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``."""
        return await self._engine.load(path, version)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()


def _has_one_answer(sampling: Sampling) -> bool:
    certain = sampling.temperature == 0.0 or sampling.seed is not None
    return certain and sampling.hear is None and sampling.watch is None


def _key(prompt: Prompt, sampling: Sampling) -> bytes:
    return orjson.dumps((prompt, sampling))
