"""The row losses to one number: summed once, in a fixed order, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_ORDINARY = 1e38  # below it, a total fits into float32 without a flag


def mean(loss: Any, denominator: float, dtype: np.dtype[Any]) -> Any:
    """The rows' sum over the denominator, a scalar of this dtype."""
    if loss.size == 1:
        total = loss.item() / denominator
    elif loss.dtype.itemsize == 4:  # no sum of float32 overflows float64
        total = float(np.add.reduce(loss, dtype=np.float64)) / denominator
    else:
        total = _guarded(loss, denominator)
    return rounded(total, dtype)


def _guarded(loss: Any, denominator: float) -> float:
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(loss)) / denominator
        if math.isinf(total) and denominator > 1:  # the sum of finite losses may overflow where their mean does not
            total = float(np.add.reduce(loss / denominator))
    return total


def rounded(total: float, dtype: np.dtype[Any]) -> Any:
    """A float as a scalar of this dtype; too large, it becomes an infinity without a warning."""
    if abs(total) < _ORDINARY:
        return dtype.type(total)
    with np.errstate(over="ignore"):
        return dtype.type(total)
