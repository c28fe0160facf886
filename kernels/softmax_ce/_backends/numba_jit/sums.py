"""The first sweep over a row, its classes along the lanes: chunks of it, each relative to its own largest logit.

The largest logit is left out of the sum, once, so that log1p(rest) is right where rest is small. While the maximum is
taken, each lane remembers the block that it came from. Of that block there is a copy in which -inf stands for it, so
the sum itself neither compares nor masks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp, exp_scale
from softmax_ce._backends.numba_jit.gradient import hold_head, shift_of, stream_block, stream_rest
from softmax_ce._backends.numba_jit.memory import (
    at,
    either,
    is_null,
    load,
    prefetch,
    prefetch_to_write,
    store,
)
from softmax_ce._backends.numba_jit.targets import load_or, target_at
from softmax_ce._backends.numba_jit.vectors import (
    as_bits,
    filled,
    halves_added,
    lanes_of,
    max_lanes,
    maximum,
    sum_lanes,
    trailing_zeros,
    where,
    widen,
)

CHUNK = 2048  # classes summed at a time, at most; the bits of a row depend on it

# How far ahead lines are asked for, in vectors of 64 bytes: the hardware's own prefetcher keeps too close to the loop.
_READ_AHEAD = 128

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


class Top(NamedTuple):
    """A chunk's largest logit, and where the block of four vectors begins that has it. NaN: not known."""

    value: Any
    block: int


class Row(NamedTuple):
    """A row's sums."""

    top: Any
    rest: Any  # the sum of exp(x - top) without one of the tops
    mass: Any  # the sum of T
    cost: Any  # and of T * (top - x)


@_inlined
def chunk_of(x: Any, classes: int) -> int:
    """Classes a chunk: as few chunks as CHUNK allows, all of a length but the last, which may be shorter."""
    chunks = (classes + CHUNK - 1) // CHUNK
    block = 4 * lanes_of(x)
    return ((classes + chunks - 1) // chunks + block - 1) // block * block


# The largest logit. A NaN is passed over: it shows in the sum.


@_inlined
def _max_block(x: Any, j: int, best: Any, block: Any) -> Any:
    w = lanes_of(x)
    a, b = maximum(load(x, j), load(x, j + w)), maximum(load(x, j + 2 * w), load(x, j + 3 * w))
    largest = maximum(a, b)
    is_new = largest > best
    return maximum(largest, best), where(is_new, filled(x, j), block)


@_inlined
def _top_from(x: Any, j: int, n: int, best: Any, block: Any) -> Any:
    """The top of n entries, of which those before j are in `best` and `block`."""
    w = lanes_of(x)
    while j + 4 * w <= n:
        best, block = _max_block(x, j, best, block)
        j += 4 * w
    for k in range(j, n, w):
        v = load_or(x, k, n - k, -np.inf)
        is_new = v > best
        best, block = maximum(v, best), where(is_new, filled(x, j), block)
    top = max_lanes(best)
    return Top(np.float64(top), int(max_lanes(where(best == top, block, 0.0))))


@_function
def top_of(x: Any, n: int) -> Any:
    """The top of n entries."""
    return _top_from(x, 0, n, filled(x, -np.inf), filled(x, 0.0))


# The sum of exp(x - top)


@_inlined
def _copy_without(x: Any, n: int, top: Any, patch: Any) -> int:
    """Copy the block that has the top, -inf in its place. Gives where it was, -1 if there is none."""
    w = lanes_of(x)
    found = -1
    for k in range(0, 4 * w, w):
        j = top.block + k
        v = load_or(x, j, max(n - j, 0), -np.inf)
        store(patch, k, v)
        is_top = as_bits(v == top.value)
        if found < 0 and is_top != 0:
            found = k + trailing_zeros(is_top)
    if found < 0:
        return -1
    patch[found] = -np.inf
    return top.block + found


@_inlined
def _exp_block(x: Any, j: int, shifts: Any, e: Any) -> Any:
    """The sum of four vectors of exp(x - shift), which are kept in e if it is there."""
    w = lanes_of(x)
    a, b = exp(load(x, j) - shifts), exp(load(x, j + w) - shifts)
    if not is_null(e):
        store(e, j, a)
        store(e, j + w, b)
    c, d = exp(load(x, j + 2 * w) - shifts), exp(load(x, j + 3 * w) - shifts)
    if not is_null(e):
        store(e, j + 2 * w, c)
        store(e, j + 3 * w, d)
    return widen(halves_added((a + b) + (c + d)))


@_inlined
def _ask_for(ahead: Any, out: Any, j: int) -> None:
    w = lanes_of(ahead)
    for k in range(j, j + 4 * w, w):
        prefetch(ahead, k + _READ_AHEAD * w)
        if not is_null(out):
            prefetch_to_write(out, k)


@_function
def _sum_chunk(
    x: Any, n: int, top: Any, e: Any, ahead: Any, n_ahead: int, out: Any, waiting: Any, first: int, scratch: Any
) -> Any:
    """The sum of exp(x - top) without one of the tops, the top of the chunk ahead, and what is held of a line.

    The chunk ahead is read meanwhile, and so are the lines of the gradient at `out`, if there is one; or the gradient
    that waits is streamed: its exponentials lie in e, where this chunk's are to be.
    """
    w = lanes_of(x)
    shifts = filled(x, shift_of(top.value))
    place = _copy_without(x, n, top, scratch.patch)
    patch = at(scratch.patch, -top.block)
    rest = widen(halves_added(filled(x, 0.0)))
    best, block = filled(x, -np.inf), filled(x, 0.0)
    j, held = 0, 0
    if not is_null(waiting.grad):
        while j + 4 * w <= min(n - waiting.head, n_ahead):
            best, block = _max_block(ahead, j, best, block)
            _ask_for(ahead, out, j)
            stream_block(waiting, e, j, first, scratch)
            rest = rest + _exp_block(either(j == top.block, patch, x), j, shifts, e)
            j += 4 * w
        held = stream_rest(waiting, e, j, n, first, scratch)
    while j + 4 * w <= n:
        if j + 4 * w <= n_ahead:
            best, block = _max_block(ahead, j, best, block)
            _ask_for(ahead, out, j)
        rest = rest + _exp_block(either(j == top.block, patch, x), j, shifts, e)
        j += 4 * w
    following = _top_from(ahead, min(n, n_ahead) // (4 * w) * (4 * w), n_ahead, best, block)
    source = either(j == top.block, patch, x)
    while j < n:
        value = exp(load_or(source, j, n - j, -np.inf) - shifts)
        if not is_null(e):
            store(e, j, value)
        rest = rest + widen(halves_added(value))
        j += w
    if not is_null(e) and place >= 0 and top.value > -np.inf:
        e[place] = exp_scale(x)
    return sum_lanes(rest) / exp_scale(x), following, held


@_function
def _sum_targets(x: Any, first: int, stop: int, shift: Any, t: Any) -> Any:
    """Sum of T and of T * (shift - x), for classes [first, stop), in float64. 0 * inf = 0."""
    mass = cost = widen(filled(x, 0.0))
    half_shift = filled(x, shift) * 0.5  # halves, since shift - x may overflow where the loss does not
    for j in range(first, stop, lanes_of(x)):
        target = target_at(t, j, stop - j)
        gap = half_shift - load_or(x, j, stop - j, 0.0) * 0.5
        mass = mass + widen(target)
        cost = cost + widen(where(target == 0.0, 0.0, target * gap))
    return sum_lanes(mass), 2 * sum_lanes(cost)


@_inlined
def _with_chunk(row: Any, top: float, rest: float) -> Any:
    """A row's top and rest, and those of its next chunk, together. A NaN of either comes through."""
    one, others = 0.0 if row.top == -np.inf else 1.0, 0.0 if top == -np.inf else 1.0
    if top > row.top:
        return Row(top, rest + (one + row.rest) * math.exp(row.top - top), row.mass, row.cost)
    down = 1.0 if top == row.top else math.exp(top - row.top)
    return Row(row.top, row.rest + (others + rest) * down, row.mass, row.cost)


@_inlined
def _with_targets(row: Any, shift: float, mass: float, cost: float, chunk_shift: float) -> Any:
    """The same of the sums over T, whose logits were shifted; the row's before it had this top."""
    new_shift = shift_of(row.top)
    total = row.cost + cost
    if row.mass != 0:
        total += 2 * (row.mass * (0.5 * new_shift - 0.5 * shift))
    if mass != 0:
        total += 2 * (mass * (0.5 * new_shift - 0.5 * chunk_shift))
    return Row(row.top, row.rest, row.mass + mass, total)


@_function
def has_nan(x: Any, n: int) -> bool:
    """Whether one of n entries is a NaN."""
    found = False
    for j in range(n):
        found |= x[j] != x[j]
    return found


@_function
def sum_row(x: Any, classes: int, top: Any, e: Any, ahead: Any, t: Any, out: Any, waiting: Any, scratch: Any) -> Any:
    """First sweep over a row whose first chunk's top is known. `ahead`: the next row, or null.

    Gives the row's sums, the top of the first chunk ahead, and what is held of a line.
    """
    has_target = not (is_null(t.soft) and is_null(t.base))
    row = Row(-np.inf, 0.0, 0.0, 0.0)
    step = chunk_of(x, classes)
    held = 0
    if not is_null(waiting.grad):
        hold_head(waiting, e, scratch)
    for first in range(0, classes, step):
        n = min(step, classes - first)
        following, n_following = at(x, first + n), min(step, classes - first - n)
        if n_following == 0:
            following, n_following = ahead, 0 if is_null(ahead) else min(step, classes)
        kept = e if is_null(e) else at(e, first)
        lines = out if is_null(out) else at(out, first)
        chunk_rest, next_top, chunk_held = _sum_chunk(
            at(x, first), n, top, kept, following, n_following, lines, waiting, first, scratch
        )
        held += chunk_held
        shift = shift_of(row.top)
        row = _with_chunk(row, top.value, chunk_rest)
        scratch.tops[first // step] = top.value
        if has_target:
            chunk_shift = shift_of(top.value)
            mass, cost = _sum_targets(x, first, first + n, chunk_shift, t)
            row = _with_targets(row, shift, mass, cost, chunk_shift)
        top = next_top
    if row.top == np.inf:
        row = Row(row.top, np.nan if has_nan(x, classes) else 0.0, row.mass, row.cost)
    return row, top, held
