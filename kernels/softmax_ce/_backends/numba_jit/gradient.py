"""The second sweep over a row: its gradient, from the exponentials that were kept, or computed again.

Streamed where there is a `line` to hold what does not fill one: whole cache lines go past the caches, and none of them
is touched by another store, which would read it back. So the label is put into its vector; and the end of a row, held
in `line`, waits for the beginning of the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    is_null,
    load,
    prefetch,
    store,
    store_first,
    stream,
)
from softmax_ce._backends.numba_jit.targets import load_or, target_at
from softmax_ce._backends.numba_jit.vectors import filled, fma, insert_lane, lanes_below, lanes_of, where

_NEXT_ROW = 1024  # vectors of the row ahead, asked for while a row is written; the rest beside its sums

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


class Waiting(NamedTuple):
    """A gradient that is to be streamed while the next row is summed: exponentials times its chunks' factors."""

    grad: Any  # null: none
    classes: int
    step: int  # classes of a chunk
    label: int  # -1: none that differs
    at_label: float
    head: int  # entries before the first whole line
    held: int  # of the row before, in the line


@_inlined
def _by_chunk(like: Any, first: float, second: float, across: int) -> Any:
    """What a chunk has, and from lane `across` on, the next one."""
    v = filled(like, first)
    return v if across >= lanes_of(like) else where(lanes_below(across, v), v, filled(like, second))


@_inlined
def _scaled(e: Any, p: Any, k: int, across: int, scratch: Any) -> Any:
    """Exponentials times the factors of chunk k, and from lane `across` on, of chunk k + 1.

    In two steps, so that neither a factor nor a product is subnormal where the gradient is not. The second one is
    fused: where its result is subnormal, a plain product takes 2.5 times as long on Zen 5.
    """
    factors = scratch.factors
    by = _by_chunk(p, factors[2 * k], factors[2 * k + 2], across)
    then = _by_chunk(p, factors[2 * k + 1], factors[2 * k + 3], across)
    return fma(e * by, then, 0.0)


@_inlined
def _with_label(value: Any, label: int, at_label: float) -> Any:
    """`label`: its lane, if it is one of them."""
    return insert_lane(value, label, at_label) if 0 <= label < lanes_of(value) else value


@_inlined
def shift_of(top: float) -> float:
    """What is taken off a chunk's logits: -inf - -inf would be NaN."""
    return 0.0 if top == -np.inf else top


@_inlined
def set_factors(factors: Any, k: int, factor: float, scale: float) -> None:
    """What the exponentials of chunk k are multiplied by, one after the other."""
    is_small = abs(factor) < 1
    factors[2 * k] = factor if is_small else factor / scale
    factors[2 * k + 1] = 1 / scale if is_small else 1.0


# Streamed while the next row is summed; e holds the exponentials of the chunk that begins at class `first`


@_inlined
def hold_head(waiting: Any, e: Any, scratch: Any) -> None:
    """Stream the line that this row shares with the one before."""
    if waiting.head > 0:
        value = _scaled(load(e, 0), e, 0, lanes_of(e), scratch)
        _put_head(
            waiting.grad, waiting.head, waiting.held, _with_label(value, waiting.label, waiting.at_label), scratch
        )


@_inlined
def _put_head(grad: Any, head: int, held: int, value: Any, scratch: Any) -> None:
    if held > 0:
        store(scratch.line, held, value)  # what goes beyond the line lies in the scratch
        stream(grad, -held, load(scratch.line, 0))
    else:
        store_first(grad, 0, head, value)


@_inlined
def stream_block(waiting: Any, e: Any, j: int, first: int, scratch: Any) -> None:
    """Four vectors, as far from the head as j is from the chunk's beginning."""
    w = lanes_of(e)
    k, start = first // waiting.step, j + waiting.head
    grad = at(waiting.grad, first)
    label = waiting.label - first - start
    for i in range(0, 4 * w, w):
        value = _scaled(load(e, start + i), e, k, w, scratch)
        if 0 <= label < 4 * w:
            value = _with_label(value, label - i, waiting.at_label)
        stream(grad, start + i, value)


@_function
def stream_rest(waiting: Any, e: Any, j: int, n: int, first: int, scratch: Any) -> int:
    """What is left of a chunk of n; its last vector may reach into the next. Gives how many wait for the next row."""
    w = lanes_of(e)
    k, j = first // waiting.step, j + waiting.head
    grad, end = at(waiting.grad, first), waiting.classes - first
    while j < n:
        across = n - j if n < end else w
        value = _scaled(load(e, j), e, k, across, scratch)
        value = _with_label(value, waiting.label - first - j, waiting.at_label)
        if j + w > end:
            store(scratch.line, 0, value)
            return end - j
        stream(grad, j, value)
        j += w
    return 0


@_function
def write_waiting(waiting: Any, e: Any, scratch: Any) -> int:
    """All of it, while no row is summed."""
    hold_head(waiting, e, scratch)
    held = 0
    for first in range(0, waiting.classes, waiting.step):
        n = min(waiting.step, waiting.classes - first)
        held += stream_rest(waiting, at(e, first), 0, n, first, scratch)
    return held


@_function
def end_line(grad: Any, classes: int, held: int, line: Any) -> None:
    """What is held of the last row."""
    if held > 0:
        store_first(grad, classes - held, held, load(line, 0))


# In a sweep of its own


class Written(NamedTuple):
    """A row whose gradient is to be written: exp(x - top) from e, or computed again where that is null."""

    x: Any
    e: Any
    grad: Any
    classes: int
    step: int  # classes that have a factor in common
    gain: float  # grad = gain * (factor * exp(x - top) - T) where there is T; else it is in the factors
    label: int
    at_label: float


@_inlined
def _exp_again(row: Any, j: int, left: int, k: int, across: int, scratch: Any) -> Any:
    """What chunk k had in its sum, and from lane `across` on, chunk k + 1."""
    top = _by_chunk(row.x, shift_of(scratch.tops[k]), shift_of(scratch.tops[k + 1]), across)
    return exp(load_or(row.x, j, left, 0.0) - top)


@_inlined
def _gradient(row: Any, t: Any, has_target: bool, j: int, left: int, k: int, across: int, scratch: Any) -> Any:
    """Classes j, j + 1 ... of which `left` are left."""
    e = _exp_again(row, j, left, k, across, scratch) if is_null(row.e) else load(row.e, j)
    value = _scaled(e, row.grad, k, across, scratch)
    if has_target:
        value = filled(row.x, row.gain) * (value - target_at(t, j, left))  # the difference first: one class gives 0
    return _with_label(value, row.label - j, row.at_label)


@_function
def write_row(row: Any, t: Any, held: int, ahead: Any, scratch: Any) -> int:
    """Write a gradient. `ahead`: the next row, which may take up what is held of a line; gives how many that are."""
    w = lanes_of(row.grad)
    has_target = not (is_null(t.soft) and is_null(t.base))
    line, j = scratch.line, 0
    if not is_null(line):
        j = (-address(row.grad) & 63) * w // 64
        if j > 0:
            _put_head(row.grad, j, held, _gradient(row, t, has_target, 0, j, 0, w, scratch), scratch)
    k, stop = 0, min(row.step, row.classes)
    while j + w <= row.classes:
        j = _write_within(row, t, has_target, j, k, stop, ahead, scratch)
        if j + w > row.classes:
            break
        if j < stop:  # the head has moved lines against chunks, so there is a line here
            stream(row.grad, j, _gradient(row, t, has_target, j, w, k, stop - j, scratch))
            j += w
        k, stop = k + 1, min(stop + row.step, row.classes)
    return _write_tail(row, t, has_target, j, k, stop, ahead, scratch)


@_inlined
def _write_within(row: Any, t: Any, has_target: bool, j: int, k: int, stop: int, ahead: Any, scratch: Any) -> int:
    """The vectors from class j on that lie within chunk k, which ends at `stop`. Gives where they end."""
    w = lanes_of(row.grad)
    if is_null(scratch.line):
        while j + w <= stop:
            store(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
            j += w
        return j
    while j + w <= stop:
        if is_null(row.e) and j < _NEXT_ROW * w:
            prefetch(ahead, j)
        stream(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
        j += w
    return j


@_inlined
def _write_tail(row: Any, t: Any, has_target: bool, j: int, k: int, stop: int, ahead: Any, scratch: Any) -> int:
    """What is less than a vector from class j on; chunk k ends at `stop`."""
    w, left, line = lanes_of(row.grad), row.classes - j, scratch.line
    if left == 0:
        return 0
    if is_null(line) and not is_null(row.e) and row.classes - w >= k * row.step and stop == row.classes:
        j = row.classes - w  # over what is written already, from the same exponentials
        store(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
        return 0
    across = max(stop - j, 0) if stop < row.classes else w
    value = _gradient(row, t, has_target, j, left, k, across, scratch)
    if not is_null(line) and not is_null(ahead):
        store(line, 0, value)
        return left
    store_first(row.grad, j, left, value)
    return 0


@_function
def fill_row(grad: Any, classes: int, value: float, line: Any, held: int) -> None:
    """A gradient that is one value throughout, after what is held of the row before."""
    if held > 0:
        store_first(grad, -held, held, load(line, 0))
    for j in range(classes):
        grad[j] = value
