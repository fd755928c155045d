"""From features to a probability: s = P(draft correct), and how well such probabilities hold.

``Calibrator`` is a logistic regression on standardised features whose weights on confidence features are
non-negative: making any token of a draft more probable never lowers its score. It belongs to one
version of the weights and is published with them; predicting needs numpy alone. ``Platt`` and ``Isotonic`` map
one raw score to a probability (``ScoreMap``). ``ece``, ``brier`` and ``auroc`` measure them. ``weights`` are importance
weights (1 / propensity), so a log of offloads and audits is unbiased.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from policies.score import FEATURES, RISING, FloatArray

BoolArray = npt.NDArray[np.bool_]

EDGE = 1e-6  # scores stay inside (0, 1): a threshold of 1 is then cloud-only and 0 edge-only, exactly
RIDGE = 1.0  # unit Gaussian prior on standardised weights: 50 labelled drafts are enough not to overfit
FLAT = 1e-9  # a feature that varies less than this is a constant and gets no weight
# Standard deviations of what new weights do to old log-odds: a shift of 1 moves 50 % to 73 %.
SHIFT_SD, STRETCH_SD = 1.0, 0.5
PRIOR_LABELS = 20.0  # labels that the prior map counts for in an isotonic fit


class ScoreMap(Protocol):
    """From a raw score to P(draft correct), never falling; belongs to one version of the weights.

    ``samples`` is how many labelled drafts it was fitted on.
    """

    @property
    def samples(self) -> int:
        """0 says that it is only a stated guess."""
        ...

    def predict(self, raw: FloatArray) -> FloatArray:
        """Probabilities inside (0, 1), of the shape of ``raw``."""
        ...

    def to_json(self) -> str:
        """One JSON object, for ``map_from_json``."""
        ...


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
        x, y, w = _checked(features, correct, weights)
        w = w / w.mean()
        center, scale = _standard(x, w)
        if y.all() or not y.any():
            rate = (float((w * y).sum()) + 1.0) / (len(y) + 2.0)
            return cls(_tuple(center), _tuple(scale), (0.0,) * x.shape[1], _logit(rate), len(y))
        solution = _solve((x - center) / scale, y, w, rising)
        return cls(_tuple(center), _tuple(scale), _tuple(solution[1:]), float(solution[0]), len(y))

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
        return np.asarray(np.clip(_sigmoid(u), EDGE, 1.0 - EDGE), dtype=np.float64)

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
            data = dict(json.loads(text))
            fitted_on = tuple(data.pop("features"))
            vectors = {key: tuple(map(float, data.pop(key))) for key in ("center", "scale", "weights")}
            made = cls(**vectors, intercept=float(data.pop("intercept")), samples=int(data.pop("samples")))
        except (ValueError, LookupError, TypeError) as why:
            raise ValueError(f"not a calibrator: {why!r}") from why
        if fitted_on != tuple(names) or any(len(v) != len(names) for v in vectors.values()):
            raise ValueError(f"this calibrator was fitted on {fitted_on}, the program computes {tuple(names)}")
        return made


@dataclass(frozen=True, slots=True)
class Platt:
    """P(correct) = sigmoid(intercept + slope * raw), slope >= 0."""

    intercept: float
    slope: float
    samples: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.intercept) and np.isfinite(self.slope) and self.slope >= 0):
            raise ValueError(f"Platt needs a finite intercept and a finite slope >= 0, got {self}")

    @classmethod
    def fit(
        cls,
        raw: FloatArray,
        correct: BoolArray | FloatArray,
        weights: FloatArray | None = None,
        prior: Platt | None = None,
    ) -> Self:
        """Fit on labelled drafts: raw [n], correct or P(correct) [n], importance weights [n].

        With a prior, its log-odds are shifted and stretched, both pulled towards "as before" (``SHIFT_SD``,
        ``STRETCH_SD``), so few labels move it little. Without one, labels are Platt's smoothed ones, and the slope over
        standardised scores has a unit Gaussian prior at 0.

        Raises:
            ValueError: shapes disagree, nothing was given, or a number is not finite.
        """
        s, y, w = _checked(raw, correct, weights)
        w = w / w.mean()
        if prior is not None:
            u = prior.intercept + prior.slope * s
            shift, stretch = _two_numbers(u, y, w, at=(0.0, 1.0), sd=(SHIFT_SD, STRETCH_SD))
            return cls(shift + stretch * prior.intercept, stretch * prior.slope, prior.samples + len(y))
        center, scale = _standard(s, w)
        shift, stretch = _two_numbers((s - center) / scale, _smoothed(y, w), w, at=(0.0, 0.0), sd=(np.inf, 1.0))
        return cls(float(shift - stretch * center / scale), float(stretch / scale), len(y))

    def predict(self, raw: FloatArray) -> FloatArray:
        """See ``ScoreMap``."""
        u = self.intercept + self.slope * np.asarray(raw, dtype=np.float64)
        return np.asarray(np.clip(_sigmoid(u), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self) -> str:
        """See ``ScoreMap``."""
        return json.dumps({"map": "platt", **asdict(self)})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the fields that ``to_json`` wrote."""
        return cls(float(data["intercept"]), float(data["slope"]), int(data["samples"]))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """P(correct) as a non-decreasing, piecewise linear function: ``values`` at ``knots``, constant outside."""

    knots: tuple[float, ...]
    values: tuple[float, ...]
    samples: int = 0

    def __post_init__(self) -> None:
        x, p = np.array(self.knots), np.array(self.values)
        if not (len(x) == len(p) > 0 and np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise ValueError(f"isotonic knots must be finite, rising and as many as values, got {self}")
        if not (((p >= 0) & (p <= 1)).all() and (np.diff(p) >= 0).all()):
            raise ValueError(f"isotonic values must be probabilities that never fall, got {self}")

    @classmethod
    def fit(
        cls,
        raw: FloatArray,
        correct: BoolArray | FloatArray,
        weights: FloatArray | None = None,
        prior: ScoreMap | None = None,
    ) -> Self:
        """Fit on labelled drafts: raw [n], correct or P(correct) [n], importance weights [n].

        The prior (without one: the smoothed share of correct drafts) counts like ``PRIOR_LABELS`` more labels, spread
        over the same raw scores; so a few labels leave it nearly as it was and no value is 0 or 1.

        Raises:
            ValueError: shapes disagree, nothing was given, or a number is not finite.
        """
        from scipy.optimize import isotonic_regression  # noqa: PLC0415  (fitting is rare; serving needs no scipy)

        s, y, w = _checked(raw, correct, weights)
        w = w / w.mean()
        rate = ((w * y).sum() + 1.0) / (len(y) + 2.0)
        believed = np.full(len(y), rate) if prior is None else prior.predict(s)
        pseudo = PRIOR_LABELS / len(y)
        knots, place = np.unique(s, return_inverse=True)
        mass = np.bincount(place, w + pseudo)
        target = np.bincount(place, w * y + pseudo * believed) / mass
        fitted = isotonic_regression(target, weights=mass).x
        keep = np.ones(len(knots), dtype=bool)  # the ends of each step suffice
        keep[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
        samples = len(y) + (prior.samples if prior else 0)
        return cls(_tuple(knots[keep]), _tuple(np.clip(fitted[keep], 0.0, 1.0)), samples)

    def predict(self, raw: FloatArray) -> FloatArray:
        """See ``ScoreMap``."""
        return np.asarray(np.clip(np.interp(raw, self.knots, self.values), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self) -> str:
        """See ``ScoreMap``."""
        return json.dumps({"map": "isotonic", **asdict(self)})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the fields that ``to_json`` wrote."""
        return cls(tuple(map(float, data["knots"])), tuple(map(float, data["values"])), int(data["samples"]))


MAPS: dict[str, Callable[[dict[str, Any]], ScoreMap]] = {"platt": Platt.from_dict, "isotonic": Isotonic.from_dict}


def map_from_json(text: str) -> ScoreMap:
    """Read what a map's ``to_json`` wrote.

    Raises:
        ValueError: not such a file.
    """
    try:
        data = dict(json.loads(text))
        return MAPS[data["map"]](data)
    except (ValueError, LookupError, TypeError) as why:
        raise ValueError(f"not a score map ({' or '.join(MAPS)}): {why!r}") from why


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
    x: FloatArray, correct: BoolArray | FloatArray, weights: FloatArray | None
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


def _standard(x: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and standard deviation over rows; 1 for what does not vary."""
    center = np.asarray(np.average(x, axis=0, weights=w))
    scale = np.sqrt(np.average((x - center) ** 2, axis=0, weights=w))
    return center, np.where(scale > FLAT, scale, 1.0)


def _smoothed(y: FloatArray, w: FloatArray) -> FloatArray:
    """Platt's targets: (N+ + 1) / (N+ + 2) for correct, 1 / (N- + 2) for wrong; [n]."""
    right, wrong = float((w * y).sum()), float((w * (1.0 - y)).sum())
    return np.asarray(y * (right + 1.0) / (right + 2.0) + (1.0 - y) / (wrong + 2.0), dtype=np.float64)


def _two_numbers(
    u: FloatArray, y: FloatArray, w: FloatArray, at: tuple[float, float], sd: tuple[float, float]
) -> tuple[float, float]:
    """Shift and stretch >= 0 of sigmoid(shift + stretch * u), most probable under Gaussian priors at ``at``."""
    from scipy.optimize import minimize  # noqa: PLC0415  (fitting is rare; serving must not wait for this import)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        v = theta[0] + theta[1] * u
        error, away = w * (_sigmoid(v) - y), (theta - at) / sd
        value = (w * (np.logaddexp(0.0, v) - y * v)).sum() + (away**2).sum() / 2
        return float(value), np.array([error.sum(), error @ u]) + away / sd

    found = minimize(loss, np.array(at), jac=True, method="L-BFGS-B", bounds=[(None, None), (0.0, None)])
    return float(found.x[0]), float(found.x[1])


def _solve(x: FloatArray, y: FloatArray, w: FloatArray, rising: Sequence[bool]) -> FloatArray:
    """Minimise the weighted logistic loss plus the ridge, rising weights held >= 0: [intercept, weights]."""
    from scipy.optimize import minimize  # noqa: PLC0415  (fitting is rare; serving must not wait for this import)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        u = theta[0] + x @ theta[1:]
        error = w * (_sigmoid(u) - y)
        value = (w * (np.logaddexp(0.0, u) - y * u)).sum() + RIDGE / 2 * (theta[1:] ** 2).sum()
        slope = np.concatenate([[error.sum()], x.T @ error + RIDGE * theta[1:]])
        return float(value), slope

    bounds = [(None, None), *((0.0 if up else None, None) for up in rising)]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, dtype=np.float64)


def _sigmoid(u: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * u)), dtype=np.float64)


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def _tuple(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
