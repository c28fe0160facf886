"""The floating-point mode of this thread on x86-64: MXCSR, read and written by six bytes of machine code."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

FLUSH = 0x8040  # FTZ and DAZ
UPWARD = 0x4000  # rounding
FLAGS = 0x3F  # what has happened so far: no part of the mode

_code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
_code.write(b"\x0f\xae\x1f\xc3" + b"\x0f\xae\x17\xc3")  # stmxcsr [rdi]; ret; ldmxcsr [rdi]; ret
_address = ctypes.addressof(ctypes.c_char.from_buffer(_code))
_function: Any = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))
_store, _load = _function(_address), _function(_address + 4)


def mode() -> int:
    """MXCSR without its flags."""
    value = ctypes.c_uint32()
    _store(ctypes.byref(value))
    return value.value & ~FLAGS


def set_mode(bits: int) -> None:
    """The default mode with these bits added."""
    _load(ctypes.byref(ctypes.c_uint32(0x1F80 | bits)))
