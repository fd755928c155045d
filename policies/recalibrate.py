"""A calibrator for new weights from few labels: the old one, shifted and stretched.

New weights make the old calibration wrong, mostly in three ways: they are right more often (a shift of the log-odds),
surer of themselves (a stretch), and no longer wrong where the prompt said that they would be. So exactly these three
numbers are fitted, sigmoid(shift + stretch * u + weight * x), where u is the old log-odds without the prompt and x what
the prompt says, with a Gaussian prior at "as before"; fifty labels suffice where a fresh fit would follow noise.
Targets may be probabilities, which lets a record without a label count as what is believed of it. Pure; who chooses
the records is ``orchestrator.learner``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.calibration import Calibrator
from policies.fitting import few_numbers
from policies.score import FEATURES, FloatArray
from policies.score_maps import SHIFT_SD, STRETCH_SD

STRETCH_FLOOR = 0.1  # order is kept: a surer draft never scores lower
PROMPT_SD = 1.0  # as wide as that of a fresh fit: a round changes above all which prompts are hard
_PROMPT = FEATURES.index("prompt")


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
    z, known = (features - old.center) / old.scale, old.weights[_PROMPT]
    own = np.where(np.arange(z.shape[1]) == _PROMPT, 0.0, old.weights)
    x = np.stack([z @ own + old.intercept, z[:, _PROMPT]], axis=1)
    sd, floor = (SHIFT_SD, STRETCH_SD, PROMPT_SD), (STRETCH_FLOOR, 0.0)
    shift, stretch, prompt = few_numbers(x, target, weights, (0.0, 1.0, known), sd, floor)
    moved = [stretch * weight for weight in old.weights]
    moved[_PROMPT] = prompt
    intercept = shift + stretch * old.intercept
    return replace(old, weights=tuple(moved), intercept=intercept, samples=old.samples + len(target))


def _fresh(features: FloatArray, target: FloatArray, weights: FloatArray) -> Calibrator:
    """A whole fit, for a model whose calibrator was only a guess; a probability counts as both outcomes."""
    doubled = np.concatenate([features, features])
    correct = np.repeat([True, False], len(target))
    fitted = Calibrator.fit(doubled, correct, np.concatenate([weights * target, weights * (1.0 - target)]))
    return replace(fitted, samples=len(target))


def _check(features: FloatArray, target: FloatArray, weights: FloatArray) -> None:
    if not len(features) == len(target) == len(weights):
        raise ValueError(f"rows disagree: {len(features)} features, {len(target)} targets, {len(weights)} weights")
    if not (np.isfinite(features).all() and ((target >= 0) & (target <= 1)).all()):
        raise ValueError("features must be finite and targets probabilities")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and >= 0")
