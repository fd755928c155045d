"""A local engine's answer on its way to a listener: the engine's thread says how far it is, the event loop hands it on.

Only the newest state waits, so a listener that is slow gets larger parts and holds neither the engine nor memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from actors.engine import Hear

T = TypeVar("T")


class Hearing:
    """One answer's listener; made on its event loop."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._said, self._news = "", asyncio.Event()

    def say(self, text: str) -> None:
        """From the engine's thread: the answer's text so far, always the beginning of what it will be."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, text)

    async def until(self, answer: Awaitable[T]) -> T:
        """What ``answer`` gives; the listener hears what was said meanwhile."""
        coming, heard = asyncio.ensure_future(answer), 0
        coming.add_done_callback(lambda _: self._news.set())
        try:
            while not coming.done():
                await self._news.wait()
                self._news.clear()
                if part := self._said[heard:]:
                    heard += len(part)
                    await self._hear(part)
            return coming.result()
        finally:
            coming.cancel()

    def _take(self, text: str) -> None:
        self._said = text
        self._news.set()
