"""Answers sampled for reinforcement learning, by a vLLM engine inside the process that trains.

``Rollouts`` starts the engine once, takes the trainer's weights from memory between optimiser steps (``sync``) and
samples many answers to many prompts at once (``sample``). Plain and synchronous: the trainer is a loop, and engine
and trainer take turns on the same thread. Prompts come as the trainer's own tokens and answers go back as tokens, so
it trains on exactly what was sampled. No rewards, no optimiser and no second copy of the weights on disk.

How far the engine's log-probabilities are from the trainer's float32 forward pass on the same weights, in nats, over
256 answers (7,670 tokens) of the bundled edge model, drawn at temperature 1 | 2:

    engine     token: mean      largest         sequence: mean   largest
    float32    2e-8 | 3e-7      7e-6 | 2e-5     4e-7 | 4e-6      8e-6 | 4e-5
    bfloat16   3e-4 | 5e-3      0.06 | 0.35     7e-3 | 0.07      0.09 | 1.0

So float32 is the default: the ratio of new to old policy starts at 1. At this size it costs nothing: 6,300 tokens per
second of one thread's CPU time, 6,000 in bfloat16 (32 prompts of 177 tokens, 8 answers of 30 tokens to each), where
the evaluator's greedy loop makes 2,200 and ``transformers.generate`` 1,300, both in bfloat16. A sync takes 22 ms.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actors.engine import Sampling
from actors.engine_settings import LocalSettings
from actors.rendering import Renderer
from actors.vllm_core import VllmCore, samples_of
from actors.weights import check_shapes, read_shapes
from policies.errors import EngineError, NetGPTError

if TYPE_CHECKING:
    from vllm import RequestOutput

# The answers to a prompt share its whole blocks in the cache and each read the rest again: with 32 tokens to a block,
# the least its CPU kernels take, instead of 128, that is a fifth less work for prompts of 180 tokens.
ROLLOUT_SETTINGS = LocalSettings(
    dtype="float32", kv_cache_bytes=256 * 2**20, max_num_seqs=256, engine_args={"block_size": 32}
)

_SEED_BITS = 48  # seeds drawn for the prompts: vLLM adds the sample's number, and no two should ever meet


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer.

    ``prompt`` is the prompt's place among those given; ``tokens`` [n] include the end token where there is one, and
    ``finished`` says whether there is; ``logprobs`` [n] are the tokens' natural-log probabilities under the model
    itself, which at temperature 1 is the distribution they were drawn from; ``version`` names the weights.
    """

    prompt: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool
    version: str


class Rollouts:
    """A model under training, as its trainer samples from it.

    Args:
        directory: the model to start from, in Hugging Face form.
        version: what its weights are called until the first ``sync``.
        settings: how to run it. ``threads`` count for the calling thread, so for the trainer's own work as well.

    Memory does not grow with what is asked: the key-value cache has ``kv_cache_bytes``, at most ``max_num_seqs``
    answers are under way (each with a few rows of the vocabulary's size), the others wait as tokens.

    Raises:
        EngineError: the model cannot be loaded; names the directory and why.
    """

    def __init__(self, directory: Path, version: str, settings: LocalSettings = ROLLOUT_SETTINGS) -> None:
        self.version = version
        self._directory = directory
        self._shapes = read_shapes(directory)
        self._renderer = Renderer(directory, settings.max_model_len)
        self._core = VllmCore(directory, self._renderer.context, settings)
        self._core.start()

    def sync(self, parameters: Iterable[tuple[str, Tensor]], version: str) -> None:
        """Sample from ``parameters`` (a model's ``named_parameters()``) from now on, cast to the engine's dtype.

        They are copied, so the trainer may change them at once; nothing that was computed with the old ones is left.

        Raises:
            EngineError: names or shapes are not the model's, or a value is not finite: the old weights stay. Or vLLM
                failed over them: the engine is closed.
        """
        weights = {name: tensor.detach() for name, tensor in parameters}
        check_shapes(version, {name: tuple(tensor.shape) for name, tensor in weights.items()}, self._shapes)
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise EngineError(f"weights {version}: {name} has values that are not finite")
        try:
            self._core.load_tensors(weights)
        except EngineError:
            self.close()  # what is live now is neither model
            raise
        self.version = version

    def sample(
        self, prompts: Sequence[Sequence[int]], samples: int, temperature: float, max_new_tokens: int, seed: int
    ) -> list[Rollout]:
        """Draw ``samples`` answers to each of ``prompts`` (token ids), those of a prompt together and in its order.

        The same weights, prompts and seed give the same answers. All of the vocabulary can be drawn; temperature 0
        takes the likeliest token, and then ``samples`` has to be 1.

        Raises:
            EngineError: a prompt is empty, or leaves no room for ``max_new_tokens``; or vLLM failed.
            BadRequest: vLLM refuses a number or a token.
        """
        self._check(prompts, max_new_tokens)
        seeds = random.Random(seed)
        try:
            for index, ids in enumerate(prompts):
                drawn = Sampling(max_new_tokens, samples, temperature, seed=seeds.getrandbits(_SEED_BITS))
                self._core.add(str(index), list(ids), drawn, schema=None, text=False)
        except NetGPTError:
            self._core.abort(*map(str, range(len(prompts))))
            raise
        outputs = self._run()
        return [rollout for index in range(len(prompts)) for rollout in self._rollouts(index, outputs[str(index)])]

    def close(self) -> None:
        """Free the engine; nothing can be sampled afterwards."""
        self._core.close()

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        context = self._renderer.context
        for index, ids in enumerate(prompts):
            if not ids:
                raise EngineError(f"prompts[{index}] has no tokens: give at least one to begin from")
            if len(ids) + max_new_tokens > context:
                raise EngineError(
                    f"prompts[{index}] has {len(ids)} tokens and the answer up to {max_new_tokens}, but the context of "
                    f"{self._directory} is {context}: shorten the prompt or lower max_new_tokens"
                )

    def _run(self) -> dict[str, RequestOutput]:
        """Step until nothing is under way; what was answered, by key."""
        finished: dict[str, RequestOutput] = {}
        try:
            while self._core.busy:
                finished |= {output.request_id: output for output in self._core.step()}
        except Exception as why:  # vLLM raises whatever its kernels raise, and cannot go on from there
            self.close()
            raise EngineError(f"model directory {self._directory}: its engine stopped: {why}") from why
        return finished

    def _rollouts(self, prompt: int, output: RequestOutput) -> list[Rollout]:
        return [
            Rollout(
                prompt,
                tuple(sample.token_ids),
                tuple(sample.logprobs.logprobs),
                str(self._renderer.tokenizer.decode(sample.token_ids, skip_special_tokens=True)),
                sample.finish_reason == "stop",
                self.version,
            )
            for sample in samples_of(output)
        ]
