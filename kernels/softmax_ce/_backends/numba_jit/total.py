"""The sum of the losses. For small calls, NumPy's sum of float32 in float64 takes as long as the rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.memory import keep_alive, load, load_first, pointer
from softmax_ce._backends.numba_jit.vectors import filled, lanes_of, sum_lanes, widen

_SCALE_DOWN = 2.0**-64  # as in softmax_ce.reduction


@njit(error_model="numpy")
def _sum(p: Any, n: int, scale: float) -> float:
    """Return the sum of n entries, each times `scale`, in float64.

    C: _scaled_sum in short.pxi
    """
    w = lanes_of(p)
    total = widen(filled(p, 0.0))
    j = 0
    while j + w <= n:
        total = total + widen(load(p, j)) * scale
        j += w
    if j < n:
        total = total + widen(load_first(p, j, n - j, 0.0)) * scale
    return sum_lanes(total)


@njit(error_model="numpy")
def total_of(p: Any, n: int, divisor: float) -> float:
    """Return the sum of n entries, divided by `divisor`. If the sum overflows, each term is scaled first.

    C: _total in short.pxi
    """
    total = _sum(p, n, 1.0) / divisor
    if not np.isfinite(total):
        total = _sum(p, n, _SCALE_DOWN) / divisor / _SCALE_DOWN
    return total


def total_over(values: Any, divisor: float) -> float:
    """Return the sum of a vector, divided by `divisor`.

    C: _total in short.pxi
    """
    total = total_of(pointer(values), len(values), divisor)
    keep_alive(values)
    return total
