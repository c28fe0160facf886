"""Helpers shared by the NumPy backends: blocks of rows, and row vectors that may have one entry for all rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softmax_ce.tuning import NUMPY_BLOCK_ELEMENTS

# The scratch that a row needs beside its classes, in elements: several float64 numbers.
_ROW = 16


def step_of(start: int, stop: int, classes: int, block: int = NUMPY_BLOCK_ELEMENTS) -> int:
    """Return the rows of a block, at least 1: [start, stop) is cut into even parts of about `block` elements."""
    rows = stop - start
    parts = round(rows * (classes + _ROW) / block)
    return -(-rows // parts) if parts > 1 else max(1, rows)


def row_blocks(start: int, stop: int, classes: int, block: int = NUMPY_BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yield slices of :func:`step_of` rows that cover rows [start, stop)."""
    step = step_of(start, stop, classes, block)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def rows_of(vector: Any, rows: slice) -> Any:
    """Return the entries of a row vector for a block of rows. A single entry stands for every row."""
    return vector if len(vector) == 1 else vector[rows]
