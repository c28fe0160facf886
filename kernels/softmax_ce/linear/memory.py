"""How much of the logits is computed at a time, so that a budget of memory is kept."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from softmax_ce.checks import shown

_UNITS = {"B": 1} | {
    prefix + unit: base**power
    for unit, base in (("iB", 1024), ("B", 1000))
    for power, prefix in enumerate(("K", "M", "G", "T"), 1)
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_CHUNK = 2048  # classes: narrower blocks would cost more calls than they save memory
_PART_BYTES = 1 << 23  # of a partial product: it is added to the gradient while it is in a cache
_OF_PIECE = 96  # bytes
_RESERVED = 48 << 20  # for the kernels' scratch and the buffers of BLAS: OpenBLAS took 40 MiB on two threads


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the blocks.

    Attributes
    ----------
    rows : int
        The most rows in a block.
    classes : int
        The classes in a block of logits: all, or fewer if one row of logits exceeds the budget.
    columns : int
        The classes of the linear weight at a time, where a partial product or a converted copy is needed.
    """

    rows: int
    classes: int
    columns: int


def parse(memory: Any) -> int:
    """Return a budget in bytes.

    Parameters
    ----------
    memory : int or str
        A number of bytes, or text such as "256MiB" or "1.5GB".

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(memory, str):
        match = _SIZE.fullmatch(memory)
        if match is None or (match[2] or "B") not in _UNITS:
            raise ValueError(f'memory={shown(memory)} is no size; give bytes, or text such as "256MiB" or "1.5GB"')
        size = int(float(match[1]) * _UNITS[match[2] or "B"])
    else:
        try:
            size = operator.index(memory)
        except TypeError:
            raise TypeError(
                f'memory must be a number of bytes, or text such as "256MiB"; got {shown(memory)}'
            ) from None
    if size < 1:
        raise ValueError(f"memory must be positive, got {shown(memory)}")
    return size


def plan(budget: int, n_rows: int, n_classes: int, width: int, itemsize: int, arrays: int) -> Plan:
    """Return the largest even blocks within a budget.

    Parameters
    ----------
    budget : int
        In bytes.
    n_rows, n_classes, width : int
        The rows that count, the classes, and the length of a row of `hidden`.
    itemsize : int
        Bytes of an entry as it is computed.
    arrays : int
        How many arrays of a block's logits are needed at a time: 1, and 1 for each array that is copied beside them.

    Raises
    ------
    ValueError
        The budget is too small even for one row.
    """
    # Not by the number of threads, on which the bits of the result would then depend.
    free = budget - min(budget // 4, _RESERVED)
    of_row = (arrays * n_classes + 2 * width) * itemsize
    width = max(width, 1)
    of_column = width * itemsize  # of a partial product for the weight's gradient, or of a converted copy
    columns = min(n_classes, max(_CHUNK, min(free // 8, _PART_BYTES) // of_column))
    rows = (free - columns * of_column) // of_row
    if rows >= 1:
        return Plan(_even(n_rows, rows), n_classes, columns)
    classes = _CHUNK
    # What is known of each row and piece of classes is kept until all of them are there.
    of_part = (arrays * classes + 3 * width) * itemsize + _OF_PIECE * -(-n_classes // classes)
    least = classes * of_column + of_part
    if least > budget:
        raise ValueError(
            f"memory of {budget} bytes is too little: one row, {_CHUNK} classes at a time, takes {least} bytes"
        )
    rows = (budget - classes * of_column) // of_part
    return Plan(_even(n_rows, rows), classes, classes)


def _even(n_rows: int, most: int) -> int:
    """Return the rows of a block, so that the fewest blocks are as even as can be."""
    blocks = max(1, -(-n_rows // most))
    return max(1, -(-n_rows // blocks))
