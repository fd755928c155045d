"""From features to a probability: s = P(draft correct), and how well such probabilities hold.

``Calibrator`` is a logistic regression on standardised features whose weights on confidence features are
non-negative: making any token of a draft more probable never lowers its score. It belongs to one
version of the weights and is published with them; predicting needs numpy alone. ``ece``, ``brier`` and ``auroc``
measure it. ``weights`` are importance weights (1 / propensity), so a log of offloads and audits is unbiased.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

from policies.fitting import BoolArray, as_tuple, checked, sigmoid, standard
from policies.json_fields import LARGEST, count, loads, number, numbers
from policies.score import FEATURES, RISING, FloatArray

EDGE = 1e-6  # scores stay inside (0, 1): a threshold of 1 is then cloud-only and 0 edge-only, exactly
RIDGE = 1.0  # unit Gaussian prior on standardised weights: 50 labelled drafts are enough not to overfit


@dataclass(frozen=True, slots=True)
class Calibrator:
    """P(draft correct | features); arrays have shape [len(FEATURES)], in its order.

    ``samples`` is how many labelled drafts it was fitted on; 0 says it is only a stated guess.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    samples: int = 0

    def __post_init__(self) -> None:
        numbers = np.array([*self.center, *self.scale, *self.weights, self.intercept])
        if not np.isfinite(numbers).all() or min(self.scale, default=1.0) < 1.0 / LARGEST:
            raise ValueError(f"a calibrator's numbers must be finite and its scales >= {1.0 / LARGEST:g}, got {self}")

    @classmethod
    def fit(
        cls,
        features: FloatArray,
        correct: BoolArray,
        weights: FloatArray | None = None,
        rising: Sequence[bool] = RISING,
    ) -> Self:
        """Fit on labelled drafts: features [n, d], correct [n], importance weights [n].

        Features whose ``rising`` is true get weights >= 0. With one class only there is nothing to separate: the
        result is the constant (weighted successes + 1) / (n + 2).

        Raises:
            ValueError: shapes disagree, nothing was given, or a number is not finite.
        """
        x, y, w = checked(features, correct, weights)
        w = w / w.mean()
        center, scale = standard(x, w)
        if y.all() or not y.any():
            rate = (float((w * y).sum()) + 1.0) / (len(y) + 2.0)
            return cls(as_tuple(center), as_tuple(scale), (0.0,) * x.shape[1], _logit(rate), len(y))
        solution = _solve((x - center) / scale, y, w, rising)
        return cls(as_tuple(center), as_tuple(scale), as_tuple(solution[1:]), float(solution[0]), len(y))

    @classmethod
    def guess(cls) -> Self:
        """For a model that came without a calibrator: the probability it gives to its own sequence."""
        weights = tuple(float(name == "sequence") for name in FEATURES)
        return cls((0.0,) * len(FEATURES), (1.0,) * len(FEATURES), weights, 0.0)

    def predict(self, features: FloatArray) -> FloatArray:
        """Score one draft ([d] -> []) or many ([n, d] -> [n]), inside (0, 1).

        Raises:
            ValueError: the last dimension is not the number of features, or a number is not finite.
        """
        x = np.asarray(features, dtype=np.float64)
        if x.shape[-1] != len(self.weights) or not np.isfinite(x).all():
            raise ValueError(f"features must be {len(self.weights)} finite numbers, got shape {x.shape}: {x}")
        u = ((x - self.center) / self.scale) @ np.asarray(self.weights) + self.intercept
        return np.asarray(np.clip(sigmoid(u), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self, names: Sequence[str] = FEATURES) -> str:
        """One JSON object that names its features, so an old file cannot be misread."""
        return json.dumps({"features": list(names), **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, names: Sequence[str] = FEATURES) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: not such a file, or fitted on other features.
        """
        try:
            data = loads(text)
            fitted_on = tuple(data["features"])
            vectors = {key: numbers(key, data[key]) for key in ("center", "scale", "weights")}
            intercept, samples = number("intercept", data["intercept"]), count("samples", data["samples"])
            made = cls(**vectors, intercept=intercept, samples=samples)
        except (ValueError, TypeError) as why:
            raise ValueError(f"not a calibrator: {why}") from why
        if fitted_on != tuple(names) or any(len(v) != len(names) for v in vectors.values()):
            raise ValueError(f"this calibrator was fitted on {fitted_on}, the program computes {tuple(names)}")
        return made


def ece(probabilities: FloatArray, correct: BoolArray, bins: int = 10, weights: FloatArray | None = None) -> float:
    """Expected calibration error over ``bins`` equal-width bins, in [0, 1]."""
    p, y, w = checked(probabilities, correct, weights)
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, w * (p - y), minlength=bins)
    return float(np.abs(gaps).sum() / w.sum())


def brier(probabilities: FloatArray, correct: BoolArray, weights: FloatArray | None = None) -> float:
    """Mean squared error of the probabilities, in [0, 1]; 0 is perfect."""
    p, y, w = checked(probabilities, correct, weights)
    return float(np.average((p - y) ** 2, weights=w))


def auroc(scores: FloatArray, correct: BoolArray, weights: FloatArray | None = None) -> float:
    """P(a correct draft scores above a wrong one), ties half; 0.5 where one class is missing."""
    s, y, w = checked(scores, correct, weights)
    values, index = np.unique(s, return_inverse=True)
    right = np.bincount(index, w * y, minlength=len(values))
    wrong = np.bincount(index, w * (1.0 - y), minlength=len(values))
    pairs = right.sum() * wrong.sum()
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / pairs) if pairs else 0.5


def _solve(x: FloatArray, y: FloatArray, w: FloatArray, rising: Sequence[bool]) -> FloatArray:
    """Minimise the weighted logistic loss plus the ridge, rising weights held >= 0: [intercept, weights]."""
    from scipy.optimize import minimize  # noqa: PLC0415  (fitting is rare; serving must not wait for this import)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        u = theta[0] + x @ theta[1:]
        error = w * (sigmoid(u) - y)
        value = (w * (np.logaddexp(0.0, u) - y * u)).sum() + RIDGE / 2 * (theta[1:] ** 2).sum()
        slope = np.concatenate([[error.sum()], x.T @ error + RIDGE * theta[1:]])
        return float(value), slope

    bounds = [(None, None), *((0.0 if up else None, None) for up in rising)]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, dtype=np.float64)


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))
