"""The score of a draft: the validity gate, then the calibrated log-probability features.

A scorer belongs to one version of the weights; ``EdgeNode`` keeps one per version. No Ray, no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from actors.engine import Completion, Prompt
from policies.calibration import Calibrator
from policies.early import Running, ScoreBound
from policies.errors import StoreError
from policies.forecast import Forecast
from policies.score import FloatArray
from policies.types import ParsedText

logger = logging.getLogger(__name__)

CALIBRATOR_FILE, FORECAST_FILE = "calibrator.json", "forecast.json"
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


class Rater(Protocol):
    """Scores the drafts of one request together; ``actors.scorers.DraftScorer`` is one."""

    def score(self, prompt: Prompt, proposals: Sequence[Proposal]) -> Scored:
        """There must be one draft at least; may take milliseconds."""
        ...


@dataclass(frozen=True)
class Scorer:
    """s = P(draft correct) for drafts of one version of the weights, and what can be forecast of it from a prompt.

    ``rater``, if any, takes the place of the calibrated log-probabilities once drafts are whole.
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

    def save(self, directory: Path) -> None:
        """Write what ``load`` reads beside the weights in ``directory``; a forecast of other weights goes."""
        (directory / CALIBRATOR_FILE).write_text(self.calibrator.to_json(), encoding="utf-8")
        (directory / FORECAST_FILE).unlink(missing_ok=True)
        if self.forecast is not None:
            (directory / FORECAST_FILE).write_text(self.forecast.to_json(), encoding="utf-8")

    def score(self, completion: Completion, valid: bool) -> float:
        """P(``completion`` correct) in [0, 1]; 0 for one the validity gate rejected or that came without logprobs."""
        if not valid or not completion.logprobs:
            return 0.0
        seen = Running.of(completion.logprobs)
        return self.bound.score(seen) if seen else 0.0  # a model that computes NaN knows nothing

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


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as why:
        raise StoreError(f"{path}: cannot be read ({why.strerror or why})") from why
    except ValueError as why:
        raise StoreError(f"{path}: {why}") from why
