"""Several endpoints as one cloud: load shared by weight, and the next one asked where one cannot answer.

Endpoints stand in tiers. Within a tier each call goes to one of them, with the probability of its weight; where that
one fails in a way that may pass (no answer, 429, 5xx, an open circuit), the others of its tier are asked, then the next
tier. What the caller did wrong is nobody else's to mend. Each endpoint has its own retries and breaker inside.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling
from actors.resilience import is_transient
from policies.errors import EngineError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One endpoint: its share of its tier's load is ``weight`` to the others'; lower tiers are asked first."""

    engine: Engine
    weight: float = 1.0
    tier: int = 0


class Upstreams:
    """Asks one of ``upstreams``, and others where it cannot answer.

    Args:
        upstreams: at least one.
        rng: draws who is asked.
    """

    def __init__(self, upstreams: Sequence[Upstream], rng: random.Random | None = None) -> None:
        assert upstreams, "a cloud without endpoints is none"
        self._upstreams, self._rng = upstreams, rng or random.Random()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; raises what the last endpoint raised where none answers."""
        *others, last = self._in_order()
        for engine in others:
            try:
                return await engine.generate(prompt, sampling)
            except EngineError as why:
                if not is_transient(why):
                    raise
                logger.info("the next endpoint is asked: %s", why)
        return await last.generate(prompt, sampling)

    async def load(self, path: Path, version: str) -> LoadReport:  # noqa: ARG002
        """Raises EngineError: remote models' weights are not ours to change."""
        raise EngineError("new weights cannot be loaded into remote models")

    async def close(self) -> None:
        """See ``Engine``."""
        for upstream in self._upstreams:
            await upstream.engine.close()

    def _in_order(self) -> Iterator[Engine]:
        """Everyone once: by tier, drawn by weight within it."""
        # Exponential clocks: who rings first is chosen with the probability of its rate.
        rings = [(one.tier, self._rng.expovariate(one.weight), n) for n, one in enumerate(self._upstreams)]
        return (self._upstreams[n].engine for _, _, n in sorted(rings))
