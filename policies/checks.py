"""Checks of numbers at the border of the pure maths: a wrong one is refused by name, never computed with."""

from __future__ import annotations

import math


def nonnegative(**values: float) -> None:
    """Raise ValueError naming the first value that is negative, infinite or not a number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def probability(**values: float) -> None:
    """Raise ValueError naming the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
