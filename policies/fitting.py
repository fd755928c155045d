"""What fits of scores share: checked arrays, standardising, the logistic function, a few numbers on log-odds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policies.score import FloatArray

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

FLAT = 1e-9  # a feature that varies less than this is a constant and gets no weight


def checked(
    x: FloatArray, correct: BoolArray | FloatArray, weights: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Features, labels and weights as floats.

    Raises:
        ValueError: shapes disagree, nothing was given, or a number is not finite.
    """
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


def standard(x: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and standard deviation over rows; 1 for what does not vary."""
    center = np.asarray(np.average(x, axis=0, weights=w))
    scale = np.sqrt(np.average((x - center) ** 2, axis=0, weights=w))
    return center, np.where(scale > FLAT, scale, 1.0)


def few_numbers(
    x: FloatArray, y: FloatArray, w: FloatArray, at: Sequence[float], sd: Sequence[float], floor: Sequence[float]
) -> tuple[float, ...]:
    """Shift and slopes of sigmoid(shift + x @ slopes), most probable under Gaussian priors of spread ``sd`` at ``at``.

    Args:
        x: [n, k].
        y, w: labels in [0, 1] and how often each counts, [n].
        at, sd: of the shift and of each slope, [k + 1].
        floor: no slope falls below it, [k].
    """
    from scipy.optimize import minimize  # noqa: PLC0415  (fitting is rare; serving must not wait for this import)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        v = theta[0] + x @ theta[1:]
        error, away = w * (sigmoid(v) - y), (theta - at) / sd
        value = (w * (np.logaddexp(0.0, v) - y * v)).sum() + (away**2).sum() / 2
        return float(value), np.array([error.sum(), *(error @ x)]) + away / sd

    bounds = [(None, None), *((least, None) for least in floor)]
    return as_tuple(minimize(loss, np.array(at), jac=True, method="L-BFGS-B", bounds=bounds).x)


def sigmoid(u: FloatArray) -> FloatArray:
    """1 / (1 + e^-u), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * u)), dtype=np.float64)


def as_tuple(values: FloatArray) -> tuple[float, ...]:
    """An array as a frozen record holds it."""
    return tuple(float(v) for v in values)
