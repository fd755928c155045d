"""Engines around an engine: try again, give up in time, stop calling what keeps failing.

Each wrapper is itself an ``Engine``; ``actors.build`` stacks them. Only what may pass by itself is retried:
no answer, 429 and 5xx. What the caller did wrong (other 4xx) is handed on at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling
from policies.breaker import Admission, Breaker, BreakerPolicy, Circuit
from policies.errors import BadRequest, EngineError, Refused, Unreachable

logger = logging.getLogger(__name__)

TOO_MANY_REQUESTS, SERVER_ERRORS = 429, 500


class Retrying:
    """Asks ``engine`` again when a failure may pass, within one deadline.

    A generation counts the bytes of the attempt that succeeded, not those of the ones before.

    Args:
        engine: what to ask.
        name: what errors call it.
        attempts: calls in all, the first one included.
        deadline_s: seconds for all of them and the pauses between.
        backoff_s: the first pause is drawn from [0, 2 * backoff_s], later ones from twice as much each time.
        backoff_max_s: longest pause.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        attempts: int,
        deadline_s: float,
        backoff_s: float,
        backoff_max_s: float,
    ) -> None:
        self._engine, self._name, self._deadline_s = engine, name, deadline_s
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(attempts) | stop_before_delay(deadline_s),
            wait=wait_random_exponential(multiplier=2 * backoff_s, max=backoff_max_s),
            before_sleep=_log_retry,
            reraise=True,
        )

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; ``Unreachable`` when the deadline passes."""
        try:
            async with asyncio.timeout(self._deadline_s):
                # A copy each: tenacity keeps the state of one call in the object.
                return await self._retrying.copy()(self._engine.generate, prompt, sampling)
        except TimeoutError as why:
            raise Unreachable(f"{self._name}: no answer within {self._deadline_s:g} s") from why

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``; never retried."""
        return await self._engine.load(path, version)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()


class BreakerEngine:
    """Stops asking ``engine`` while it keeps failing (see ``policies.breaker``).

    Args:
        engine: what to ask; put retries inside, so that one failure is one exhausted call.
        name: what errors call it.
        policy: when to open and for how long.
        clock: monotonic seconds.
    """

    def __init__(
        self, engine: Engine, *, name: str, policy: BreakerPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._name, self._clock = engine, name, clock
        self._breaker = Breaker(policy)

    @property
    def circuit(self) -> Circuit:
        """Where the circuit stands now."""
        return self._breaker.circuit(self._clock())

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; ``Unreachable`` at once while the circuit is open."""
        admission = self._admit()
        try:
            generation = await self._engine.generate(prompt, sampling)
        except EngineError as why:
            self._judge(admission, why)
            raise
        except (BadRequest, asyncio.CancelledError):
            self._breaker = self._breaker.abandoned(admission)
            raise
        self._breaker = self._breaker.succeeded(admission)
        return generation

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``."""
        return await self._engine.load(path, version)

    async def close(self) -> None:
        """See ``Engine``."""
        await self._engine.close()

    def gauges(self) -> dict[str, float]:
        """``circuit_open`` (0 or 1) and failures in a row."""
        return {
            "circuit_open": float(self.circuit is not Circuit.CLOSED),
            "failures_in_a_row": float(self._breaker.failed),
        }

    def _admit(self) -> Admission:
        now_s = self._clock()
        self._breaker, admission = self._breaker.admit(now_s)
        if admission is Admission.REFUSED:
            wait_s, failed = self._breaker.wait_s(now_s), self._breaker.failed
            raise Unreachable(f"{self._name}: not asked, it failed {failed} times in a row; next try in {wait_s:.1f} s")
        return admission

    def _judge(self, admission: Admission, why: EngineError) -> None:
        if isinstance(why, Refused) and not is_transient(why):
            self._breaker = self._breaker.succeeded(admission)  # a 4xx is an answer: the far end works
            return
        self._breaker = self._breaker.failed_at(admission, self._clock())
        if self._breaker.opened_s is not None:
            logger.warning("circuit open for %.1f s: %s", self._breaker.wait_s(self._clock()), why)


def is_transient(why: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(why, Refused):
        return why.status == TOO_MANY_REQUESTS or why.status >= SERVER_ERRORS
    return isinstance(why, Unreachable)


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome is not None
    logger.info("attempt %d failed, trying again: %s", state.attempt_number, state.outcome.exception())
