"""Whether the label of each row is its first maximum, from what a kernel has found out about the row."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce.problem import counted
from softmax_ce.tuning import STAGED_ELEMENTS

_SURE = 0.69  # less than log 2. Two equal maxima alone give a sum of 2, so below this there is one maximum


def mark(logits: Any, start: int, labels: Any, ignore_index: int, row_max: Any, log_sum: Any, out: Any) -> None:
    """Write to `out` whether each label is what numpy.argmax gives for its row. It is False for a label ignored.

    Most rows need one comparison: the label's logit with the row's maximum, which the kernel has. Only if they are
    equal, and the maximum has no more than half of the probability, may there be an earlier one.

    Parameters
    ----------
    logits : ndarray, shape (..., C)
        Of any strides, with the rows in C order. They have the value of the kernel's logits, in any dtype.
    start : int
        The row of `logits` that the first label belongs to.
    labels : ndarray of int64, shape (n,)
    ignore_index : int
    row_max, log_sum : ndarray, shape (n,)
        From the kernel, in the compute dtype.
    out : ndarray of bool, shape (n,)
    """
    y, counts = counted(labels, logits.shape[-1], ignore_index)
    at = np.unravel_index(np.arange(start, start + len(y)), logits.shape[:-1])
    dtype = row_max.dtype
    with np.errstate(all="ignore"):
        np.equal(logits[*at, y].astype(dtype, copy=False), row_max, out=out)
        out &= counts
        unsure = np.flatnonzero(out & ~((log_sum < _SURE) & np.isfinite(row_max)))
        step = max(1, STAGED_ELEMENTS // logits.shape[-1])
        for first in range(0, len(unsure), step):
            rows = unsure[first : first + step]
            block = logits[tuple(index[rows] for index in at)].astype(dtype, copy=False)
            out[rows] = block.argmax(1) == y[rows]
