"""The score of a draft: the validity gate, then the calibrated features of its log-probabilities and its prompt.

A scorer belongs to one version of the weights; ``EdgeNode`` keeps one per version. No Ray, no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from actors.engine import Completion, Prompt
from policies.calibration import Calibrator
from policies.early import Running, ScoreBound
from policies.errors import StoreError
from policies.forecast import MIN_SAMPLES, Forecast, ScoreSpread, cross_fitted
from policies.prompt_score import PromptScore
from policies.recalibrate import recalibrate
from policies.score import FloatArray, features
from policies.types import ParsedText

logger = logging.getLogger(__name__)

CALIBRATOR_FILE, FORECAST_FILE = "calibrator.json", "forecast.json"
FRESH = 200  # drafts for a view of prompts from nothing: fewer teach no words
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One draft as it came from the engine, parsed, with the validity gate's word."""

    completion: Completion
    parsed: ParsedText
    valid: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """P(correct) of each draft, shape [K], exactly 0 for an invalid one, and which to keep, the first of equals."""

    scores: FloatArray
    best: int


@dataclass(frozen=True, slots=True)
class JudgedDraft:
    """One draft and what is known of it: ``right`` may be a probability, ``weight`` says how many it stands for."""

    question: str
    tools: int
    logprobs: Sequence[float]
    valid: bool
    right: float
    weight: float = 1.0


class Rater(Protocol):
    """Scores the drafts of one request together; ``actors.scorers.DraftScorer`` is one."""

    def score(self, prompt: Prompt, proposals: Sequence[Proposal]) -> Scored:
        """There must be one draft at least; may take milliseconds."""
        ...


@dataclass(frozen=True)
class Scorer:
    """s = P(draft correct) for drafts of one version of the weights, and what can be forecast of it from a prompt.

    ``rater``, if any, takes the place of the calibrated features once drafts are whole.
    """

    calibrator: Calibrator
    forecast: Forecast | None = None
    rater: Rater | None = None

    @classmethod
    def load(cls, directory: Path) -> Scorer:
        """Read ``calibrator.json`` of a model version's directory, and ``forecast.json`` where there is one.

        Raises:
            StoreError: a file is missing or was not made for what is computed here.
        """
        forecast = (
            _read(directory / FORECAST_FILE, Forecast.from_json) if (directory / FORECAST_FILE).exists() else None
        )
        return cls(_read(directory / CALIBRATOR_FILE, Calibrator.from_json), forecast)

    @classmethod
    def fit(cls, drafts: Sequence[JudgedDraft], parent: Scorer | None = None) -> Scorer:
        """The scorer of the weights that made ``drafts``: the parent's moved to them, or a fresh one.

        The parent's view of prompts is kept: few drafts teach no words. Whether it still holds for these weights shows
        in the calibrator's weight on it.
        """
        parent = parent or cls(Calibrator.guess())
        right = np.array([draft.right * draft.valid for draft in drafts], dtype=np.float64)
        weights = np.array([draft.weight for draft in drafts], dtype=np.float64)
        prompt, expected = _prompts(drafts, parent, right, weights)
        valid = np.array([draft.valid for draft in drafts], dtype=bool)
        if not valid.any():
            return parent
        x = np.array([features(d.logprobs, p) for d, p in zip(drafts, expected, strict=True) if d.valid])
        calibrator = recalibrate(parent.calibrator, x, right[valid], weights[valid])
        if prompt is None:
            return cls(calibrator)
        scores = np.zeros(len(drafts))
        scores[valid] = calibrator.predict(x)
        spread = ScoreSpread.fit(np.array(expected), scores) if len(drafts) >= MIN_SAMPLES else None
        return cls(calibrator, Forecast(prompt, spread))

    def save(self, directory: Path) -> None:
        """Write what ``load`` reads beside the weights in ``directory``; a forecast of other weights goes."""
        (directory / CALIBRATOR_FILE).write_text(self.calibrator.to_json(), encoding="utf-8")
        (directory / FORECAST_FILE).unlink(missing_ok=True)
        if self.forecast is not None:
            (directory / FORECAST_FILE).write_text(self.forecast.to_json(), encoding="utf-8")

    def expected(self, question: str, tools: int) -> float | None:
        """p(x) of a request with these words and so many tools; None where nothing is forecast."""
        return self.forecast.prompt.predict(question, tools) if self.forecast else None

    def score(self, logprobs: Sequence[float], valid: bool, expected: float | None) -> float:
        """P(correct) in [0, 1] of a draft for a prompt with p(x) = ``expected``.

        0 for one that the validity gate rejected or that came without log-probabilities.
        """
        if not valid or not logprobs:
            return 0.0
        seen = Running.of(logprobs)
        return self.bound.given(expected).score(seen) if seen else 0.0  # a model that computes NaN knows nothing

    def judge(self, question: str, tools: int, logprobs: Sequence[float], valid: bool) -> float:
        """``score`` of a draft for a request with these words and so many tools."""
        return self.score(logprobs, valid, self.expected(question, tools))

    @cached_property
    def bound(self) -> ScoreBound:
        """The same score for drafts that still grow."""
        return ScoreBound(self.calibrator)


def first_scorer(directory: Path) -> Scorer:
    """The scorer of a model directory; one without a calibrator gets a stated guess.

    Raises:
        StoreError: its calibrator cannot be read.
    """
    if (directory / CALIBRATOR_FILE).exists():
        return Scorer.load(directory)
    logger.warning("%s has no %s: its scores are a guess until the first training round", directory, CALIBRATOR_FILE)
    return Scorer(Calibrator.guess())


def _prompts(
    drafts: Sequence[JudgedDraft], parent: Scorer, right: FloatArray, weights: FloatArray
) -> tuple[PromptScore | None, Sequence[float | None]]:
    """The view of prompts, and p(x) of each draft by a view that was not fitted on it."""
    questions, tools = [draft.question for draft in drafts], [draft.tools for draft in drafts]
    if parent.forecast is not None:
        return parent.forecast.prompt, list(map(parent.expected, questions, tools))
    if len(drafts) < FRESH:
        return None, [None] * len(drafts)
    prompt, expected = cross_fitted(questions, tools, right, weights)
    return prompt, expected.tolist()


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as why:
        raise StoreError(f"{path}: cannot be read ({why.strerror or why})") from why
    except ValueError as why:
        raise StoreError(f"{path}: {why}") from why
