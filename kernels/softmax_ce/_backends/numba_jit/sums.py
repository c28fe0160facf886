"""The first pass over a row: the maximum of each chunk of classes, and the sum of the exponentials relative to it.

The maximum is left out of the sum, once, so that log1p(rest) is accurate if rest is small. While the maximum is taken,
each lane remembers the block that it came from. That block is copied with -inf in place of the maximum, so the sum
needs neither a comparison nor a mask.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp, exp_scale
from softmax_ce._backends.numba_jit.gradient import shift_of, stream_block, stream_head, stream_rest
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
from softmax_ce.tuning import LINE_BYTES, PREFETCH_BYTES

CHUNK = 2048  # the most classes that are summed at a time; the bits of a row depend on it

# How many vectors ahead lines are prefetched: the hardware's own prefetcher stays too close to the loop.
_PREFETCHED = PREFETCH_BYTES // LINE_BYTES

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


class ChunkMax(NamedTuple):
    """A chunk's largest logit. C: maximum in rows_sums.h."""

    value: Any  # NaN if it is not known
    block: int  # where the block of four vectors begins that contains it


class RowSums(NamedTuple):
    """The sums over a row. C: sce_sums in rows.h."""

    top: Any  # the largest logit
    rest: Any  # the sum of exp(x - top), without one of the maxima
    mass: Any  # the sum of T
    cost: Any  # the sum of T * (top - x)


def classes_of_chunk(classes: int, block: int) -> int:
    """Return the classes of a chunk, a multiple of `block`: see `chunk_of`.

    C: chunk_size in rows_pipeline.h
    """
    chunks = (classes + CHUNK - 1) // CHUNK
    return ((classes + chunks - 1) // chunks + block - 1) // block * block


_classes_of_chunk = _inlined(classes_of_chunk)


@_inlined
def chunk_of(x: Any, classes: int) -> int:
    """Return the classes of a chunk: as few chunks as CHUNK allows, of equal length but the last, which may be shorter.

    C: chunk_size in rows_pipeline.h
    """
    return _classes_of_chunk(classes, 4 * lanes_of(x))


# The largest logit. A NaN is skipped here: it shows in the sum.


@_inlined
def _max_block(x: Any, j: int, best: Any, block: Any) -> Any:
    """Return the running maxima, and where their blocks begin, with the block of four vectors at x[j] included.

    C: max_block in rows_sums.h
    """
    w = lanes_of(x)
    a, b = maximum(load(x, j), load(x, j + w)), maximum(load(x, j + 2 * w), load(x, j + 3 * w))
    largest = maximum(a, b)
    is_new = largest > best
    return maximum(largest, best), where(is_new, filled(x, j), block)


@_inlined
def _max_rest(x: Any, j: int, n: int, best: Any, block: Any) -> Any:
    """Return the ChunkMax of n entries, of which those before j are included in `best` and `block`.

    C: max_rest in rows_sums.h
    """
    w = lanes_of(x)
    while j + 4 * w <= n:
        best, block = _max_block(x, j, best, block)
        j += 4 * w
    for k in range(j, n, w):
        v = load_or(x, k, n - k, -np.inf)
        is_new = v > best
        best, block = maximum(v, best), where(is_new, filled(x, j), block)
    top = max_lanes(best)
    return ChunkMax(np.float64(top), int(max_lanes(where(best == top, block, 0.0))))


@_function
def max_of(x: Any, n: int) -> Any:
    """Return the ChunkMax of n entries.

    C: max_of in rows_sums.h
    """
    return _max_rest(x, 0, n, filled(x, -np.inf), filled(x, 0.0))


# The sum of exp(x - top)


@_inlined
def _copy_masked(x: Any, n: int, top: Any, masked: Any) -> int:
    """Copy the block that contains the maximum, with -inf in its place. Return where it is, or -1 if there is none.

    C: sum_top_block in rows_sums.h, which sums that block once more
    """
    w = lanes_of(x)
    found = -1
    for k in range(0, 4 * w, w):
        j = top.block + k
        v = load_or(x, j, max(n - j, 0), -np.inf)
        store(masked, k, v)
        is_top = as_bits(v == top.value)
        if found < 0 and is_top != 0:
            found = k + trailing_zeros(is_top)
    if found < 0:
        return -1
    masked[found] = -np.inf
    return top.block + found


@_inlined
def _exp_block(x: Any, j: int, shifts: Any, e: Any) -> Any:
    """Return the sum of four vectors of exp(x - shift), and store them in e unless it is null.

    C: exps_of_block in rows_sums.h
    """
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
def _exp_rest(x: Any, j: int, n: int, shifts: Any, e: Any, rest: Any) -> Any:
    """Return `rest` plus the sums of exp(x - shift) from entry j on, fewer than four vectors, as `_exp_block` does.

    C: exps_of_block in rows_sums.h
    """
    while j < n:
        value = exp(load_or(x, j, n - j, -np.inf) - shifts)
        if not is_null(e):
            store(e, j, value)
        rest = rest + widen(halves_added(value))
        j += lanes_of(x)
    return rest


@_inlined
def _prefetch_block(x: Any, out: Any, j: int) -> None:
    """Prefetch four lines of logits, some way after x[j], and of the gradient at out[j] unless it is null.

    C: within max_block in rows_sums.h
    """
    w = lanes_of(x)
    for k in range(j, j + 4 * w, w):
        prefetch(x, k + _PREFETCHED * w)
        if not is_null(out):
            prefetch_to_write(out, k)


@_function
def sum_chunk(
    x: Any, n: int, top: Any, e: Any, ahead: Any, n_ahead: int, out: Any, pending: Any, first: int, scratch: Any
) -> Any:
    """Return the sum of exp(x - top) without one maximum, the ChunkMax of the chunk ahead, and the entries in the line.

    The loop also reads the chunk ahead. It prefetches the gradient's lines at `out`, unless null, or it streams the
    pending gradient, whose exponentials are in e and give way to this chunk's.

    C: sum_chunk_of in rows_sums.h
    """
    w = lanes_of(x)
    shifts = filled(x, shift_of(top.value))
    place = _copy_masked(x, n, top, scratch.masked)
    masked = at(scratch.masked, -top.block)
    rest = widen(halves_added(filled(x, 0.0)))
    best, block = filled(x, -np.inf), filled(x, 0.0)
    j, held = 0, 0
    if not is_null(pending.grad):
        while j + 4 * w <= min(n - pending.head, n_ahead):
            best, block = _max_block(ahead, j, best, block)
            _prefetch_block(ahead, out, j)
            stream_block(pending, e, j, first, scratch)
            rest = rest + _exp_block(either(j == top.block, masked, x), j, shifts, e)
            j += 4 * w
        held = stream_rest(pending, e, j, n, first, scratch)
    while j + 4 * w <= n:
        if j + 4 * w <= n_ahead:
            best, block = _max_block(ahead, j, best, block)
            _prefetch_block(ahead, out, j)
        rest = rest + _exp_block(either(j == top.block, masked, x), j, shifts, e)
        j += 4 * w
    next_max = _max_rest(ahead, min(n, n_ahead) // (4 * w) * (4 * w), n_ahead, best, block)
    rest = _exp_rest(either(j == top.block, masked, x), j, n, shifts, e, rest)
    if not is_null(e) and place >= 0 and top.value > -np.inf:
        e[place] = exp_scale(x)
    return sum_lanes(rest) / exp_scale(x), next_max, held


@_function
def sum_targets(x: Any, first: int, stop: int, shift: Any, t: Any) -> Any:
    """Return the sums of T and of T * (shift - x) over classes [first, stop), in float64. Here 0 * inf = 0.

    C: sum_targets in rows_sums.h
    """
    mass = cost = widen(filled(x, 0.0))
    half_shift = filled(x, shift) * 0.5  # halves, because shift - x may overflow where the loss does not
    for j in range(first, stop, lanes_of(x)):
        target = target_at(t, j, stop - j)
        gap = half_shift - load_or(x, j, stop - j, 0.0) * 0.5
        mass = mass + widen(target)
        cost = cost + widen(where(target == 0.0, 0.0, target * gap))
    return sum_lanes(mass), 2 * sum_lanes(cost)


@_inlined
def with_chunk(row: Any, top: float, rest: float) -> Any:
    """Return a row's sums with the maximum and the sum of its next chunk added. A NaN in either remains.

    C: combine in rows_sums.h
    """
    one, others = 0.0 if row.top == -np.inf else 1.0, 0.0 if top == -np.inf else 1.0
    if top > row.top:
        return RowSums(top, rest + (one + row.rest) * math.exp(row.top - top), row.mass, row.cost)
    rescale = 1.0 if top == row.top else math.exp(top - row.top)
    return RowSums(row.top, row.rest + (others + rest) * rescale, row.mass, row.cost)


@_inlined
def with_targets(row: Any, shift: float, mass: float, cost: float, chunk_shift: float) -> Any:
    """Return a row's sums with those over T of its next chunk added. Before that chunk, the row's shift was `shift`.

    C: combine in rows_sums.h
    """
    new_shift = shift_of(row.top)
    total = row.cost + cost
    if row.mass != 0:
        total += 2 * (row.mass * (0.5 * new_shift - 0.5 * shift))
    if mass != 0:
        total += 2 * (mass * (0.5 * new_shift - 0.5 * chunk_shift))
    return RowSums(row.top, row.rest, row.mass + mass, total)


@_function
def has_nan(x: Any, n: int) -> bool:
    """Return whether one of n entries is NaN.

    C: degenerate_log_sum in rows_pipeline.h
    """
    found = False
    for j in range(n):
        found |= x[j] != x[j]
    return found


@_function
def sum_row(x: Any, classes: int, top: Any, e: Any, next_row: Any, t: Any, out: Any, pending: Any, scratch: Any) -> Any:
    """Return a row's sums, the ChunkMax of the next row's first chunk, and how many entries are left in the line.

    `top` is the ChunkMax of this row's first chunk. `next_row` may be null.

    C: sum_row in rows_pipeline.h
    """
    has_target = not (is_null(t.soft) and is_null(t.base))
    row = RowSums(-np.inf, 0.0, 0.0, 0.0)
    step = chunk_of(x, classes)
    held = 0
    if not is_null(pending.grad):
        stream_head(pending, e, scratch)
    for first in range(0, classes, step):
        n = min(step, classes - first)
        ahead, n_ahead = at(x, first + n), min(step, classes - first - n)
        if n_ahead == 0:
            ahead, n_ahead = next_row, 0 if is_null(next_row) else min(step, classes)
        kept = e if is_null(e) else at(e, first)
        lines = out if is_null(out) else at(out, first)
        chunk_rest, next_max, chunk_held = sum_chunk(
            at(x, first), n, top, kept, ahead, n_ahead, lines, pending, first, scratch
        )
        held += chunk_held
        shift = shift_of(row.top)
        row = with_chunk(row, top.value, chunk_rest)
        scratch.tops[first // step] = top.value
        if has_target:
            chunk_shift = shift_of(top.value)
            mass, cost = sum_targets(x, first, first + n, chunk_shift, t)
            row = with_targets(row, shift, mass, cost, chunk_shift)
        top = next_max
    if row.top == np.inf:
        row = RowSums(row.top, np.nan if has_nan(x, classes) else 0.0, row.mass, row.cost)
    return row, top, held
