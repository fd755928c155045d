"""From one raw score to a probability: Platt's sigmoid and isotonic regression.

A map never falls, belongs to one version of the weights, and with few labels stays near the map before it. Scores that
have features of their own are ``policies.calibration``'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np

from policies.calibration import EDGE
from policies.fitting import BoolArray, as_tuple, checked, few_numbers, sigmoid, standard
from policies.json_fields import count, loads, number, numbers
from policies.score import FloatArray

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
        s, y, w = checked(raw, correct, weights)
        w = w / w.mean()
        if prior is not None:
            u = prior.intercept + prior.slope * s
            shift, stretch = few_numbers(u[:, None], y, w, (0.0, 1.0), (SHIFT_SD, STRETCH_SD), (0.0,))
            return cls(shift + stretch * prior.intercept, stretch * prior.slope, prior.samples + len(y))
        center, scale = standard(s, w)
        z = ((s - center) / scale)[:, None]
        shift, stretch = few_numbers(z, _smoothed(y, w), w, (0.0, 0.0), (np.inf, 1.0), (0.0,))
        return cls(float(shift - stretch * center / scale), float(stretch / scale), len(y))

    def predict(self, raw: FloatArray) -> FloatArray:
        """See ``ScoreMap``."""
        u = self.intercept + self.slope * np.asarray(raw, dtype=np.float64)
        return np.asarray(np.clip(sigmoid(u), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self) -> str:
        """See ``ScoreMap``."""
        return json.dumps({"map": "platt", **asdict(self)})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the fields that ``to_json`` wrote."""
        intercept, slope = (number(name, data[name]) for name in ("intercept", "slope"))
        return cls(intercept, slope, count("samples", data["samples"]))


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

        s, y, w = checked(raw, correct, weights)
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
        return cls(as_tuple(knots[keep]), as_tuple(np.clip(fitted[keep], 0.0, 1.0)), samples)

    def predict(self, raw: FloatArray) -> FloatArray:
        """See ``ScoreMap``."""
        return np.asarray(np.clip(np.interp(raw, self.knots, self.values), EDGE, 1.0 - EDGE), dtype=np.float64)

    def to_json(self) -> str:
        """See ``ScoreMap``."""
        return json.dumps({"map": "isotonic", **asdict(self)})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the fields that ``to_json`` wrote."""
        knots, values = (numbers(name, data[name]) for name in ("knots", "values"))
        return cls(knots, values, count("samples", data["samples"]))


MAPS: dict[str, Callable[[dict[str, Any]], ScoreMap]] = {"platt": Platt.from_dict, "isotonic": Isotonic.from_dict}


def map_from_json(text: str) -> ScoreMap:
    """Read what a map's ``to_json`` wrote.

    Raises:
        ValueError: not such a file.
    """
    try:
        data = loads(text)
        return MAPS[data["map"]](data)
    except (ValueError, LookupError, TypeError) as why:
        raise ValueError(f"not a score map ({' or '.join(MAPS)}): {why}") from why


def _smoothed(y: FloatArray, w: FloatArray) -> FloatArray:
    """Platt's targets: (N+ + 1) / (N+ + 2) for correct, 1 / (N- + 2) for wrong; [n]."""
    right, wrong = float((w * y).sum()), float((w * (1.0 - y)).sum())
    return np.asarray(y * (right + 1.0) / (right + 2.0) + (1.0 - y) / (wrong + 2.0), dtype=np.float64)
