"""Several sites on one vLLM engine: the base is in memory once, and each site's adapter beside it.

Every request names its adapter and is answered with that adapter's version; requests of different adapters share a
batch. To swap one is to load some hundred kilobytes between two steps: other sites do not notice, and requests in
flight end on the adapter they began with. The price is speed: on CPU an adapter beside its base decodes at 40% of the
pace of merged weights (bundled edge model, batches of 1 and 16). So it is for models of which a machine holds one
copy only; where every site can have its own, ``vllm_engine`` merges. A site cannot leave the base: for another one
the host is built anew.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from actors.adapter_base import whole
from actors.engine import Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.vllm_engine import Beside, VllmEngine
from actors.weights import check_adapter, read_adapter, read_shapes
from policies.errors import EngineError

RANKS = (1, 8, 16, 32, 64, 128, 256)  # vLLM's: each adapter takes the room of the next larger one


class SideBySide:
    """The engine that sites share.

    Args:
        base: directory of the whole model; ``version`` is what it is called without an adapter.
        sites: how many adapters are in use at once.
        rank: the largest of an adapter.
        settings: how to run it.
    """

    def __init__(
        self, base: Path, version: str, sites: int, rank: int = 8, settings: LocalSettings | None = None
    ) -> None:
        room = next((most for most in RANKS if most >= rank), rank)
        settings = settings or LocalSettings()
        # Twice: a request in flight ends on the adapter that its site has just left.
        lora = {"enable_lora": True, "max_loras": 2 * sites, "max_lora_rank": room}
        self.base, self._numbers, self._open = base, count(1), sites
        self.engine = VllmEngine(base, version, replace(settings, engine_args={**settings.engine_args, **lora}))

    async def setup(self) -> None:
        """Load the base; raises ``EngineError``."""
        await self.engine.setup()
        self._shapes = await asyncio.to_thread(read_shapes, self.base)

    def site(self) -> SiteEngine:
        """The engine as one site sees it, on the base until an adapter is loaded."""
        return SiteEngine(self)

    async def add(self, path: Path, version: str) -> Beside | None:
        """Load an adapter between two steps; None for the base itself.

        Raises:
            EngineError: it is of another base, damaged, or larger than there is room for.
        """
        if await asyncio.to_thread(self._is_base, path):
            return None
        return await self.engine.load_beside(path, version, next(self._numbers))

    async def close_one(self) -> None:
        """A site has ended; the last one ends the engine."""
        self._open -= 1
        if self._open <= 0:
            await self.engine.close()

    def _is_base(self, path: Path) -> bool:
        """Whether ``path`` is the base, and not an adapter of it that can be loaded."""
        if whole(path).resolve() != self.base.resolve():
            raise EngineError(f"weights {path}: this engine's sites share {self.base} and cannot leave it")
        if path.resolve() == self.base.resolve():
            return True
        check_adapter(path, self._shapes)
        for name, change in read_adapter(path).items():
            if not (torch.isfinite(change.up).all() and torch.isfinite(change.down).all()):
                raise EngineError(f"adapter {path}: {name} has values that are not finite")
        return False


class SiteEngine:
    """One site's ``Engine``. Made by ``SideBySide.site``."""

    def __init__(self, host: SideBySide) -> None:
        self._host = host
        self._adapter: Beside | None = None
        self.version = host.engine.version

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``."""
        return await self._host.engine.generate(prompt, sampling, self._adapter)

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``; only this site's requests are concerned, those that come after it."""
        began = time.perf_counter()
        self._adapter = await self._host.add(path, version)
        self.version = version
        spent = time.perf_counter() - began
        return LoadReport(version, self._adapter.gap_s if self._adapter else 0.0, {"live_s": spent})

    async def close(self) -> None:
        """See ``Engine``; the model goes with its last site."""
        await self._host.close_one()

    def gauges(self) -> dict[str, float]:
        """Those of the shared engine."""
        return self._host.engine.gauges()
