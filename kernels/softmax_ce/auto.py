"""Which backend runs a call that names none.

The safe default is the last backend of the registry's table that is stable, compiled ahead of time and
available here: the Cython one where it was built, else shifted NumPy. Numba is never chosen unasked,
because its first call compiles for seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce import registry
from softmax_ce.contract import NATIVE_DTYPES, Backend

_default: Backend | None = None


def choose(name: str | None) -> Backend:
    """The backend that was asked for, else the default.

    Parameters
    ----------
    name : str or None

    Returns
    -------
    Backend
    """
    if name is not None:
        return registry.get_backend(name)
    global _default
    if _default is None:
        _default = registry.get_backend(default_name())
    return _default


def check_dtype(backend: Backend, dtype: np.dtype[Any]) -> None:
    """A backend may compute one of the native dtypes alone."""
    native = backend.info.dtypes
    if native is not NATIVE_DTYPES and dtype.name not in native:  # a dtype's name takes microseconds
        raise ValueError(f"backend {backend.name!r} computes {', '.join(native)} only, not {dtype.name}")


def default_name() -> str:
    """The name of the safe default on this machine."""
    for info in reversed(registry.table()):
        if info.stable and info.ahead_of_time and registry.is_available(info.name):
            return info.name
    raise registry.BackendUnavailableError("no backend of softmax_ce can be loaded; is the installation complete?")
