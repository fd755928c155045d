"""Before the draft: the scores that drafts of such prompts had, and what a draft is still worth against a threshold.

A prompt-only predictor gives p(x) (``policies.prompt_score``). ``ScoreSpread`` says how the final score was spread
among requests with a similar p(x), so the value of drafting, E[(s - tau)+ | x], follows for any threshold (ours: the
expected value of information of one look at the edge's own answer). ``Forecast`` is the two together; it belongs to
one version of the weights. Pure.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from policies.json_fields import count, loads, numbers
from policies.prompt_score import PromptScore
from policies.score import FloatArray

BINS, LEVELS = 12, 20  # of p(x), of equal mass; and quantiles of the score in each
FOLDS = 3
MIN_SAMPLES = 5 * BINS  # fewer say nothing about a bin


@dataclass(frozen=True, slots=True)
class ScoreSpread:
    """Quantiles of the final score by bin of p(x).

    ``edges`` are the bins' inner borders, rising, shape [bins - 1]; ``quantiles`` has shape [bins, levels].
    """

    edges: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    samples: int

    def __post_init__(self) -> None:
        if len(self.quantiles) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError("a forecast needs rising edges and one row of quantiles more than edges")
        if not all(row and all(0.0 <= q <= 1.0 for q in row) for row in self.quantiles):
            raise ValueError("a forecast's quantiles must be scores in [0, 1]")

    @classmethod
    def fit(cls, predicted: FloatArray, score: FloatArray) -> Self:
        """From p(x) and the final scores of drafted requests, both [n]; an invalid draft's score is 0.

        Raises:
            ValueError: lengths disagree, or there are fewer than ``MIN_SAMPLES``.
        """
        if len(predicted) != len(score) or len(score) < MIN_SAMPLES:
            raise ValueError(f"a forecast needs at least {MIN_SAMPLES} drafted requests, got {len(score)}")
        edges = np.unique(np.quantile(predicted, np.arange(1, BINS) / BINS))
        place = np.searchsorted(edges, predicted, side="right")
        middle = (np.arange(LEVELS) + 0.5) / LEVELS
        rows = [np.quantile(score[place == k], middle) for k in range(len(edges) + 1) if (place == k).any()]
        kept = [edge for k, edge in enumerate(edges.tolist()) if (place == k).any()]
        return cls(tuple(kept[: len(rows) - 1]), tuple(tuple(map(float, row)) for row in rows), len(score))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From its fields as JSON gives them."""
        rows = tuple(numbers(f"quantiles[{i}]", row) for i, row in enumerate(data["quantiles"]))
        return cls(numbers("edges", data["edges"]), rows, count("samples", data["samples"]))

    def gain(self, predicted: float, threshold: float) -> float:
        """E[(s - tau)+ | p(x)], in [0, 1]: what a draft is expected to win over asking the cloud, in units of V."""
        row = self.quantiles[bisect_right(self.edges, predicted)]
        return sum(q - threshold for q in row if q > threshold) / len(row)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What the prompt says about its draft; without a spread (too little was seen) nothing of its final score."""

    prompt: PromptScore
    spread: ScoreSpread | None = None

    def to_json(self) -> str:
        """One JSON object."""
        spread = None if self.spread is None else asdict(self.spread)
        return json.dumps({"prompt": json.loads(self.prompt.to_json()), "spread": spread})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: not such a file, or fitted on other features.
        """
        try:
            data = loads(text)
            spread = None if data["spread"] is None else ScoreSpread.from_dict(data["spread"])
            return cls(PromptScore.from_json(json.dumps(data["prompt"])), spread)
        except (ValueError, TypeError) as why:
            raise ValueError(f"not a forecast: {why}") from why


def cross_fitted(
    questions: Sequence[str], tools: Sequence[int], right: FloatArray, weights: FloatArray
) -> tuple[PromptScore, FloatArray]:
    """p(x) from judged drafts, and what a p(x) that had not seen a prompt says of it, [n].

    Args:
        questions, tools: the user's words and the number of tools on offer, [n].
        right: whether the draft was right, or the probability of that; 0 if invalid; [n].
        weights: how many requests each stands for, [n].

    Raises:
        ValueError: lengths disagree, or nothing was given.
    """
    fold = np.random.default_rng(0).permutation(len(right)) % FOLDS
    predicted = np.full(len(right), 0.5)
    for held in range(FOLDS):
        seen, unseen = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        model = PromptScore.fit([questions[i] for i in seen], [tools[i] for i in seen], right[seen], weights[seen])
        predicted[unseen] = [model.predict(questions[i], tools[i]) for i in unseen]
    return PromptScore.fit(questions, tools, right, weights), predicted
