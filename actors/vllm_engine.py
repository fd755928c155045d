"""vLLM behind the ``Engine`` protocol: one thread steps the model, asyncio talks to it through a queue.

``generate`` renders the prompt, queues it and awaits a future; cancelling it aborts the request. Between two
steps the thread takes commands (add, abort, load, close); when nothing runs it sleeps on the queue. Results
come back with ``loop.call_soon_threadsafe``, so the event loop never waits for the model.

The version of a generation is that of the weights live at its last token. A request in flight across a load
goes on: its tokens so far stay, its KV cache is recomputed with the new weights, and it carries the new version.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.engine import Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.hearing import Hearing
from actors.rendering import Renderer, model_directory
from actors.vllm_core import VllmCore, completions, last_logprob, set_environment
from actors.weights import check_weights, read_shapes
from policies.errors import EngineError, NetGPTError

if TYPE_CHECKING:
    from vllm import RequestOutput

logger = logging.getLogger(__name__)

# Requests taken and not yet answered. A full queue answers with EngineError at once, so an edge node sends
# the overflow to the cloud instead of letting everybody wait.
MAX_PENDING = 256

_WARM_UP = Prompt([{"role": "user", "content": "hi"}])
_WARM_UP_SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


@dataclass(slots=True)
class _Request:
    """A prompt on its way: what the thread needs to run it and to hand the answer back."""

    key: str
    ids: list[int]
    prompt: Prompt
    sampling: Sampling
    answer: asyncio.Future[Generation]
    started: float
    hearing: Hearing | None


class VllmEngine:
    """A local model served by vLLM in this process (CPU or GPU).

    Args:
        source: a model directory, or a Hugging Face id.
        version: what its weights are called in every ``Generation``.
        settings: how to run it.
    """

    def __init__(self, source: str | Path, version: str, settings: LocalSettings | None = None) -> None:
        self.source, self.version = source, version
        self._settings = settings or LocalSettings()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # bounded by MAX_PENDING
        self._requests: dict[str, _Request] = {}
        self._asked: set[asyncio.Future[Any]] = set()  # one for each load that waits
        self._keys = count()
        self._closing = False
        self._broken: str | None = None

    async def setup(self) -> None:
        """Load the model and answer two throw-away prompts, so that the first real one is fast.

        Raises:
            EngineError: the model cannot be loaded; names it and says why.
        """
        self._loop = asyncio.get_running_loop()
        set_environment()
        directory = await asyncio.to_thread(model_directory, self.source)
        self._renderer = await asyncio.to_thread(Renderer, directory, self._settings.max_model_len)
        self._shapes = await asyncio.to_thread(read_shapes, directory)
        self._core = VllmCore(directory, self._renderer.context, self._settings)
        self._thread = threading.Thread(target=self._run, name=f"vllm:{directory.name}", daemon=True)
        self._thread.start()
        try:
            await self._ask(self._core.start)
            await self.generate(_WARM_UP, Sampling(max_tokens=4))
            await self.generate(replace(_WARM_UP, schema=_WARM_UP_SCHEMA), Sampling(max_tokens=4))
        except BaseException:
            await self.close()
            raise

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``. Under a schema with a prefill, the schema holds for what follows the prefill."""
        started = time.perf_counter()
        ids = await self._renderer.render_aside(prompt, sampling.max_tokens)
        self._check_usable()
        if len(self._requests) >= MAX_PENDING:
            raise EngineError(f"model {self.source}: {MAX_PENDING} requests are already waiting")
        answer: asyncio.Future[Generation] = self._loop.create_future()
        hearing = Hearing(sampling.hear) if sampling.hear else None
        request = _Request(str(next(self._keys)), ids, prompt, sampling, answer, started, hearing)
        self._requests[request.key] = request
        self._inbox.put(lambda: self._add(request))
        try:
            return await (hearing.until(answer) if hearing else answer)
        finally:
            if answer.cancelled():
                self._inbox.put(lambda: self._core.abort(request.key))
            self._requests.pop(request.key, None)

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``. The live version's directory has to stay until this returns: it is the way back."""
        asked = time.perf_counter()
        await asyncio.to_thread(check_weights, path, self._shapes)
        verified = time.perf_counter()
        drained, live = await self._ask(lambda: self._swap(path, version))
        moments = {"verified_s": verified - asked, "drained_s": drained - asked, "live_s": live - asked}
        logger.info("weights %s live after %.0f ms", version, 1e3 * moments["live_s"])
        return LoadReport(version, gap_s=live - drained, moments=moments)

    async def close(self) -> None:
        """See ``Engine``."""
        if self._closing or not hasattr(self, "_thread"):
            return
        self._closing = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)
        self._fail_all(f"{self.source}: the engine was closed")

    def gauges(self) -> dict[str, float]:
        """Requests taken and not yet answered, and whether the model can still answer (1) or has to be restarted."""
        return {"pending": float(len(self._requests)), "usable": float(not self._broken and not self._closing)}

    def _check_usable(self) -> None:
        if self._broken or self._closing:
            raise EngineError(f"model {self.source}: {self._broken or 'the engine is closed'}")

    async def _ask(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` on the engine's thread, between two steps."""
        self._check_usable()
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked.add(answer)
        self._inbox.put(lambda: self._answer(answer, work))
        try:
            return await answer
        finally:
            self._asked.discard(answer)

    # Below: the engine's thread, but for _fail_all.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands()
                if self._core.busy:
                    self._step()
        except Exception as why:  # vLLM failed in a step or in a roll-back: nothing it would answer now can be trusted
            logger.exception("model %s: its engine stopped", self.source)
            self._broken = f"its engine stopped: {why}"
            self._tell(self._fail_all, f"model {self.source}: {self._broken}")
        finally:
            self._core.close()

    def _take_commands(self) -> None:
        if not self._core.busy:
            self._inbox.get()()  # nothing to step: sleep until there is
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        for output in self._core.step():
            request = self._requests.get(output.request_id)
            if request and (output.finished or self._given_up(request, output)):
                self._answer(request.answer, partial(self._generation, request, output))
            elif request and request.hearing:
                request.hearing.say(request.prompt.prefill + output.outputs[0].text)

    def _given_up(self, request: _Request, output: RequestOutput) -> bool:
        """Ask the request's own watch about its newest token; one that gives up is taken out of the engine."""
        watch = request.sampling.watch
        if watch is None or request.answer.cancelled() or not watch(last_logprob(output)):
            return False
        self._core.abort(request.key)
        return True

    def _add(self, request: _Request) -> None:
        if request.answer.cancelled():
            return
        try:
            self._core.add(request.key, request.ids, _drawn(request.sampling), request.prompt.schema)
        except NetGPTError as why:
            self._tell(_reject, request.answer, why)

    def _generation(self, request: _Request, output: RequestOutput) -> Generation:
        answers = completions(output, request.prompt.prefill, request.sampling.alternatives is not None)
        return Generation(
            answers * (request.sampling.n // len(answers)),
            len(request.ids),
            self.version,
            time.perf_counter() - request.started,
            cached_tokens=output.num_cached_tokens or 0,
        )

    def _swap(self, path: Path, version: str) -> tuple[float, float]:
        drained = time.perf_counter()
        self._core.load(path)
        self.version = version
        return drained, time.perf_counter()

    def _answer(self, answer: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        try:
            self._tell(_resolve, answer, work())
        except NetGPTError as why:
            self._tell(_reject, answer, why)
        except Exception as why:
            self._tell(_reject, answer, EngineError(f"model {self.source}: {why}"))
            raise

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():  # its program went away without close(): nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _fail_all(self, why: str) -> None:
        for answer in [request.answer for request in self._requests.values()] + list(self._asked):
            _reject(answer, EngineError(why))


def _drawn(sampling: Sampling) -> Sampling:
    """Greedy samples are all alike, and vLLM refuses to draw more than one."""
    return replace(sampling, n=1) if sampling.temperature == 0 else sampling


def _resolve(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


def _reject(answer: asyncio.Future[Any], why: Exception) -> None:
    if not answer.done():
        answer.set_exception(why)
