"""A hot swap of the edge weights, with named moments: pending, drained, loaded, verified, then live or rolled back.

The scorer of the new version is known before its weights are live, so no draft is ever scored by another version's
calibrator. Whatever fails, the old weights answer on, and the report says why. One swap at a time; a swap
waits for the one before it. Requests are never stopped: the engine loads between two of its steps.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.engine import Engine, LoadReport, Prompt, Sampling
from actors.scorer import Scorer
from actors.site_rules import Scorers
from policies.errors import EngineError, NetGPTError

logger = logging.getLogger(__name__)

_PROBE = Prompt([{"role": "user", "content": "hi"}])  # any prompt shows whether the new weights give numbers
_PROBE_SAMPLING = Sampling(max_tokens=4)


@dataclass(frozen=True, slots=True)
class Weights:
    """A version of the edge weights and the directory it was loaded from."""

    version: str
    path: Path


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What a swap did.

    ``moments`` are seconds since it was pending, in order; ``gap_s`` is how long no step could run.
    """

    version: str
    previous: str
    outcome: Literal["live", "rolled_back"]
    moments: Mapping[str, float]
    gap_s: float = 0.0
    error: str | None = None


class Swapper:
    """Changes the weights of ``engine`` and keeps ``live`` and ``scorers`` true to it.

    Args:
        verify: raises StoreError unless the directory holds exactly what the checksum promises (runs in a thread).
        clock: monotonic seconds.
        load: reads the scorer of a version's directory (runs in a thread).
    """

    def __init__(
        self,
        engine: Engine,
        live: Weights,
        scorers: Scorers,
        verify: Callable[[Path, str], None],
        clock: Callable[[], float],
        load: Callable[[Path], Scorer] = Scorer.load,
    ) -> None:
        self.live = live
        self._engine, self._scorers, self._verify, self._clock = engine, scorers, verify, clock
        self._load_scorer = load
        self._turn = asyncio.Lock()

    async def swap(self, target: Weights, sha256: str) -> SwapReport:
        """Make ``target`` live, or say why the old weights still are; never raises a ``NetGPTError``."""
        async with self._turn:
            previous, began = self.live, self._clock()
            moments = {"pending": 0.0}
            if target.version == previous.version:
                return SwapReport(target.version, previous.version, "live", moments | {"live": 0.0})
            try:
                loaded = await self._load(target, sha256, began, moments)
            except NetGPTError as why:
                self._scorers.drop(target.version)
                return self._rolled_back(target, began, moments, str(why))
            try:
                await self._check(target.version)
            except NetGPTError as why:
                return await self._undo(target, began, moments, str(why))
            moments["verified"] = moments["live"] = self._clock() - began
            self.live = target
            logger.info("swapped %s for %s, gap %.0f ms", previous.version, target.version, loaded.gap_s * 1e3)
            return SwapReport(target.version, previous.version, "live", moments, loaded.gap_s)

    async def _load(self, target: Weights, sha256: str, began: float, moments: dict[str, float]) -> LoadReport:
        await asyncio.to_thread(self._verify, target.path, sha256)
        self._scorers.add(self.live.version, self._scorers.of(self.live.version))  # never the oldest, so never dropped
        self._scorers.add(target.version, await asyncio.to_thread(self._load_scorer, target.path))
        report = await self._engine.load(target.path, target.version)
        moments["loaded"] = self._clock() - began
        moments |= {"drained": moments["loaded"] - report.gap_s, "loaded": moments.pop("loaded")}
        return report

    async def _check(self, version: str) -> None:
        """One short answer of the new weights: their version, and numbers that are numbers."""
        generation = await self._engine.generate(_PROBE, _PROBE_SAMPLING)
        logprobs = generation.completions[0].logprobs
        if generation.version != version:
            raise EngineError(f"the engine answers with {generation.version}, not {version}")
        if not all(map(math.isfinite, logprobs)):
            raise EngineError(f"{version} gives log-probabilities that are not numbers")

    async def _undo(self, target: Weights, began: float, moments: dict[str, float], why: str) -> SwapReport:
        """Load the old weights again; drafts of the new ones may be in flight, so its scorer stays known."""
        try:
            await self._engine.load(self.live.path, self.live.version)
        except NetGPTError as worse:
            why = f"{why}; and {self.live.version} could not be loaded again: {worse}"
            logger.critical("roll-back to %s failed: %s", self.live.version, worse)
        return self._rolled_back(target, began, moments, why)

    def _rolled_back(self, target: Weights, began: float, moments: dict[str, float], why: str) -> SwapReport:
        logger.error("swap to %s rolled back, %s stays live: %s", target.version, self.live.version, why)
        moments["rolled_back"] = self._clock() - began
        return SwapReport(target.version, self.live.version, "rolled_back", moments, error=why)
