"""Arrays as rows of classes: a view if the kernels can read it, else blocks copied to a scratch and back.

This one mechanism serves every array that a kernel cannot read in place: another class axis, strides, byte order,
alignment, float16, bfloat16 or integers. Each thread copies one block at a time; the whole array is never copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from softmax_ce import halves
from softmax_ce.contract import ROW_AXES
from softmax_ce.dtypes import is_bfloat16


class Rows:
    """An array viewed as (n_rows, n_classes) in the compute dtype.

    Parameters
    ----------
    array : ndarray
        At least 1-D.
    axis : int
        The class axis, already normalised to [0, ndim).
    dtype : dtype
        The compute dtype.
    copy : bool
        Stage blocks even if a view would do.
    narrow : bool
        Strided kernels can write float32 where the compute dtype is float64.

    Attributes
    ----------
    direct : ndarray or None
        The 2-D view that a kernel may use in place; None if blocks must be staged.
    strided : ndarray or None
        The view (..., C) that a strided kernel may use in place; None if there is none.
    """

    __slots__ = ("_dtype", "_format", "_view", "direct", "n_classes", "n_rows", "strided")

    def __init__(self, array: Any, axis: int, dtype: np.dtype[Any], copy: bool = False, narrow: bool = False) -> None:
        array = np.asarray(array)  # a subclass may give * or shapes another meaning, as numpy.matrix does
        last = axis == array.ndim - 1
        self._dtype = dtype
        self.n_classes = array.shape[axis]
        self.n_rows = array.size // self.n_classes
        flags = array.flags
        self._format = None  # the dtype of 16-bit floats, which are copied as bits and cast block by block
        if last and not copy and array.dtype == dtype and flags.c_contiguous and flags.aligned:
            self.direct = array if array.ndim == 2 else array.reshape(self.n_rows, self.n_classes)
            self._view = self.strided = self.direct
        else:
            self.direct = None
            self._view = _merge_leading(array if last else np.moveaxis(array, axis, -1))
            is_half = array.itemsize == 2 and array.dtype.kind in "fV" and array.dtype.isnative and dtype == np.float32
            can_narrow = narrow and array.dtype == np.float32
            fits = (is_half or can_narrow or array.dtype == dtype) and flags.aligned and self._view.ndim <= ROW_AXES + 1
            self.strided = self._view if fits else None
            if is_half:
                self._format = array.dtype
                self._view = self._view.view(np.uint16)

    def blocks(self, start: int, stop: int, elements: int) -> Iterator[tuple[int, int]]:
        """Yield ranges that cover rows [start, stop), each of about so many elements and at least one row.

        Ranges end where an inner axis of the array does, so that nearly every range is one box of the array.
        """
        step, span = self._steps(elements)
        while start < stop:
            offset = start % span
            last = min(start - offset + min(offset - offset % step + step, span), stop)
            yield start, last
            start = last

    def scratch(self, n_rows: int) -> Any:
        """Return a scratch that blocks of up to `n_rows` rows can reuse; None for a view."""
        return None if self.direct is not None else np.empty(n_rows * self.n_classes, self._dtype)

    def load(self, start: int, stop: int, widen: Any = None, scratch: Any = None) -> Any:
        """Return rows [start, stop) as a contiguous block in the compute dtype: a view, or a copy in the scratch."""
        if self.direct is not None:
            return self.direct[start:stop]
        block = self.block(start, stop, scratch)
        with np.errstate(all="ignore"):
            if self._format is None:
                self._gather(start, stop, block)
                return block
            bits, wide = self._bits(start, stop), block.reshape(-1)
            if bits is None:
                bits = np.empty(block.size, np.uint16)
                self._gather(start, stop, bits.reshape(block.shape))
            if widen is not None:
                widen(bits, wide, is_bfloat16(self._format))
            elif is_bfloat16(self._format):
                np.copyto(wide, bits.view(self._format))
            else:
                halves.widen(bits, wide)
        return block

    def block(self, start: int, stop: int, scratch: Any = None) -> Any:
        """Return a block in which to compute rows [start, stop): the rows themselves, or scratch for :meth:`store`."""
        if self.direct is not None:
            return self.direct[start:stop]
        shape = stop - start, self.n_classes
        if scratch is None:
            return np.empty(shape, self._dtype)
        return scratch[: shape[0] * shape[1]].reshape(shape)

    def store(self, start: int, stop: int, block: Any, narrow: Any = None) -> None:
        """Write a computed :meth:`block` to the array. The block is overwritten. A view needs no write."""
        if self.direct is not None:
            return
        with np.errstate(all="ignore"):
            if self._format is None:
                self._scatter(start, stop, block)
                return
            place = self._bits(start, stop)
            bits = np.empty(block.size, np.uint16) if place is None else place
            if narrow is not None:
                narrow(block.reshape(-1), bits, is_bfloat16(self._format))
            elif is_bfloat16(self._format):
                np.copyto(bits.view(self._format), block.reshape(-1))
            else:
                halves.narrow(block.reshape(-1), bits)
            if place is None:
                self._scatter(start, stop, bits.reshape(block.shape))

    def _bits(self, start: int, stop: int) -> Any:
        """Return the bits of rows [start, stop) of 16-bit floats as one vector, or None if they are not contiguous."""
        view = self._view
        if view.ndim != 2 or not view.flags.c_contiguous or not view.flags.aligned:
            return None
        return view[start:stop].reshape(-1)

    def _gather(self, start: int, stop: int, block: Any) -> None:
        for part, rows in self._boxes(start, stop):
            np.copyto(block[rows].reshape(part.shape), part)

    def _scatter(self, start: int, stop: int, block: Any) -> None:
        for part, rows in self._boxes(start, stop):
            np.copyto(part, block[rows].reshape(part.shape))

    def _steps(self, elements: int) -> tuple[int, int]:
        """Return the rows of a block, and the rows of the axis that blocks divide.

        A block is whole inner axes and an even share of the next axis; at the end of that axis, a new block begins.
        """
        most, unit = max(1, elements // self.n_classes), 1
        for length in reversed(self._view.shape[:-1]):
            if unit * length > most:
                pieces = -(-length // (most // unit))
                return unit * -(-length // pieces), unit * length
            unit *= length
        return unit, unit

    def _boxes(self, start: int, stop: int) -> Iterator[tuple[Any, slice]]:
        """Yield the parts (..., classes) of the array for rows [start, stop), each with its place in the block."""
        row = 0
        for box in _cut(self._view.shape[:-1], start, stop):
            part = self._view[box]
            count = part.size // self.n_classes
            yield part, slice(row, row + count)
            row += count


def _cut(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[slice, ...]]:
    """Yield the boxes, one slice for each axis, that cover entries [start, stop) of an array: as few as possible."""
    if len(shape) == 1:
        yield (slice(start, stop),)
        return
    inner = math.prod(shape[1:])
    first, head = divmod(start, inner)
    last, tail = divmod(stop, inner)
    if head:
        for box in _cut(shape[1:], head, inner if first < last else tail):
            yield slice(first, first + 1), *box
        if first == last:
            return
        first += 1
    if first < last:
        yield slice(first, last), *(slice(length) for length in shape[1:])
    if tail:
        for box in _cut(shape[1:], 0, tail):
            yield slice(last, last + 1), *box


def _merge_leading(view: Any) -> Any:
    """Return the view (..., C), at least 2-D, with adjacent leading axes merged if one stride covers both."""
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
    # The new shape only merges axes, so the elements and their order are those of the view.
    return as_strided(view, (*shape, view.shape[-1]), (*strides, view.strides[-1]))
