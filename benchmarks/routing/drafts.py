"""How far each draft is made under a threshold: begun or not by its prompt, given up once it can no longer be kept.

Every draft was made to its end; its bound after each token is worked out once, so that a rule over all requests is a
few array operations. A test holds it against ``policies.decide``, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.scorer import Scorer
from benchmarks.both_answers import Both
from policies.early import Running, ScoreBound
from policies.fitting import BoolArray, IntArray
from policies.score import FloatArray

TOKEN_S = 0.004  # what a token of a draft takes on two cores
MAX_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Drafts:
    """n drafts.

    ``bounds`` [n, longest] is the bound after each token (0 beyond the last), ``length`` [n] the tokens, and ``spread``
    [n, levels] the scores that drafts of such prompts have had.
    """

    bounds: FloatArray
    length: IntArray
    spread: FloatArray

    @classmethod
    def of(cls, rows: Sequence[Both], scorer: Scorer) -> Drafts:
        """Of real drafts, as ``scorer`` sees them."""
        if scorer.forecast is None or scorer.forecast.spread is None:
            raise SystemExit("the edge model has no forecast: run orchestrator.bundled.evaluate --calibrate")
        expected = np.array([scorer.expected(row.question, row.offered) for row in rows])
        spread = scorer.forecast.spread
        place = np.searchsorted(spread.edges, expected, side="right")
        length = np.array([len(row.logprobs) for row in rows])
        bounds = np.zeros((len(rows), length.max()))
        for row, p, out in zip(rows, expected, bounds, strict=True):
            _follow(scorer.bound.given(p), row.logprobs, out)
        return cls(bounds, length, np.array(spread.quantiles)[place])

    def begun(self, tau: FloatArray, value_usd: float, second_usd: float) -> BoolArray:
        """Which are worth their time against ``tau`` [n], by their prompts."""
        gain = np.maximum(self.spread - tau[:, None], 0.0).mean(axis=1)
        return np.asarray((gain > 0) & (value_usd * gain >= second_usd * TOKEN_S * self.length.mean()))

    def made(self, tau: FloatArray, begun: BoolArray) -> IntArray:
        """Tokens of each that are made."""
        alive = (self.bounds >= tau[:, None]).sum(axis=1)  # bounds never rise
        return np.where(begun, np.minimum(alive + 1, self.length), 0)


def _follow(bound: ScoreBound, logprobs: Sequence[float], out: FloatArray) -> None:
    seen = Running()
    for n, logprob in enumerate(logprobs):
        seen.add(logprob)
        out[n] = bound.upper(seen, MAX_TOKENS)
