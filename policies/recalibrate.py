"""A calibrator for new weights from few labels: the old one, shifted and stretched.

New weights make the old calibration wrong, mostly in two ways: they are right more often (a shift of the log-odds)
and surer of themselves (a stretch). So exactly these two numbers are fitted, p' = sigmoid(shift + stretch * logit p),
with a Gaussian prior at "as before"; fifty labels suffice where a fresh fit of every weight would follow noise.
Targets may be probabilities, which lets a record without a label count as what is believed of it. Pure; who chooses
the records is ``orchestrator.learner``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.calibration import Calibrator
from policies.fitting import two_numbers
from policies.score import FloatArray
from policies.score_maps import SHIFT_SD, STRETCH_SD

STRETCH_FLOOR = 0.1  # order is kept: a surer draft never scores lower


def recalibrate(old: Calibrator, features: FloatArray, target: FloatArray, weights: FloatArray) -> Calibrator:
    """``old`` moved to fit drafts of the new weights.

    Args:
        features: [n, d], of drafts made by the new weights.
        target: [n], probability that each draft is correct: 0 or 1 where it is known.
        weights: [n], how many records each stands for.

    Raises:
        ValueError: shapes disagree or a number is not finite or out of range.
    """
    _check(features, target, weights)
    if len(target) == 0 or weights.sum() == 0:
        return old
    if old.samples == 0:
        return _fresh(features, target, weights)
    p = np.asarray(old.predict(features), dtype=np.float64)
    odds = np.log(p) - np.log1p(-p)
    shift, stretch = two_numbers(odds, target, weights, (0.0, 1.0), (SHIFT_SD, STRETCH_SD), STRETCH_FLOOR)
    moved = tuple(stretch * w for w in old.weights)
    return replace(old, weights=moved, intercept=shift + stretch * old.intercept, samples=old.samples + len(target))


def _fresh(features: FloatArray, target: FloatArray, weights: FloatArray) -> Calibrator:
    """A whole fit, for a model whose calibrator was only a guess; a probability counts as both outcomes."""
    doubled = np.concatenate([features, features])
    correct = np.repeat([True, False], len(target))
    return Calibrator.fit(doubled, correct, np.concatenate([weights * target, weights * (1.0 - target)]))


def _check(features: FloatArray, target: FloatArray, weights: FloatArray) -> None:
    if not len(features) == len(target) == len(weights):
        raise ValueError(f"rows disagree: {len(features)} features, {len(target)} targets, {len(weights)} weights")
    if not (np.isfinite(features).all() and ((target >= 0) & (target <= 1)).all()):
        raise ValueError("features must be finite and targets probabilities")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and >= 0")
