"""vLLM's ``LLMEngine`` in this process, as one thread drives it: start, add, abort, step, load, close.

Synchronous and single-threaded by design; ``vllm_engine`` gives it its thread and an asyncio face, ``rollouts``
drives it from the trainer's loop. vLLM is imported by ``start``, after ``ENVIRONMENT`` is set, because vLLM and
torch read it when they are imported.

vLLM keeps two things per process rather than per engine. The forward context of a step is a module global,
so engines in one process take turns (``_turn``). The process groups die with the first engine that is shut
down, so closed engines wait in ``_closed`` until the last live one closes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.adapter_base import base_of, whole
from actors.engine import Completion, Sampling, Token
from actors.engine_settings import LocalSettings
from actors.grammar import json_grammar
from actors.weights import read_tensors
from policies.errors import BadRequest, EngineError, NetGPTError

if TYPE_CHECKING:
    from vllm import CompletionOutput, LLMEngine, RequestOutput, SamplingParams

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core runs in the thread that calls step
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to vLLM's authors
    "VLLM_CONFIGURE_LOGGING": "0",  # logging is configured once, by the program
    "VLLM_XGRAMMAR_CACHE_MB": "64",  # compiled grammars, about 1 MB a tool set; vLLM's 512 outgrow a small model
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding would pin this whole process, event loop included
    "TORCH_COMPILE_DISABLE": "1",  # else the first request with logprobs compiles for 15 s
}

_turn = threading.RLock()
_live: list[Any] = []
_closed: list[Any] = []
_set_num_threads = torch.set_num_threads  # vLLM's CPU worker replaces it by a stub when the first engine starts


class VllmCore:
    """One model in vLLM; every method is called from the same thread.

    Args:
        directory: a Hugging Face model directory, or an adapter's (see ``actors.weights``).
        context: tokens that prompt and answer may take together.
        settings: dtype, KV cache, threads and what else vLLM is given.
    """

    def __init__(self, directory: Path, context: int, settings: LocalSettings) -> None:
        self.directory = directory
        self._context, self._settings = context, settings
        self._engine: LLMEngine | None = None

    def start(self) -> None:
        """Load the model.

        Raises:
            EngineError: vLLM cannot load it; names the directory and why.
        """
        set_environment()
        from vllm import EngineArgs, LLMEngine  # noqa: PLC0415

        with _turn:
            if not torch.cuda.is_available():
                torch.compiler.set_stance("force_eager")  # TORCH_COMPILE_DISABLE comes too late where torch came first
            try:
                self._engine = LLMEngine.from_engine_args(EngineArgs(**self._arguments()))
                if base_of(self.directory):
                    self._reload(read_tensors(self.directory))
            except Exception as why:  # vLLM raises whatever its loaders raise
                raise EngineError(f"model directory {self.directory}: vLLM cannot load it: {why}") from why
            _live.append(self._engine)

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return self._engine is not None and self._engine.has_unfinished_requests()

    def add(
        self, key: str, ids: list[int], sampling: Sampling, schema: Mapping[str, Any] | None, text: bool = True
    ) -> None:
        """Queue one request under ``key``; without ``text`` the answer is tokens only, which is a tenth less work.

        Raises:
            BadRequest: vLLM refuses its parameters or its schema.
            EngineError: vLLM failed over it.
        """
        from vllm.exceptions import VLLMClientError  # noqa: PLC0415
        from vllm.inputs import tokens_input  # noqa: PLC0415

        try:
            self._vllm.add_request(key, tokens_input(ids), _parameters(sampling, schema, text))
        except (VLLMClientError, ValueError) as why:
            self.abort(key)  # of n samples, some may be queued already
            raise BadRequest(str(why), getattr(why, "parameter", None)) from why
        except NetGPTError:
            raise
        except Exception as why:  # whatever a strange request brings about must not stop the engine for the others
            self.abort(key)
            raise EngineError(f"vLLM failed to take the request: {why!r}") from why

    def abort(self, *keys: str) -> None:
        """Forget requests; unknown keys are ignored."""
        self._vllm.abort_request(list(keys))

    def step(self) -> list[RequestOutput]:
        """One forward pass over everything that runs; what finished with it, and all that is watched or heard."""
        with _turn:
            outputs: list[RequestOutput] = self._vllm.step()
        return outputs

    def load(self, directory: Path) -> None:
        """Replace the weights; requests in flight recompute their KV cache with the new ones.

        Raises:
            EngineError: it failed; the old weights are live again, and names the directory and why.
        """
        with _turn:
            try:
                self._reload(read_tensors(directory))
            except Exception as why:  # as in start
                self._roll_back()
                raise EngineError(f"weights {directory}: {why}; still on {self.directory}") from why
            self.directory = directory

    def load_tensors(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights by copies of ``weights``, named as in a checkpoint; no gradient is followed.

        Raises:
            EngineError: it failed half-way; there is no way back, so all that is left is to close the engine.
        """
        with _turn:
            try:
                self._reload(iter(weights.items()))
            except Exception as why:  # as in start
                raise EngineError(f"model directory {self.directory}: vLLM cannot take its new weights: {why}") from why

    def close(self) -> None:
        """Free the model (together with vLLM's process-wide state when it is the last one)."""
        with _turn:
            if self._engine is None:
                return
            _live.remove(self._engine)
            _closed.append(self._engine)
            self._engine = None
            while _closed and not _live:
                _closed.pop().engine_core.shutdown()

    @property
    def _vllm(self) -> LLMEngine:
        assert self._engine is not None, "start() comes first"
        return self._engine

    def _arguments(self) -> dict[str, Any]:
        settings, cpu = self._settings, not torch.cuda.is_available()
        if cpu and settings.threads:
            _set_num_threads(settings.threads)  # counts for the calling thread, the one that will step
        return {
            "model": str(whole(self.directory)),
            "dtype": settings.dtype,
            "max_model_len": self._context,
            "max_num_seqs": settings.max_num_seqs,
            "kv_cache_memory_bytes": settings.kv_cache_bytes,
            "enable_prefix_caching": True,
            "enforce_eager": cpu,
            # A prompt read in parts rewinds its seeded generator, which on CPU raises and ends the engine.
            "enable_chunked_prefill": False if cpu else None,
            "distributed_executor_backend": "uni",
            "async_scheduling": False,  # a load must find no step in flight
            # One fixed backend: vLLM's "auto" picks by schema, but an engine keeps the first it picked.
            "structured_outputs_config": {"backend": "xgrammar"},
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **settings.engine_args,
        }

    def _reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._vllm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._vllm.collective_rpc(_repack_tied_head)
        # Blocks of requests in flight count as used, and a cache in use is not reset: preempt them too.
        self._vllm.reset_prefix_cache(reset_running_requests=True)

    def _roll_back(self) -> None:
        self._vllm.collective_rpc(_finish_reload)
        self._reload(read_tensors(self.directory))


def set_environment() -> None:
    """Set what vLLM reads at import; a value the operator has set stays."""
    wanted = ENVIRONMENT | ({} if torch.cuda.is_available() else CPU_ENVIRONMENT)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))


def completions(output: RequestOutput, prefill: str, named: bool) -> tuple[Completion, ...]:
    """What a request answered, in sample order; of one that has not finished, what there is, as abandoned.

    Args:
        named: whether the tokens are told by name.

    Raises:
        EngineError: vLLM gave up on it.
    """
    return tuple(_completion(sample, prefill, named) for sample in samples_of(output))


def chosen_logprobs(sample: CompletionOutput) -> tuple[float, ...]:
    """Of the tokens of ``sample``; vLLM puts the chosen one first, before its alternatives."""
    told: Any = sample.logprobs
    return tuple(told.logprobs[at] for at in told.start_indices)


def samples_of(output: RequestOutput) -> list[CompletionOutput]:
    """A request's samples in their order.

    Raises:
        EngineError: vLLM gave up on it.
    """
    for sample in output.outputs:
        if output.finished and sample.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM gave up on the request: {sample.finish_reason}")
    return sorted(output.outputs, key=lambda sample: sample.index)


def last_logprob(output: RequestOutput) -> float:
    """Of the newest token of a single sample."""
    told = output.outputs[0].logprobs
    return float(told.logprobs[told.start_indices[-1]])


def _completion(sample: Any, prefill: str, named: bool) -> Completion:
    text, tokens = prefill + sample.text, _named(sample.logprobs) if named else ()
    return Completion(text, chosen_logprobs(sample), sample.finish_reason or "abandoned", len(sample.token_ids), tokens)


def _named(told: Any) -> tuple[Token, ...]:
    names, logprobs = told.decoded_tokens, told.logprobs
    return tuple(
        Token(
            names[first] or "", logprobs[first], tuple((names[at] or "", logprobs[at]) for at in range(first + 1, end))
        )
        for first, end in zip(told.start_indices, told.end_indices, strict=True)
    )


def _parameters(sampling: Sampling, schema: Mapping[str, Any] | None, text: bool) -> SamplingParams:
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: PLC0415

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop),
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        max_tokens=sampling.max_tokens,
        logprobs=sampling.alternatives or 0,  # besides the chosen token's
        flat_logprobs=True,
        detokenize=text,
        output_kind=RequestOutputKind.CUMULATIVE if sampling.watch or sampling.hear else RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(grammar=json_grammar(schema)) if schema is not None else None,
    )


def _finish_reload(worker: Any) -> None:
    """Bring a model whose reload broke half-way back to a state from which it can be reloaded."""
    from vllm.model_executor.model_loader.reload import layerwise  # noqa: PLC0415

    finish: Any = layerwise.finalize_layerwise_reload
    finish(worker.model_runner.get_model(), worker.model_runner.model_config)


def _repack_tied_head(worker: Any) -> None:
    """Give a tied output head the new embedding; on CPU it would go on with its own packed copy of the old."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (  # noqa: PLC0415
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    if not worker.model_runner.model_config.hf_text_config.tie_word_embeddings:
        return
    modules = [m for m in worker.model_runner.get_model().modules() if isinstance(m, VocabParallelEmbedding)]
    heads: Sequence[Any] = [m for m in modules if isinstance(m, ParallelLMHead)]
    embeddings: Sequence[Any] = [m for m in modules if not isinstance(m, ParallelLMHead)]
    for head in heads:
        head.tie_weights(embeddings[0])
        head.quant_method.process_weights_after_loading(head)
