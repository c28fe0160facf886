"""Tell the main interpreter from a sub-interpreter, where threads and some extensions do not work."""

from __future__ import annotations

import functools
import importlib


@functools.cache
def in_sub_interpreter() -> bool:
    """Return whether the caller runs in a sub-interpreter, or False if this Python cannot say."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # the names from Python 3.13 on, and before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False
