"""The score of a draft: the validity gate, then the calibrated log-probability features.

A scorer belongs to one version of the weights; ``EdgeNode`` keeps one per version. No Ray, no clock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.engine import Completion
from policies.calibration import Calibrator
from policies.early import Running, ScoreBound
from policies.errors import StoreError

logger = logging.getLogger(__name__)

CALIBRATOR_FILE = "calibrator.json"


@dataclass(frozen=True)
class Scorer:
    """s = P(draft correct) for drafts of one version of the weights."""

    calibrator: Calibrator

    @classmethod
    def load(cls, directory: Path) -> Scorer:
        """Read ``calibrator.json`` of a model version's directory.

        Raises:
            StoreError: the file is missing or is not a calibrator for the features computed here.
        """
        path = directory / CALIBRATOR_FILE
        try:
            return cls(Calibrator.from_json(path.read_text(encoding="utf-8")))
        except OSError as why:
            raise StoreError(f"{path}: cannot be read ({why.strerror or why})") from why
        except ValueError as why:
            raise StoreError(f"{path}: {why}") from why

    def score(self, completion: Completion, valid: bool) -> float:
        """P(``completion`` correct) in [0, 1]; 0 for one the validity gate rejected or that came without logprobs."""
        if not valid or not completion.logprobs:
            return 0.0
        seen = Running()
        for logprob in completion.logprobs:
            if not seen.add(logprob):
                return 0.0  # a model that computes NaN knows nothing
        return self.bound.score(seen)

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
