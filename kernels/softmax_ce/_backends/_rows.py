"""What the NumPy backends share: blocks of rows, and row vectors that may have one entry for all rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BLOCK = 32_768  # elements: 128 KiB of float32; a few scratch blocks and their input stay in an L2 of 1 MiB


def row_blocks(start: int, stop: int, classes: int) -> Iterator[slice]:
    """Slices that cover rows [start, stop), each of about _BLOCK elements and at least one row."""
    step = max(1, _BLOCK // classes)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def rows_of(vector: Any, rows: slice) -> Any:
    """A block of a row vector; one entry stands for every row."""
    return vector if len(vector) == 1 else vector[rows]
