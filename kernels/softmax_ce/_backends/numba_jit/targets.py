"""The targets T of a row, a vector of classes at a time."""

from __future__ import annotations

from typing import Any

from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT
from softmax_ce._backends.numba_jit.memory import is_null, load, load_first
from softmax_ce._backends.numba_jit.vectors import filled, lanes_below, lanes_of, where

_inlined: Any = njit(**EXACT)


@_inlined
def load_or(p: Any, j: int, left: int, fill: float) -> Any:
    """Return the vector at p[j]. Only `left` entries exist; the other lanes get `fill`.

    C: load in rows_load.h
    """
    return load(p, j) if left >= lanes_of(p) else load_first(p, j, left, fill)


@_inlined
def _by_class(p: Any, step: int, j: int, left: int) -> Any:
    """Return the entries of classes j, j + 1, ..., from an array with one entry for each class or one for all.

    C: by_class in rows_load.h
    """
    if step != 0:
        return load_or(p, j, left, 0.0)
    v = filled(p, p[0])
    return v if left >= lanes_of(p) else where(lanes_below(left, v), v, 0.0)  # a lane without a class has no mass


@_inlined
def target_at(t: Any, j: int, left: int) -> Any:
    """Return T at classes j, j + 1, ..., of which `left` exist. T at a hard label is not included.

    C: target_at in rows_load.h
    """
    v = filled(t.base, 0.0)
    if not is_null(t.soft):
        v = load_or(t.soft, j, left, 0.0) * _by_class(t.scale, t.scale_step, j, left)
    if not is_null(t.base):
        v = v + _by_class(t.base, t.base_step, j, left)
    return v
