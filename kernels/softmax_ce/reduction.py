"""Reduce the row losses to one number. They are summed once, in a fixed order, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_ORDINARY = 1e38  # below it, a total fits into float32 without a flag
_ONE = {np.dtype(real): real(1) for real in (np.float32, np.float64)}
_DOWN = 2.0**-64  # scaled by this, the losses of any array sum without overflow

Total = Callable[[Any, float], float]  # as in the contract: the sum of a vector, divided by a number


def numpy_total(values: Any, divisor: float) -> float:
    """Return the sum of a vector divided by a number, for backends without a sum of their own."""
    if values.dtype.itemsize == 4:  # a sum of float32 cannot overflow float64
        return float(np.add.reduce(values, dtype=np.float64)) / divisor
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(values)) / divisor
        if not math.isfinite(total):  # the sum may overflow on the way where the result does not
            total = float(np.add.reduce(values * _DOWN)) / divisor / _DOWN
    return total


def mean(loss: Any, denominator: float, dtype: np.dtype[Any], total: Total = numpy_total) -> Any:
    """Return the sum of the row losses divided by the denominator, as a scalar of this dtype."""
    return rounded(total_of(loss, denominator, total), dtype)


def total_of(loss: Any, denominator: float, total: Total = numpy_total) -> float:
    """Return the sum of the row losses divided by the denominator. One row needs no sum."""
    return loss.item() / denominator if loss.size == 1 else total(loss, denominator)


def rounded(total: float, dtype: np.dtype[Any]) -> Any:
    """Return a float as a scalar of this dtype. If it is too large, it becomes infinite without a warning."""
    if abs(total) < _ORDINARY:
        return _ONE[dtype] * total  # a third of the time that the type itself takes to make a scalar of a float
    with np.errstate(over="ignore"):
        return dtype.type(total)
