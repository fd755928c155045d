"""Hugging Face ``generate`` behind the ``Engine`` protocol, for machines where vLLM does not run.

One worker thread owns the model: generations and loads happen there one after the other, so a load always
falls between two generations and no generation ever mixes versions. The same prompts, grammar and
log-probabilities as ``vllm_engine``; slower when requests come together, because they are not batched.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.stopping_criteria import StoppingCriteriaList

from actors.adapter_base import base_of, whole
from actors.engine import Completion, FinishReason, Generation, LoadReport, Prompt, Sampling, Token
from actors.engine_settings import LocalSettings
from actors.grammar import json_grammar
from actors.hearing import Hearing
from actors.rendering import Renderer, model_directory
from actors.weights import check_weights, read_shapes, read_tensors
from policies.errors import EngineError

T = TypeVar("T")

# Requests taken and not yet answered; they run one by one, so more would only wait longer than a client does.
# A full queue answers with EngineError at once.
MAX_PENDING = 64


class TransformersEngine:
    """A local model served by transformers (CPU or GPU).

    Args:
        source: a model directory, or a Hugging Face id.
        version: what its weights are called in every ``Generation``.
        settings: how to run it.
    """

    def __init__(self, source: str | Path, version: str, settings: LocalSettings | None = None) -> None:
        self.source, self.version = source, version
        self._settings = settings or LocalSettings()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")
        self._model: Any = None
        self._compiler: Any = None
        self._running: set[threading.Event] = set()  # one per request; set when nobody wants its answer any more
        self._closed = False

    async def setup(self) -> None:
        """Load the model.

        Raises:
            EngineError: it cannot be loaded; names it and says why.
        """
        await self._in_worker(self._start)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``. Under a schema with a prefill, the schema holds for what follows the prefill."""
        started = time.perf_counter()
        ids = await self._renderer.render_aside(prompt, sampling.max_tokens)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self._renderer.context - len(ids)))
        if len(self._running) >= MAX_PENDING:
            raise EngineError(f"model {self.source}: {MAX_PENDING} requests are already waiting")
        cancelled = threading.Event()
        self._running.add(cancelled)
        try:
            hearing = Hearing(sampling.hear) if sampling.hear else None
            work = self._in_worker(lambda: self._generate(ids, prompt, sampling, cancelled, hearing))
            answers, version = await (hearing.until(work) if hearing else work)
        finally:
            cancelled.set()
            self._running.discard(cancelled)
        return Generation(answers, len(ids), version, time.perf_counter() - started)

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``; waits for the generation that runs, so it ends on the weights it began with."""
        asked = time.perf_counter()
        await asyncio.to_thread(check_weights, path, self._shapes)
        verified = time.perf_counter()
        drained, live = await self._in_worker(lambda: self._swap(path, version))
        moments = {"verified_s": verified - asked, "drained_s": drained - asked, "live_s": live - asked}
        return LoadReport(version, gap_s=live - drained, moments=moments)

    async def close(self) -> None:
        """See ``Engine``."""
        self._closed = True
        for cancelled in self._running:
            cancelled.set()
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        self._model = None

    def gauges(self) -> dict[str, float]:
        """Requests taken and not yet answered, and whether the model can still answer (1)."""
        return {"pending": float(len(self._running)), "usable": float(not self._closed)}

    async def _in_worker(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise EngineError(f"model {self.source}: the engine is closed")
        try:
            return await asyncio.wrap_future(self._worker.submit(work))
        except asyncio.CancelledError:
            if self._closed:  # close() has dropped the work, nobody has cancelled the caller
                raise EngineError(f"model {self.source}: the engine was closed") from None
            raise

    # Below: the worker's thread.

    def _start(self) -> None:
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        directory = model_directory(self.source)
        self._renderer = Renderer(directory, self._settings.max_model_len)
        self._shapes = read_shapes(directory)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _load_model(directory, self._settings.dtype).to(self._device)

    def _generate(
        self,
        ids: list[int],
        prompt: Prompt,
        sampling: Sampling,
        cancelled: threading.Event,
        hearing: Hearing | None,
    ) -> tuple[tuple[Completion, ...], str]:
        recorder = _Recorder(len(ids), sampling.alternatives or 0)
        ending = _Ending(recorder, sampling, self._end_tokens(), self._renderer.tokenizer, cancelled)
        if hearing is not None:
            ending.say = lambda text: hearing.say(prompt.prefill + text)
        processors = [*self._grammar(prompt), recorder, _Penalties(len(ids), sampling)]
        with torch.random.fork_rng(enabled=sampling.seed is not None):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            rows = self._model.generate(
                torch.tensor([ids] * sampling.n, device=self._device),
                attention_mask=torch.ones(sampling.n, len(ids), dtype=torch.long, device=self._device),
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([ending]),
                **self._options(sampling),
            )
        if self._closed:
            raise EngineError(f"model {self.source}: the engine was closed")
        answers = [
            self._completion(prompt.prefill, row[:length], logprobs[:length], why, sampling.stop)
            for row, logprobs, (length, why) in zip(
                rows[:, len(ids) :].tolist(), recorder.logprobs, ending.ends, strict=True
            )
        ]
        if sampling.alternatives is not None:
            kept = zip(answers, rows[:, len(ids) :].tolist(), recorder.alternatives, strict=True)
            answers = [replace(answer, named=self._named(answer, row, best)) for answer, row, best in kept]
        return tuple(answers), self.version

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        # Every option a model's generation_config.json could set is set here, so that it cannot.
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        neutral = {"temperature": None, "top_p": None, "top_k": None}
        return {
            "max_new_tokens": sampling.max_tokens,
            "do_sample": sampling.temperature > 0,
            "repetition_penalty": 1.0,
            "pad_token_id": self._renderer.tokenizer.pad_token_id or self._end_tokens()[0],
            **(drawn if sampling.temperature > 0 else neutral),
        }

    def _grammar(self, prompt: Prompt) -> list[LogitsProcessor]:
        if prompt.schema is None:
            return []
        grammar = json_grammar(prompt.schema)
        import xgrammar  # noqa: PLC0415
        from xgrammar.contrib.hf import LogitsProcessor as Masking  # noqa: PLC0415

        if self._compiler is None:
            vocabulary = self._model.config.vocab_size
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._renderer.tokenizer, vocab_size=vocabulary, stop_token_ids=self._end_tokens()
            )
            self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        return [Masking(self._compiler.compile_grammar(grammar))]

    def _end_tokens(self) -> list[int]:
        ends = self._model.generation_config.eos_token_id
        ends = self._renderer.tokenizer.eos_token_id if ends is None else ends
        return [ends] if isinstance(ends, int) else list(ends)

    def _completion(
        self, prefill: str, ids: Sequence[int], logprobs: Sequence[float], why: FinishReason, stop: Sequence[str]
    ) -> Completion:
        text = self._renderer.tokenizer.decode(ids, skip_special_tokens=True)
        text = cut(text.rstrip("\ufffd"), stop)  # half a character at the end is no text
        return Completion(prefill + text, tuple(logprobs), why, len(ids))

    def _named(self, answer: Completion, row: list[int], best: list[list[tuple[int, float]]]) -> tuple[Token, ...]:
        """The tokens of ``answer`` by name; ``row`` and ``best``, its tokens and others', may be longer than it."""

        def name(token: int) -> str:
            text = str(self._renderer.tokenizer.decode([token]))
            return "" if "\ufffd" in text else text  # half a character, as vLLM names it

        told = zip(row, answer.logprobs, best, strict=False)
        return tuple(Token(name(token), lp, tuple((name(t), p) for t, p in top)) for token, lp, top in told)

    def _swap(self, path: Path, version: str) -> tuple[float, float]:
        drained = time.perf_counter()
        state = dict(read_tensors(path))  # all in memory before the first weight changes
        self._model.load_state_dict(state, strict=False)  # tied heads are not in the file; the rest was checked
        self.version = version
        return drained, time.perf_counter()


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Log-probabilities of the chosen tokens, after the grammar's mask and before temperature, as vLLM's."""

    def __init__(self, prompt_tokens: int, alternatives: int) -> None:
        self.start, self._alternatives, self._last = prompt_tokens, alternatives, torch.empty(0)
        self._chosen: list[torch.Tensor] = []
        self._best: list[tuple[torch.Tensor, torch.Tensor]] = []  # tokens and log-probabilities, [n, alternatives] each

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self._last = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def choose(self, tokens: torch.Tensor) -> float:
        """Take the newest token of each row, [n, 1]: of the vocabulary only their log-probabilities are kept.

        Returns:
            That of the first row.
        """
        self._chosen.append(self._last.gather(1, tokens))
        best = self._last.topk(self._alternatives)
        self._best.append((best.indices, best.values))
        return float(self._chosen[-1][0, 0])

    @property
    def logprobs(self) -> list[list[float]]:
        """Of every row, shape [n][tokens of the longest]."""
        return torch.cat(self._chosen, dim=1).tolist()

    @property
    def alternatives(self) -> list[list[list[tuple[int, float]]]]:
        """The most probable tokens of every row and place, with their log-probabilities."""
        steps = [(ids.tolist(), values.tolist()) for ids, values in self._best]
        return [
            [list(zip(ids[row], values[row], strict=True)) for ids, values in steps]
            for row in range(len(self._chosen[0]))
        ]


class _Penalties(LogitsProcessor):  # type: ignore[misc]
    """Makes tokens that an answer has already less likely, or more."""

    def __init__(self, start: int, sampling: Sampling) -> None:
        self._start, self._each, self._once = start, sampling.frequency_penalty, sampling.presence_penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._each and not self._once:
            return scores
        said = input_ids[:, self._start :]
        times = torch.zeros_like(scores).scatter_add_(1, said, torch.ones_like(said, dtype=scores.dtype))
        return scores - self._each * times - self._once * (times > 0)


class _Ending(StoppingCriteria):  # type: ignore[misc]
    """Where and why each row ended: an end token, a stop string, the length, or its watch gave up; all when cancelled.

    ``ends`` holds tokens and reason by row. As in vLLM, the watch is not asked about the token that ends the answer.
    """

    def __init__(
        self, recorder: _Recorder, sampling: Sampling, ends: Sequence[int], tokenizer: Any, cancelled: threading.Event
    ) -> None:
        self._recorder, self._sampling, self._ends = recorder, sampling, frozenset(ends)
        self._tokenizer, self._cancelled = tokenizer, cancelled
        self._found: dict[int, tuple[int, FinishReason]] = {}
        self.say: Callable[[str], None] | None = None  # is told the first row's text while it grows

    @property
    def ends(self) -> list[tuple[int, FinishReason]]:
        """(tokens, reason) of every row."""
        return [self._found[row] for row in range(self._sampling.n)]

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        logprob = self._recorder.choose(input_ids[:, -1:])
        rows = input_ids[:, self._recorder.start :].tolist()
        for i, row in enumerate(rows):
            if i not in self._found and (why := self._why(row)):
                self._found[i] = len(row), why
        if len(self._found) < len(rows) and self._given_up(logprob):
            for i, row in enumerate(rows):
                self._found.setdefault(i, (len(row), "abandoned"))
        if self.say is not None and 0 not in self._found:
            self.say(self._sure(rows[0]))
        return torch.tensor([i in self._found for i in range(len(rows))], device=input_ids.device)

    def _sure(self, row: list[int]) -> str:
        """Its text without half a character at the end, and without what may become a stop string."""
        text = str(self._tokenizer.decode(row, skip_special_tokens=True)).rstrip("\ufffd")
        return text[: max(len(text) - max((len(stop) - 1 for stop in self._sampling.stop), default=0), 0)]

    def _given_up(self, logprob: float) -> bool:
        if self._cancelled.is_set():
            return True
        watch = self._sampling.watch
        return watch is not None and 0 not in self._found and watch(logprob)

    def _why(self, row: list[int]) -> FinishReason | None:
        if row[-1] in self._ends or self._stopped(row):
            return "stop"
        return "length" if len(row) >= self._sampling.max_tokens else None

    def _stopped(self, row: list[int]) -> bool:
        if not self._sampling.stop:
            return False
        text = self._tokenizer.decode(row, skip_special_tokens=True)
        return any(stop in text for stop in self._sampling.stop)


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of ``stops``."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def _load_model(directory: Path, dtype: str) -> Any:
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            whole(directory), dtype="auto" if dtype == "auto" else getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as why:
        raise EngineError(f"model directory {directory}: transformers cannot load it: {why}") from why
    if base_of(directory):
        model.load_state_dict(dict(read_tensors(directory)), strict=False)
    return model.eval()
