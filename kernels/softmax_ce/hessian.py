"""The diagonal of the Hessian for backends that have no kernel for it, from the softmax of their hard-label kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce.contract import Backend
from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_ROW


def compose(backend: Backend, x: Any, total: Any, z_loss: float, gain: Any, counts: Any, out: Any, room: Any) -> None:
    """Compute gain * ((total + 2 * z_loss * lse) * p * (1 - p) + 2 * z_loss * p**2) for a block of rows.

    Parameters
    ----------
    backend : Backend
    x : ndarray, shape (n, C)
        The logits, contiguous, in the compute dtype.
    total : float or ndarray, shape (n,)
        The sum a_i of each row's targets, float64.
    z_loss : float
    gain : ndarray, shape (n,) or (1,)
        The row weight times the upstream gradient, float64.
    counts : ndarray of bool, shape (n,), or None
        Which rows count; None if all do.
    out, room : ndarray, shape (n, C)
        The result, and a scratch. Neither shares memory with `x`.
    """
    n_rows, dtype = len(x), x.dtype
    row_max, log_sum = np.empty(n_rows, dtype), np.empty(n_rows, dtype)
    backend.hard(
        x, NO_LABEL, -1, NO_MASS[dtype], None, 1.0, 0.0, ONE_ROW, ONE_ROW, None, out, row_max, log_sum, 0, n_rows
    )
    with np.errstate(all="ignore"):
        np.subtract(1, out, out=room)
        if backend.info.stable:  # else log_sum is not about the maximum
            _complement_of_large(out, log_sum, room)
        factor = gain * (total + 2 * z_loss * (row_max.astype(np.float64) + log_sum) if z_loss else total)
        room *= out
        if z_loss:
            room *= _column(factor, dtype)
            out *= out
            out *= _column(gain * (2 * z_loss), dtype)
            out += room
        else:
            np.multiply(room, _column(factor, dtype), out=out)
    if counts is not None:
        out[~counts] = 0


def _complement_of_large(p: Any, log_sum: Any, room: Any) -> None:
    """Replace 1 - p by 1 - exp(-log_sum) for p > 1/2, where it would cancel. That is the row's maximum."""
    at = np.flatnonzero(p > 0.5)
    room.reshape(-1)[at] = -np.expm1(-log_sum[at // p.shape[1]])


def _column(factor: Any, dtype: np.dtype[Any]) -> Any:
    return np.atleast_1d(factor).astype(dtype)[:, None]


def row_totals(targets: Any, scale: Any, base_total: float, room: Any) -> Any:
    """Return the sum of each row of targets, scaled, plus that of what smoothing adds. `room` is overwritten."""
    with np.errstate(all="ignore"):
        if scale.size == 1:
            total = np.add.reduce(targets, axis=1).astype(np.float64) * float(scale.item())
        else:
            total = np.add.reduce(np.multiply(targets, scale, out=room), axis=1).astype(np.float64)
        return total + base_total
