"""The three matrix products of a linear layer, in blocks, through NumPy's BLAS.

Arrays that BLAS can read where they are, are not copied. Others, and 16-bit floats, are converted a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from softmax_ce.staging import Rows


class Layer:
    """The layer's arrays, and its products in the compute dtype.

    Parameters
    ----------
    hidden : ndarray, shape (..., D)
    weight : ndarray, shape (C, D)
    bias : ndarray, shape (C,), or None
        In the compute dtype.
    dtype : dtype
        The compute dtype.
    columns : int
        The classes of a converted copy of the weight, or of a partial product for its gradient.
    """

    def __init__(self, hidden: Any, weight: Any, bias: Any, dtype: np.dtype[Any], columns: int) -> None:
        self._hidden, self._weight, self._bias, self._dtype = hidden, weight, bias, dtype
        self._columns = columns
        self._is_direct = _blas_reads(weight, dtype)
        self._rows = Rows(hidden, hidden.ndim - 1, dtype)
        self._part: Any = None  # a partial product, reused

    def hidden(self, rows: Any) -> Any:
        """Return rows of `hidden`, contiguous, in the compute dtype. `rows` is a slice or an array of indices."""
        return take(self._hidden, self._rows, rows, self._dtype)

    def logits(self, hidden: Any, first: int, stop: int, out: Any) -> None:
        """Write the logits of the classes [first, stop) for rows of `hidden`."""
        for begin, end, weight in self._blocks(first, stop):
            np.matmul(hidden, weight.T, out=out[:, begin - first : end - first])
        if self._bias is not None:
            out += self._bias[first:stop]

    def add_grad_hidden(self, grad: Any, first: int, stop: int, out: Any, is_first: bool) -> None:
        """Write, or add, the gradient by rows of `hidden`, from the logits' gradient at the classes [first, stop)."""
        for begin, end, weight in self._blocks(first, stop):
            part = grad[:, begin - first : end - first]
            if is_first:
                np.matmul(part, weight, out=out)
            else:
                out += np.matmul(part, weight)
            is_first = False

    def add_grad_weight(self, grad: Any, hidden: Any, first: int, stop: int, out: Any, is_first: bool) -> None:
        """Write, or add, the gradient by the weight of the classes [first, stop)."""
        if is_first:
            np.matmul(grad.T, hidden, out=out[first:stop])
            return
        if self._part is None:
            self._part = np.empty((self._columns, hidden.shape[1]), self._dtype)
        for begin in range(first, stop, self._columns):
            end = min(begin + self._columns, stop)
            part = self._part[: end - begin]
            np.matmul(grad[:, begin - first : end - first].T, hidden, out=part)
            out[begin:end] += part

    def _blocks(self, first: int, stop: int) -> Iterator[tuple[int, int, Any]]:
        """Yield the weight of ranges of classes: all at once if BLAS can read it, else a converted copy at a time."""
        if self._is_direct:
            yield first, stop, self._weight[first:stop]
            return
        for begin in range(first, stop, self._columns):
            end = min(begin + self._columns, stop)
            yield begin, end, Rows(self._weight[begin:end], 1, self._dtype).load(0, end - begin)


def take(array: Any, view: Rows, rows: Any, dtype: np.dtype[Any]) -> Any:
    """Return rows of an array (..., K), contiguous, in this dtype. `view` is the array as rows."""
    if isinstance(rows, slice):
        return view.load(rows.start, rows.stop)
    chosen = np.atleast_2d(array)[np.unravel_index(rows, np.atleast_2d(array).shape[:-1])]
    return Rows(chosen, 1, dtype).load(0, len(rows))


def _blas_reads(matrix: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether NumPy hands this matrix to BLAS without a copy."""
    if matrix.dtype != dtype or not matrix.flags.aligned:
        return False
    rows, columns = matrix.strides
    size = matrix.itemsize
    leading, length = (rows, matrix.shape[1]) if columns == size else (columns, matrix.shape[0])
    return (size in (rows, columns)) and leading % size == 0 and leading >= length * size
