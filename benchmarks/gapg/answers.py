"""How a model answers puzzles: greedily, once; and what it says when its request for help is refused.

Two second attempts are tried: ``forced`` goes on after the model's own reasoning with <answer> where it asked, and
``retried`` asks the whole puzzle again without the permission to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.rollouts import Rollout, Rollouts
from actors.samples import SampleEncoder
from actors.training import Sample
from benchmarks.gapg.form import ANSWER
from orchestrator.tasks.countdown import SHORT, Puzzle, is_solved, messages
from policies.fitting import BoolArray
from policies.help_marker import HELP, asks_for_help
from policies.score import FloatArray

MAX_NEW_TOKENS = 80  # three attempts at four numbers, each of three steps, and the answer
CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Answers:
    """By puzzle, [n] each: solved alone, asked for help, mean log-probability, length, and both second attempts."""

    right: BoolArray
    asked: BoolArray
    confidence: FloatArray
    tokens: FloatArray
    forced: BoolArray
    retried: BoolArray

    def to_json(self) -> dict[str, list[float]]:
        """Lists by name, booleans as 0 and 1."""
        return {name: np.round(getattr(self, name).astype(float), 5).tolist() for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, list[float]]) -> Answers:
        """Read what ``to_json`` wrote."""
        kinds = {name: float if name in ("confidence", "tokens") else bool for name in data}
        return cls(**{name: np.array(values, dtype=kinds[name]) for name, values in data.items()})


class Examiner:
    """Asks the model that is live in ``sampler``.

    Args:
        base: the directory of the tokenizer.
    """

    def __init__(self, base: Path, sampler: Rollouts) -> None:
        self._encoder, self._sampler = SampleEncoder(base, CONTEXT), sampler
        tokenizer: Any = self._encoder.tokenizer
        self._help, self._answer = tokenizer.convert_tokens_to_ids([HELP, ANSWER])

    def prompts(self, puzzles: Sequence[Puzzle], may_ask: bool) -> list[list[int]]:
        """Tokens of each puzzle."""
        samples = [Sample(messages(puzzle, SHORT, may_ask), (), "") for puzzle in puzzles]
        return [self._encoder.prompt(sample, MAX_NEW_TOKENS) or [] for sample in samples]

    def exam(self, puzzles: Sequence[Puzzle], may_ask: bool) -> Answers:
        """Everything about the answers to ``puzzles``, at temperature 0."""
        prompts = self.prompts(puzzles, may_ask)
        found = self.greedy(prompts)
        asked = np.array([asks_for_help(answer.text) for answer in found])
        right = _solved(puzzles, [answer.text for answer in found]) & ~asked
        forced, retried = right.copy(), right.copy()
        refused = np.flatnonzero(asked)
        if len(refused):
            again = [puzzles[i] for i in refused]
            begun = [self._up_to_help(found[i]) for i in refused]
            rest = self.greedy([[*prompts[i], *tokens] for i, tokens in zip(refused, begun, strict=True)])
            forced[refused] = _solved(again, [f"{ANSWER}{answer.text}" for answer in rest])
            retried[refused] = _solved(again, [a.text for a in self.greedy(self.prompts(again, may_ask=False))])
        confidence = np.array([np.mean(answer.logprobs) for answer in found])
        tokens = np.array([float(len(answer.tokens)) for answer in found])
        return Answers(right, asked, confidence, tokens, forced, retried)

    def sampled(self, puzzles: Sequence[Puzzle], samples: int) -> list[list[str]]:
        """So many answers to each puzzle at temperature 1, with the permission to ask."""
        prompts = self.prompts(puzzles, may_ask=True)
        found = self._sampler.sample(prompts, samples, 1.0, MAX_NEW_TOKENS, seed=0)
        return [[answer.text for answer in found[at : at + samples]] for at in range(0, len(found), samples)]

    def greedy(self, prompts: Sequence[Sequence[int]]) -> list[Rollout]:
        """The likeliest answer to each prompt."""
        return self._sampler.sample(prompts, 1, 0.0, MAX_NEW_TOKENS, seed=0)

    def _up_to_help(self, answer: Rollout) -> list[int]:
        """The tokens before the request, and the tag of an answer in its place."""
        at = answer.tokens.index(self._help) if self._help in answer.tokens else len(answer.tokens)
        return [*answer.tokens[:at], self._answer]


def _solved(puzzles: Sequence[Puzzle], texts: Sequence[str]) -> BoolArray:
    return np.array([is_solved(puzzle, text) for puzzle, text in zip(puzzles, texts, strict=True)], dtype=bool)
