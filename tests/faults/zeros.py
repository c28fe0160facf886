"""Arrays larger than memory: untouched zero pages to read; to write, one piece of memory mapped over and over."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_SHARED_FIXED = mmap.MAP_SHARED | 0x10
_WINDOW = 64 << 20


def _reserve(n_bytes: int) -> Any:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    whole = mmap.mmap(-1, n_bytes, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        whole.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(whole, np.uint8)


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """All zero; each page that is only read is the system's one zero page."""
    dtype = np.dtype(dtype)
    return _reserve(int(np.prod(shape, dtype=object)) * dtype.itemsize).view(dtype).reshape(shape)


def window(shape: tuple[int, ...], dtype: Any) -> Any:
    """To write into: its end, up to 64 MiB, is memory of its own; every 64 MiB before are the same ones, over and over.
    There, what is written last is what stays: which that is depends on the order in which a backend writes."""
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    array = _reserve(-(-n_bytes // _WINDOW) * _WINDOW)
    memory = os.memfd_create("window")
    os.ftruncate(memory, _WINDOW)
    for start in range(0, len(array) - _WINDOW, _WINDOW):
        at = _libc.mmap(array.ctypes.data + start, _WINDOW, mmap.PROT_READ | mmap.PROT_WRITE, _SHARED_FIXED, memory, 0)
        if at != array.ctypes.data + start:
            raise OSError(ctypes.get_errno(), "mmap")
    return array[:n_bytes].view(dtype).reshape(shape)
