"""Whether this is the main interpreter: threads and some extensions do not go with another."""

from __future__ import annotations

import functools
import importlib


@functools.cache
def in_sub_interpreter() -> bool:
    """Whether the caller runs in a sub-interpreter; False where this Python does not tell."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, and before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False
