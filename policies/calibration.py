"""From features to a probability: s = P(draft correct), and how well such probabilities hold.

``Calibrator`` is a logistic regression on standardised features whose weights on confidence features are
non-negative: making any token of a draft more probable never lowers its score. It belongs to one
version of the weights and is published with them; predicting needs numpy alone. ``ece``, ``brier`` and ``auroc``
measure it. ``weights`` are importance weights (1 / propensity), so a log of offloads and audits is unbiased.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.score import FEATURES, RISING, FloatArray

BoolArray = npt.NDArray[np.bool_]

EDGE = 1e-6  # scores stay inside (0, 1): a threshold of 1 is then cloud-only and 0 edge-only, exactly
RIDGE = 1.0  # unit Gaussian prior on standardised weights: 50 labelled drafts are enough not to overfit
FLAT = 1e-9  # a feature that varies less than this is a constant and gets no weight


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
        if not np.isfinite(numbers).all() or min(self.scale, default=1.0) <= 0:
            raise ValueError(f"a calibrator's numbers must be finite and its scales > 0, got {self}")

    @classmethod
    def fit(cls, features: FloatArray, correct: BoolArray, weights: FloatArray | None = None) -> Self:
        """Fit on labelled drafts: features [n, d], correct [n], importance weights [n].

        With one class only there is nothing to separate: the result is the constant
        (weighted successes + 1) / (n + 2).

        Raises:
            ValueError: shapes disagree, nothing was given, or a number is not finite.
        """
        x, y, w = _checked(features, correct, weights)
        w = w / w.mean()
        center = np.average(x, axis=0, weights=w)
        scale = np.sqrt(np.average((x - center) ** 2, axis=0, weights=w))
        scale = np.where(scale > FLAT, scale, 1.0)
        if y.all() or not y.any():
            rate = (float((w * y).sum()) + 1.0) / (len(y) + 2.0)
            return cls(_tuple(center), _tuple(scale), (0.0,) * x.shape[1], _logit(rate), len(y))
        solution = _solve((x - center) / scale, y, w)
        return cls(_tuple(center), _tuple(scale), _tuple(solution[1:]), float(solution[0]), len(y))

    @classmethod
    def guess(cls) -> Self:
        """For a model that came without a calibrator: an even chance at a mean token probability of 0.6."""
        zeros = (0.0,) * len(FEATURES)
        weights = tuple(4.0 if name == "mean" else 0.0 for name in FEATURES)
        return cls(zeros, (1.0,) * len(FEATURES), weights, 2.0)

    def predict(self, features: FloatArray) -> FloatArray:
        """Score one draft ([d] -> []) or many ([n, d] -> [n]), inside (0, 1).

        Raises:
            ValueError: the last dimension is not the number of features, or a number is not finite.
        """
        x = np.asarray(features, dtype=np.float64)
        if x.shape[-1] != len(self.weights) or not np.isfinite(x).all():
            raise ValueError(f"features must be {len(self.weights)} finite numbers, got shape {x.shape}: {x}")
        u = ((x - self.center) / self.scale) @ np.asarray(self.weights) + self.intercept
        return np.asarray(np.clip(_sigmoid(u), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self) -> str:
        """One JSON object that names its features, so an old file cannot be misread."""
        return json.dumps({"features": list(FEATURES), **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: not such a file, or fitted on other features.
        """
        try:
            data = dict(json.loads(text))
            names = tuple(data.pop("features"))
            vectors = {key: tuple(map(float, data.pop(key))) for key in ("center", "scale", "weights")}
            made = cls(**vectors, intercept=float(data.pop("intercept")), samples=int(data.pop("samples")))
        except (ValueError, LookupError, TypeError) as why:
            raise ValueError(f"not a calibrator: {why!r}") from why
        if names != FEATURES or any(len(v) != len(FEATURES) for v in vectors.values()):
            raise ValueError(f"this calibrator was fitted on {names}, the program computes {FEATURES}")
        return made


def ece(probabilities: FloatArray, correct: BoolArray, bins: int = 10, weights: FloatArray | None = None) -> float:
    """Expected calibration error over ``bins`` equal-width bins, in [0, 1]."""
    p, y, w = _checked(probabilities, correct, weights)
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, w * (p - y), minlength=bins)
    return float(np.abs(gaps).sum() / w.sum())


def brier(probabilities: FloatArray, correct: BoolArray, weights: FloatArray | None = None) -> float:
    """Mean squared error of the probabilities, in [0, 1]; 0 is perfect."""
    p, y, w = _checked(probabilities, correct, weights)
    return float(np.average((p - y) ** 2, weights=w))


def auroc(scores: FloatArray, correct: BoolArray, weights: FloatArray | None = None) -> float:
    """P(a correct draft scores above a wrong one), ties half; 0.5 where one class is missing."""
    s, y, w = _checked(scores, correct, weights)
    values, index = np.unique(s, return_inverse=True)
    right = np.bincount(index, w * y, minlength=len(values))
    wrong = np.bincount(index, w * (1.0 - y), minlength=len(values))
    pairs = right.sum() * wrong.sum()
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / pairs) if pairs else 0.5


def _checked(
    x: FloatArray, correct: BoolArray, weights: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(x) == len(y) == len(w) or len(y) == 0:
        raise ValueError(f"need as many rows as labels as weights and at least one: {len(x)}, {len(y)}, {len(w)}")
    for name, array in (("features", x), ("correct", y), ("weights", w)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
    if (w < 0).any() or w.sum() <= 0:
        raise ValueError("weights must be >= 0 and not all 0")
    return x, y, w


def _solve(x: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    """Minimise the weighted logistic loss plus the ridge, confidence weights held >= 0: [intercept, weights]."""
    from scipy.optimize import minimize  # noqa: PLC0415  (fitting is rare; serving must not wait for this import)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        u = theta[0] + x @ theta[1:]
        error = w * (_sigmoid(u) - y)
        value = (w * (np.logaddexp(0.0, u) - y * u)).sum() + RIDGE / 2 * (theta[1:] ** 2).sum()
        slope = np.concatenate([[error.sum()], x.T @ error + RIDGE * theta[1:]])
        return float(value), slope

    bounds = [(None, None), *((0.0 if rising else None, None) for rising in RISING)]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, dtype=np.float64)


def _sigmoid(u: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * u)), dtype=np.float64)


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def _tuple(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
