"""What the NumPy backends share: blocks of rows, and row vectors that may have one entry for all rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Elements: a block makes some forty calls of NumPy, and after as many elements as fill the inner caches each costs 1 or
# 2 us, where an element costs 2 ns. Measured with 512 KiB of L2: with 32 K elements a call took 1.2 to 1.4 times as
# long, with 64 K 1.1 to 1.15 times, with 128 K 1.05 times, with 512 K as long.
_BLOCK = 1 << 18
_ROW = 16  # what a row's own numbers weigh beside its classes, in elements: several float64 vectors at a time


def step_of(start: int, stop: int, classes: int, block: int = _BLOCK) -> int:
    """How many rows make a block, at least one: rows [start, stop) in even parts of about `block` elements."""
    rows = stop - start
    parts = round(rows * (classes + _ROW) / block)
    return -(-rows // parts) if parts > 1 else max(1, rows)


def row_blocks(start: int, stop: int, classes: int, block: int = _BLOCK) -> Iterator[slice]:
    """Slices of :func:`step_of` rows that cover rows [start, stop)."""
    step = step_of(start, stop, classes, block)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def rows_of(vector: Any, rows: slice) -> Any:
    """A block of a row vector; one entry stands for every row."""
    return vector if len(vector) == 1 else vector[rows]
