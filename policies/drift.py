"""Drift: whether scores and labels still look as they did when the scorer was calibrated.

Two tests run all the time, each an e-process: the wealth of a gambler whose every bet is fair while nothing drifts.
Such wealth reaches 1 / p with probability at most p, however often one looks (Ville, 1939), so the false-alarm rate
holds over the whole life of one calibration. A population stability index, the usual choice, has no such rate: looked
at often enough, it alarms.

- Scores: the rank of each score among the reference and all scores since is uniform while they are exchangeable
  (conformal test martingales, Vovk, Gammerman and Shafer, 2005); bets are that ranks rise, fall, spread or narrow.
- Calibration: of an audited draft, label - score has mean 0 up to the gap at calibration; bets are that it is higher or
  lower, overall or growing with the score. Whether a draft is audited may depend on its score, so propensities play
  no part.

Bets enter over time, so a change after a long quiet stretch is found too. Recalibrate after an alarm: a new
``Reference`` and a new ``DriftMonitor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.checks import probability

BINS = 64  # scores closer than this are alike to a rank
MIN_SCORES = 100  # a rank among fewer tells too little
MEMORY = 1 / 200  # weight of the newest in the means that the reason names
HIGHEST = 1e300  # wealth beyond any alarm that a float still holds
BET = 0.5  # share of the wealth in one bet on a label: a gap of 15 points wants about that


@dataclass(frozen=True, slots=True)
class Reference:
    """What was true at calibration.

    Args:
        counts: scores in each of ``BINS`` equal bins of [0, 1].
        mean: their mean.
        gap: expected calibration error then, in [0, 1]: labels may be off by as much without an alarm.
    """

    counts: tuple[int, ...]
    mean: float
    gap: float

    def __post_init__(self) -> None:
        if len(self.counts) != BINS or min(self.counts) < 0 or sum(self.counts) < MIN_SCORES:
            raise ValueError(f"counts must be {BINS} numbers >= 0 of at least {MIN_SCORES} scores, got {self.counts!r}")
        probability(mean=self.mean, gap=self.gap)

    @classmethod
    def fit(cls, scores: npt.ArrayLike, gap: float) -> Self:
        """From the scores of at least ``MIN_SCORES`` requests as they came, not only of those that were labelled.

        Raises:
            ValueError: there are too few, or one lies outside [0, 1].
        """
        array = np.asarray(scores, dtype=np.float64)
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError("scores must lie in [0, 1]")
        bins = np.minimum((array * BINS).astype(np.int64), BINS - 1)
        counts = tuple(int(count) for count in np.bincount(bins, minlength=BINS))
        return cls(counts, float(array.mean()) if len(array) else 0.0, gap)


@dataclass(frozen=True, slots=True)
class DriftState:
    """Whether the calibration may still be trusted, and why not."""

    alarm: bool
    reason: str


class Wealth:
    """A gambler's wealth, 1 at first, spread over ``bets`` strategies and over the times when they begin.

    Before step t a share 1 / t of what is not yet at stake, 1 / (t (t + 1)) of the whole, joins the bets.
    """

    def __init__(self, bets: int) -> None:
        self._at_stake = [0.0] * bets
        self._aside = 1.0
        self.steps = 0
        self.now = self.highest = 1.0

    def step(self, gains: tuple[float, ...]) -> None:
        """Multiply each bet by its factor 1 + gain; fair if no gain has a mean above 0, and none is below -1."""
        self.steps += 1
        aside = 1.0 / (self.steps + 1)
        joins = (self._aside - aside) / len(gains)
        self._aside = aside
        self.now = aside
        for bet, gain in enumerate(gains):
            held = min((self._at_stake[bet] + joins) * (1.0 + gain), HIGHEST)
            self._at_stake[bet] = held
            self.now += held
        self.highest = max(self.highest, self.now)


class DriftMonitor:
    """Watches one calibration; holds some hundred numbers whatever the length of the stream.

    Args:
        reference: what was true at calibration.
        false_alarm: probability of any alarm, ever, while nothing drifts; half of it for each test.

    Raises:
        ValueError: ``false_alarm`` is 0 or lies outside [0, 1].
    """

    def __init__(self, reference: Reference, false_alarm: float = 0.01) -> None:
        probability(false_alarm=false_alarm)
        if false_alarm == 0:
            raise ValueError("false_alarm must be > 0: without false alarms there are no alarms")
        self._reference, self._enough = reference, 2.0 / false_alarm
        self._counts, self._total = list(reference.counts), sum(reference.counts)
        self._scores, self._labels = Wealth(4), Wealth(4)
        self._mean_score, self._mean_gap = reference.mean, 0.0

    def observe_score(self, score: float, uniform: float) -> None:
        """The score of a request as it comes, whatever becomes of it.

        Args:
            score: calibrated, in [0, 1].
            uniform: a fresh random number in [0, 1]: breaks ties between scores of one bin.

        Raises:
            ValueError: a number lies outside [0, 1].
        """
        probability(score=score, uniform=uniform)
        bin_ = min(int(score * BINS), BINS - 1)
        self._counts[bin_] += 1
        self._total += 1
        rank = (sum(self._counts[:bin_]) + uniform * self._counts[bin_]) / self._total
        side, spread = rank - 0.5, 6.0 * (rank - 0.5) ** 2 - 0.5
        self._scores.step((side, -side, spread, -spread))
        self._mean_score += MEMORY * (score - self._mean_score)

    def observe_label(self, score: float, correct: bool) -> None:
        """An audited draft: its score and whether it was correct.

        Raises:
            ValueError: the score lies outside [0, 1].
        """
        probability(score=score)
        error, allowed = correct - score, self._reference.gap
        slope = error * (2.0 * score - 1.0)
        self._labels.step(tuple(BET * (gain - allowed) for gain in (error, -error, slope, -slope)))
        self._mean_gap += max(MEMORY, 1.0 / self._labels.steps) * (error - self._mean_gap)

    @property
    def state(self) -> DriftState:
        """The verdict so far; an alarm stays."""
        if self._labels.highest >= self._enough:
            found = f"recent labels are {self._mean_gap:+.3f} from their scores on average"
            return DriftState(True, f"calibration drifted: {found} ({self._evidence(self._labels)})")
        if self._scores.highest >= self._enough:
            found = f"recent scores average {self._mean_score:.3f}, {self._reference.mean:.3f} at calibration"
            return DriftState(True, f"scores drifted: {found} ({self._evidence(self._scores)})")
        return DriftState(False, f"no drift in {self._scores.steps} scores and {self._labels.steps} labels")

    def gauges(self) -> dict[str, float]:
        """The evidence of both tests (alarm at 2 / false_alarm), for the metrics."""
        return {
            "drift_scores_evidence": self._scores.highest,
            "drift_labels_evidence": self._labels.highest,
            "drift_label_gap": self._mean_gap,
        }

    def _evidence(self, wealth: Wealth) -> str:
        return f"evidence {wealth.highest:.3g}, alarm at {self._enough:.3g}, after {wealth.steps}"
