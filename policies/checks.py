"""Checks of numbers at the border of the pure maths: a wrong one is refused by name, never computed with."""

from __future__ import annotations

import math

MOST = 1e9  # dollars or seconds: beyond is a mistake, and products of such numbers leave the range of a float


def nonnegative(**values: float) -> None:
    """Raise ValueError naming the first value that is negative, infinite or not a number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def amount(**values: float) -> None:
    """Raise ValueError naming the first value that is not a number from 0 to ``MOST``."""
    for name, value in values.items():
        if not 0.0 <= value <= MOST:
            raise ValueError(f"{name} must be a finite number >= 0 and <= {MOST:g}, got {value!r}")


def probability(**values: float) -> None:
    """Raise ValueError naming the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
