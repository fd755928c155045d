"""The score of a draft while it grows: an anytime upper bound on what it can still become, and at its end the score.

While a draft grows its lowest log-probabilities and their sum can only fall, so with the calibrator's weights on them
non-negative the score of every possible continuation lies below a number that is known now. A draft whose bound is
below the threshold will surely be rejected: it can be abandoned, and no decision changes (ours). ``Running`` follows a
draft token by token; ``ScoreBound`` belongs to one calibrator. Pure, a few microseconds a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.calibration import EDGE, Calibrator
from policies.score import FEATURES, LOWEST, ROUNDING


@dataclass(slots=True)
class Running:
    """What the bound needs of the tokens so far: their number, sum, and the three lowest in rising order."""

    count: int = 0
    total: float = 0.0
    lowest: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, logprob: float) -> bool:
        """Take one more token's natural-log probability; False when it is none (NaN, above 0) and is not taken."""
        if not logprob <= ROUNDING:
            return False
        value = min(max(logprob, LOWEST), 0.0)
        self.count += 1
        self.total += value
        if value < self.lowest[2]:
            self.lowest[2] = value
            self.lowest.sort()
        return True


class ScoreBound:
    """Upper bound on the final score under ``calibrator``."""

    def __init__(self, calibrator: Calibrator) -> None:
        slope = dict(
            zip(FEATURES, (w / s for w, s in zip(calibrator.weights, calibrator.scale, strict=True)), strict=True)
        )
        self._constant = calibrator.intercept - sum(
            w * c / s for w, c, s in zip(calibrator.weights, calibrator.center, calibrator.scale, strict=True)
        )
        self._lows = [slope[name] for name in ("min", "second_min", "third_min")]
        self._sum, self._mean, self._log_count = (slope[name] for name in ("sum", "mean", "log_count"))

    def score(self, whole: Running) -> float:
        """The score of a finished draft: the calibrator's own, without arrays."""
        return self.upper(whole, whole.count)

    def upper(self, seen: Running, max_tokens: int) -> float:
        """No continuation of ``seen`` to at most ``max_tokens`` tokens scores above this; in (0, 1)."""
        first, second, third = seen.lowest
        u = self._constant + self._lows[0] * first + self._lows[1] * second + self._lows[2] * third
        u += self._sum * seen.total + self._best_length(seen, max(max_tokens, seen.count, 1))
        return min(max(0.5 + 0.5 * math.tanh(0.5 * u), EDGE), 1.0 - EDGE)

    def _best_length(self, seen: Running, longest: int) -> float:
        """The most that mean and length can add: max of ``mean * total / n + log_count * ln n`` for n from here on."""
        shortest = max(seen.count, 1)
        rise, bend = self._mean * seen.total, self._log_count  # rise <= 0
        best = longest if bend >= 0.0 else min(max(rise / bend, shortest), longest)
        return rise / best + bend * math.log(best)
