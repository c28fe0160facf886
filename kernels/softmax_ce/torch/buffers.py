"""Memory for large gradients, used again once the gradient that it held is gone.

A training step needs a new gradient each time. The C library returns memory of more than 32 MiB to the system at once,
so the next step would get new pages, and clearing them takes as long as the kernel. The memory of a large gradient is
therefore kept when the last tensor or array that uses it is deleted, and the next gradient of about that size takes it.
A gradient that is still in use, as `.grad` or anywhere else, is never overwritten.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np

LARGE = 1 << 22  # bytes. From here on, NumPy also asks for huge pages.
_ALIGNMENT = 64  # a cache line

_free: deque[Any] = deque()  # its methods are atomic, so that it needs no lock, which a finalizer must not wait for


def empty_like(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return an uninitialised array whose memory is kept for another one when it is deleted.

    Parameters
    ----------
    array : ndarray
        Gives the shape and the order of the axes in memory. The result has no gaps.
    dtype : dtype
        Of the same size.

    Returns
    -------
    ndarray
        Every user of the memory must keep this very object alive, as ``torch.from_numpy`` does. A view of it does not,
        because NumPy's views hold on to the memory's owner alone.
    """
    memory = _take(array.nbytes + _ALIGNMENT)
    strides, step = [0] * array.ndim, dtype.itemsize
    for axis in sorted(range(array.ndim), key=lambda axis: (array.strides[axis], -axis)):
        strides[axis] = step
        step *= array.shape[axis]
    result = np.ndarray(array.shape, dtype, memory, -memory.ctypes.data % _ALIGNMENT, tuple(strides))
    weakref.finalize(result, _free.append, memory).atexit = False
    return result


def _take(size: int) -> Any:
    """Return a free buffer of at least this size and at most twice as large, or a new one."""
    for _ in range(len(_free)):
        try:
            memory = _free.popleft()
        except IndexError:  # another thread took it
            break
        if size <= memory.nbytes <= 2 * size:
            return memory
        _free.append(memory)
    _free.clear()  # what is kept was of no use, so the sizes have changed
    return np.empty(size, np.uint8)


def release_buffers() -> int:
    """Free the memory that is kept for the next large gradient.

    Returns
    -------
    int
        How many bytes were freed.

    Notes
    -----
    At most one training step's gradients are kept: a call that finds no buffer of its size frees all others.
    """
    freed = 0
    while _free:
        freed += _free.popleft().nbytes
    return freed
