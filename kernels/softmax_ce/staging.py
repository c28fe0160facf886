"""Arrays as rows of classes: a view where the kernels can read them, else blocks copied to a scratch and back.

One mechanism for every input a kernel cannot read in place: another class axis, strides, byte order,
alignment, float16, bfloat16, integers. At most one block per thread is copied at a time, never the array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is ml_dtypes' bfloat16, told by name so that ml_dtypes need not be installed."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def compute_dtype(dtype: np.dtype[Any], name: str = "logits") -> np.dtype[Any]:
    """The native dtype in which logits of this dtype are computed; `name` is what the caller knows them by.

    Raises
    ------
    TypeError
        Complex, object, bool, longdouble or non-numeric logits.
    """
    if dtype.kind == "f" and 2 <= dtype.itemsize <= 8:  # ml_dtypes' 8-bit floats are of that kind too
        return _FLOAT64 if dtype.itemsize == 8 else _FLOAT32
    if dtype.kind in "iu":
        return _FLOAT64
    if is_bfloat16(dtype):
        return _FLOAT32
    raise TypeError(
        f"{name} of dtype {dtype} are not supported; allowed: float16, bfloat16, float32, float64 and integers"
    )


def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a gradient or softmax for logits of this dtype: the same, or float64 for integers."""
    return _FLOAT64 if dtype.kind in "iu" else dtype.newbyteorder("=")


class Rows:
    """An array seen as (n_rows, n_classes) in the compute dtype.

    Parameters
    ----------
    array : ndarray
        At least 1-D.
    axis : int
        The class axis, already normalised to [0, ndim).
    dtype : dtype
        The compute dtype.
    copy : bool
        Stage even where a view would do.

    Attributes
    ----------
    direct : ndarray or None
        The 2-D view that a kernel may use in place; None when blocks must be staged.
    """

    __slots__ = ("_dtype", "_halves", "_is_bfloat16", "_view", "direct", "n_classes", "n_rows")

    def __init__(self, array: Any, axis: int, dtype: np.dtype[Any], copy: bool = False) -> None:
        array = np.asarray(array)  # a subclass may mean something else by * or by a shape, as numpy.matrix does
        last = axis == array.ndim - 1
        self._dtype = dtype
        self.n_classes = array.shape[axis]
        self.n_rows = array.size // self.n_classes
        flags = array.flags
        self._halves = None
        if last and not copy and array.dtype == dtype and flags.c_contiguous and flags.aligned:
            self.direct = array if array.ndim == 2 else array.reshape(self.n_rows, self.n_classes)
            self._view = self.direct
        else:
            self.direct = None
            self._view = _merge_leading(array if last else np.moveaxis(array, axis, -1))
            half = array.itemsize == 2 and array.dtype.kind in "fV" and array.dtype.isnative and dtype == _FLOAT32
            if half and last and flags.c_contiguous and flags.aligned:
                # Contiguous 16-bit floats, as the bits that a backend's own casts take.
                self._halves = array.ravel().view(np.uint16)
                self._is_bfloat16 = is_bfloat16(array.dtype)

    def load(self, start: int, stop: int, widen: Any = None) -> Any:
        """Rows [start, stop) as a contiguous block in the compute dtype: a view, or a copy."""
        if self.direct is not None:
            return self.direct[start:stop]
        block = np.empty((stop - start, self.n_classes), self._dtype)
        if widen is not None and self._halves is not None:
            widen(self._halves[start * self.n_classes : stop * self.n_classes], block.ravel(), self._is_bfloat16)
            return block
        with np.errstate(all="ignore"):
            for part, place in self._parts(start, stop):
                np.copyto(block[place], part)
        return block

    def room(self, start: int, stop: int) -> Any:
        """Where to compute rows [start, stop): the rows themselves, or a scratch for :meth:`store`."""
        if self.direct is not None:
            return self.direct[start:stop]
        return np.empty((stop - start, self.n_classes), self._dtype)

    def store(self, start: int, stop: int, block: Any, narrow: Any = None) -> None:
        """Write back what was computed in :meth:`room`; nothing to do for a view."""
        if self.direct is not None:
            return
        if narrow is not None and self._halves is not None:
            narrow(block.ravel(), self._halves[start * self.n_classes : stop * self.n_classes], self._is_bfloat16)
            return
        with np.errstate(all="ignore"):
            for part, place in self._parts(start, stop):
                np.copyto(part, block[place])

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Any, slice]]:
        """Views (rows, classes) that make up rows [start, stop), with their place in the block."""
        *outer, inner = self._view.shape[:-1]
        row = start
        while row < stop:
            lead, first = divmod(row, inner)
            count = min(inner - first, stop - row)
            index = np.unravel_index(lead, outer) if outer else ()
            yield self._view[index][first : first + count], slice(row - start, row - start + count)
            row += count


def _merge_leading(view: Any) -> Any:
    """The view (..., C) with adjacent leading axes merged where one stride covers both; at least 2-D."""
    shape: list[int] = []
    strides: list[int] = []
    for length, stride in zip(view.shape[:-1], view.strides[:-1], strict=True):
        if length == 1:
            continue
        if shape and strides[-1] == length * stride:
            shape[-1] *= length
            strides[-1] = stride
        else:
            shape.append(length)
            strides.append(stride)
    if not shape:
        shape, strides = [1], [0]
    # Same elements as the view, in the same order: the new shape only merges axes of it.
    return as_strided(view, (*shape, view.shape[-1]), (*strides, view.strides[-1]))
