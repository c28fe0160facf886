"""The physical limit: the time to move the bytes without any arithmetic.

Loops in C that read, copy and update NumPy arrays, over the same pool of threads as the kernels, so that a kernel
can be scored in the same rounds and on the same buffers. Without a C compiler they are not there, and
`why_unavailable` says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce import threads as pool

LOOPS = {
    "read": "read",
    "copy": "copy",
    "stream": "non-temporal copy",
    "update": "update in place",
    "new": "copy to a new array",
}
_PIECE = 1 << 16  # bytes a row at most: one long row is cut, so that all threads have work

why_unavailable: str | None = None
_loops: Any = None
try:
    _loops = import_module("softmax_ce_bench.ceilings._loops")
except ImportError as error:
    _note = Path(__file__).with_name("build_error.txt")  # written by setup.py when the compilation failed
    why_unavailable = _note.read_text(encoding="utf-8").strip() if _note.exists() else str(error)


# Held to a lower instruction set like the kernels; one that the loops have not is the kernels' to refuse.
_in_use = ""
if why_unavailable is None:
    _in_use = os.environ.get("SOFTMAX_CE_ISA", "")
    if _in_use in _loops.ISAS:
        _loops.use(_in_use)
    else:
        _in_use = _loops.ISAS[0]


def instruction_set() -> str | None:
    """Return the instruction set of the loops, or None if they are not available."""
    return _in_use or None


def best_copy() -> str:
    """Return the name of the loop that reads one array and writes another with the least traffic, as a fused kernel
    does.

    A non-temporal copy moves two units; a regular one three, for it also reads the lines that it writes.
    """
    return "stream" if why_unavailable is None and _loops.NON_TEMPORAL else "copy"


def call(what: str, source: Any, target: Any, threads: int | None = None) -> Callable[[], object]:
    """Return one of the loops over whole arrays, as a function without arguments.

    Parameters
    ----------
    what : {"read", "copy", "stream", "update", "new"}
        A key of `LOOPS`: of `source`; from it to `target`, with regular or non-temporal stores; of `target` in place,
        which is left as it was; from `source` to an array that is made in the call.
    source, target : ndarray
        C-contiguous, not empty, of the same shape and dtype.
    threads : int or None
        The number of threads, as in :func:`softmax_ce.cross_entropy`.

    Returns
    -------
    callable

    Raises
    ------
    RuntimeError
        The loops are not available here.
    ValueError
        There is no such loop.
    """
    if why_unavailable is not None:
        raise RuntimeError(f"the copy and read loops are not available: {why_unavailable}")
    if what not in LOOPS:
        raise ValueError(f"unknown loop {what!r}; there are {', '.join(LOOPS)}")
    x, y = _as_rows(source), _as_rows(target)

    def over_rows(task: pool.Task) -> None:
        pool.run(task, len(x), x.shape[1] // 4, threads)

    if what == "read":
        return partial(over_rows, partial(_loops.read, x))
    if what == "update":
        return partial(over_rows, partial(_loops.update, y, 0))
    if what == "new":
        return lambda: over_rows(partial(_copy, x, np.empty_like(x), best_copy() == "stream"))
    return partial(over_rows, partial(_copy, x, y, what == "stream"))


def _copy(source: Any, target: Any, stream: bool, start: int, stop: int) -> None:
    _loops.copy(source, target, start, stop, stream)


def _as_rows(array: Any) -> Any:
    """Return the bytes of a C-contiguous array as a view, in rows of at most `_PIECE` if it can be cut that way."""
    width = array.nbytes // len(array)
    while width > _PIECE and width % 2 == 0:
        width //= 2
    return array.reshape(-1).view(np.uint8).reshape(-1, width)
