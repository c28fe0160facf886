"""A row's T, its classes along the lanes."""

from __future__ import annotations

from typing import Any

from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT
from softmax_ce._backends.numba_jit.memory import is_null, load, load_first
from softmax_ce._backends.numba_jit.vectors import filled, lanes_below, lanes_of, where

_inlined: Any = njit(**EXACT)


@_inlined
def load_or(p: Any, j: int, left: int, fill: float) -> Any:
    """The vector at p[j], of which `left` entries are there; `fill` in the others."""
    return load(p, j) if left >= lanes_of(p) else load_first(p, j, left, fill)


@_inlined
def _by_class(p: Any, step: int, j: int, left: int) -> Any:
    if step != 0:
        return load_or(p, j, left, 0.0)
    v = filled(p, p[0])
    return v if left >= lanes_of(p) else where(lanes_below(left, v), v, 0.0)  # a lane without a class has no mass


@_inlined
def target_at(t: Any, j: int, left: int) -> Any:
    """T at classes j, j + 1 ... of which `left` are left."""
    v = filled(t.base, 0.0)
    if not is_null(t.soft):
        v = load_or(t.soft, j, left, 0.0) * _by_class(t.scale, t.scale_step, j, left)
    if not is_null(t.base):
        v = v + _by_class(t.base, t.base_step, j, left)
    return v
