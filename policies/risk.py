"""A threshold with a guarantee: P(answered by the edge and wrong) <= alpha, from audited drafts.

The loss of a draft at tau is 1 if it would be kept (score >= tau) and is wrong; it never rises in tau. A labelled
draft stands for 1 / propensity requests, an unlabelled one counts 0, so the mean over all requests is unbiased.

- ``expected_risk``: conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster, 2022). The next request's
  loss is <= alpha on average over calibration sets.
- ``bounded_risk``: with probability >= 1 - delta over the calibration set, the risk is <= alpha. Thresholds are tested
  one by one from the strictest down and the first that fails ends it (fixed-sequence testing: no correction for the
  number of tests). With equal propensities the test is exact binomial (its bound is that of Clopper and Pearson, 1934);
  with unequal ones it is a betting test for bounded means (Waudby-Smith and Ramdas, 2024).

Both hold for requests like those audited: same model, same traffic (``policies.drift`` watches that). Where the audits
cannot prove anything, tau is 1, no draft is kept, and ``reason`` says what is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.fitting import BoolArray
from policies.score import FloatArray

GRID = np.linspace(1.0, 0.0, 201)
"""Thresholds tried, from the strictest down: half a point apart, and fixed before any audit is seen."""

BETS = 0.5 ** np.arange(1, 15)
"""Shares of the largest bet that the betting test spreads its capital over: from ten audits to a million."""

HIGHEST = 700.0  # e^700 is a float and proof enough


@dataclass(frozen=True, slots=True)
class Audits:
    """Requests of a log with what was learnt of their drafts; every array has one row a request.

    Args:
        score: calibrated score in [0, 1].
        wrong: whether the edge's draft was wrong; of no account where there is no label.
        labelled: whether the cloud's answer is known.
        propensity: the probability, set beforehand, that it would be: 1 for an offload, the audit rate for a draft that
            was kept. Requests that could not be labelled (outages, audits off) must be left out.

    Raises:
        ValueError: rows disagree, or a number is out of range or not finite.
    """

    score: FloatArray
    wrong: BoolArray
    labelled: BoolArray
    propensity: FloatArray

    def __post_init__(self) -> None:
        rows = [len(self.score), len(self.wrong), len(self.labelled), len(self.propensity)]
        if len(set(rows)) > 1:
            raise ValueError(f"score, wrong, labelled and propensity must have the same number of rows, got {rows}")
        if not ((self.score >= 0) & (self.score <= 1)).all():
            raise ValueError("score must lie in [0, 1]")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise ValueError("propensity must lie in (0, 1]: what could not be seen cannot be weighed")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def heaviest(self) -> float:
        """The most requests that one label stands for."""
        return float(1.0 / self.propensity.min(initial=1.0))

    @property
    def losses(self) -> FloatArray:
        """What each request weighs if its draft is kept: wrong / propensity where labelled, else 0; shape [n]."""
        return np.where(self.wrong & self.labelled, 1.0 / self.propensity, 0.0)

    def risks(self) -> FloatArray:
        """Unbiased estimate of P(kept and wrong) at each threshold of ``GRID``; shape [201]."""
        return _kept_sums(self.score, self.losses) / max(len(self), 1)


@dataclass(frozen=True, slots=True)
class SafeThreshold:
    """The least threshold that keeps the guarantee.

    Args:
        tau: 1 where nothing could be proved.
        risk: estimate of P(kept and wrong) there.
        reason: one sentence with the numbers behind it.
    """

    tau: float
    risk: float
    reason: str


def expected_risk(audits: Audits, alpha: float) -> SafeThreshold:
    """Conformal risk control: the least tau with (n * risk + heaviest) / (n + 1) <= alpha, n requests.

    Raises:
        ValueError: alpha lies outside (0, 1).
    """
    _open_share(alpha=alpha)
    n = len(audits)
    passed = (n * audits.risks() + audits.heaviest) / (n + 1) <= alpha
    return _least(audits, passed, f"expected P(kept and wrong) <= {alpha:g}", math.ceil(audits.heaviest / alpha - 1))


def bounded_risk(audits: Audits, alpha: float, delta: float) -> SafeThreshold:
    """The least tau whose risk is <= alpha with probability >= 1 - delta over the audits.

    Raises:
        ValueError: alpha or delta lies outside (0, 1).
    """
    _open_share(alpha=alpha, delta=delta)
    goal = f"P(kept and wrong) <= {alpha:g} with probability {1 - delta:g}"
    if len(audits) and np.ptp(audits.propensity) == 0:
        needed = math.log(delta) / math.log1p(-alpha) * audits.heaviest
        return _least(audits, _binomial_p(audits, alpha) <= delta, goal, math.ceil(needed))
    needed = math.log(len(BETS) / delta) / math.log1p(BETS[0] * alpha / (audits.heaviest - alpha))
    return _least(audits, _betting_e(audits, alpha) >= 1.0 / delta, goal, math.ceil(needed))


def _least(audits: Audits, passed: BoolArray, goal: str, needed: int) -> SafeThreshold:
    """The last threshold of ``GRID`` before the first that did not pass; its first, 1, keeps nothing and needs no test.

    A score of exactly 1 would be kept at tau = 1: calibrated scores stay below it.
    """
    failed = np.flatnonzero(~passed[1:])
    last = int(failed[0]) if len(failed) else len(GRID) - 1
    tau, risk = float(GRID[last]), float(audits.risks()[last])
    seen = f"{int(audits.labelled.sum())} labels of {len(audits)} requests"
    if last > 0:
        reason = f"{goal} at tau = {tau:.3f}: estimated {risk:.4f} from {seen}"
    elif len(audits) < needed:
        reason = f"too few audits for {goal}: {seen}, about {needed} requests are needed"
    else:
        reason = f"no threshold below 1 keeps {goal}: the best drafts are wrong too often ({seen})"
    return SafeThreshold(tau, risk, reason)


def _binomial_p(audits: Audits, alpha: float) -> FloatArray:
    """P-values of "risk > alpha" at each threshold: P(Binomial(labels, alpha) <= wrong ones kept); shape [201].

    With one propensity for all, the labelled drafts are a plain sample of the requests.
    """
    from scipy.special import bdtr  # noqa: PLC0415  (calibration is rare; serving must not wait for this import)

    kept_wrong = np.rint(_kept_sums(audits.score, audits.losses / audits.heaviest))
    return np.asarray(bdtr(kept_wrong, int(audits.labelled.sum()), alpha), dtype=np.float64)


def _betting_e(audits: Audits, alpha: float) -> FloatArray:
    """E-values against "risk > alpha" at each threshold: mean over bets b of prod_i (1 + b * (alpha - x_i)).

    Over all requests, x_i in [0, heaviest] the weighted loss. If E[x] > alpha, each factor has mean < 1 and none is
    negative, so P(e >= 1 / delta) <= delta. The bets are fixed, so the order of requests does not matter.
    """
    bets = BETS / (audits.heaviest - alpha)
    nothing = np.log1p(bets * alpha)  # what a request earns that is right, unlabelled or not kept
    lossy = audits.losses > 0
    score, losses = audits.score[lossy], audits.losses[lossy]
    lost = np.array([_kept_sums(score, np.log1p(bet * (alpha - losses)) - np.log1p(bet * alpha)) for bet in bets])
    wealth = len(audits) * nothing[:, None] + lost
    return np.asarray(np.exp(np.minimum(wealth, HIGHEST)).mean(axis=0), dtype=np.float64)


def _kept_sums(score: FloatArray, values: FloatArray) -> FloatArray:
    """Sum of ``values`` over the drafts with score >= tau, for each tau of ``GRID``; shapes [n], [n] -> [201]."""
    order = np.argsort(score)
    above = np.concatenate([np.cumsum(values[order][::-1])[::-1], [0.0]])
    return np.asarray(above[np.searchsorted(score[order], GRID)], dtype=np.float64)


def _open_share(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
