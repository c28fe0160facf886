"""The second pass over a row: its gradient, from the exponentials that were kept, or computed again.

If the scratch has a `line`, the gradient is streamed: whole cache lines are written past the caches. No other store may
touch such a line, because that would read it back from memory. So the label's entry is inserted into its vector before
the store. The end of a row is held in `line` until the beginning of the next row completes it.
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
from softmax_ce.tuning import LINE_BYTES, NEXT_ROW_BYTES

# Vectors of the next row that are prefetched while a row is written. The rest are prefetched while the row is summed.
_NEXT_ROW = NEXT_ROW_BYTES // LINE_BYTES

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


class PendingGradient(NamedTuple):
    """A gradient that is streamed while the next row is summed: exponentials times the factors of their chunks.

    C: output in rows_output.h
    """

    grad: Any  # null if no gradient is pending
    classes: int
    step: int  # classes of a chunk
    label: int  # -1 if no entry differs
    at_label: float
    head: int  # entries before the first whole line
    held: int  # entries of the row before that are in the scratch's line


@_inlined
def entries_to_line(p: Any) -> int:
    """Return the number of entries from p to the next beginning of a cache line, 0 if p is one.

    C: lane_of in rows_output.h
    """
    return (-address(p) & (LINE_BYTES - 1)) * lanes_of(p) // LINE_BYTES


@_inlined
def _by_chunk(like: Any, first: float, second: float, n_first: int) -> Any:
    """Return a vector with `first` in its first `n_first` lanes, which belong to one chunk, and `second` in the others.

    C: none, chunks there begin with a vector
    """
    v = filled(like, first)
    return v if n_first >= lanes_of(like) else where(lanes_below(n_first, v), v, filled(like, second))


@_inlined
def _scaled(e: Any, p: Any, k: int, n_first: int, scratch: Any) -> Any:
    """Return exponentials times the factors of chunk k, or from lane `n_first` on, of chunk k + 1.

    The factor is applied in two steps, so that neither a factor nor a product is subnormal if the gradient is not. The
    second step is fused: if its result is subnormal, a plain product takes 2.5 times as long on Zen 5.

    C: within value_at in rows_output.h
    """
    factors = scratch.factors
    by = _by_chunk(p, factors[2 * k], factors[2 * k + 2], n_first)
    then = _by_chunk(p, factors[2 * k + 1], factors[2 * k + 3], n_first)
    return fma(e * by, then, 0.0)


@_inlined
def _with_label(value: Any, label: int, at_label: float) -> Any:
    """Return the vector with the label's entry in lane `label`, if it has such a lane.

    C: with_lane in rows_load.h
    """
    return insert_lane(value, label, at_label) if 0 <= label < lanes_of(value) else value


@_inlined
def shift_of(top: float) -> float:
    """Return what is subtracted from a chunk's logits: its maximum, or 0 for -inf, because -inf - -inf is NaN.

    C: within sum_chunk_of in rows_sums.h
    """
    return 0.0 if top == -np.inf else top


@_inlined
def set_factors(factors: Any, k: int, factor: float, scale: float) -> None:
    """Store the two numbers by which the exponentials of chunk k are multiplied, one after the other.

    C: within begin_chunk in rows_output.h
    """
    is_small = abs(factor) < 1
    factors[2 * k] = factor if is_small else factor / scale
    factors[2 * k + 1] = 1 / scale if is_small else 1.0


# Streaming while the next row is summed. `e` holds the exponentials of the chunk that begins at class `first`.


@_inlined
def stream_head(pending: Any, e: Any, scratch: Any) -> None:
    """Stream the line that a pending row shares with the row before.

    C: within begin_chunk in rows_output.h
    """
    if pending.head > 0:
        value = _scaled(load(e, 0), e, 0, lanes_of(e), scratch)
        _write_head(
            pending.grad, pending.head, pending.held, _with_label(value, pending.label, pending.at_label), scratch
        )


@_inlined
def _write_head(grad: Any, head: int, held: int, value: Any, scratch: Any) -> None:
    """Write the first `head` entries of a row, after the `held` entries of the row before.

    C: append_to_line in rows_output.h
    """
    if held > 0:
        store(scratch.line, held, value)  # entries beyond the line stay in the scratch
        stream(grad, -held, load(scratch.line, 0))
    else:
        store_first(grad, 0, head, value)


@_inlined
def stream_block(pending: Any, e: Any, j: int, first: int, scratch: Any) -> None:
    """Stream four vectors of a pending row, which begin j entries after the head of the chunk.

    C: write_vectors in rows_output.h
    """
    w = lanes_of(e)
    k, start = first // pending.step, j + pending.head
    grad = at(pending.grad, first)
    label = pending.label - first - start
    for i in range(0, 4 * w, w):
        value = _scaled(load(e, start + i), e, k, w, scratch)
        if 0 <= label < 4 * w:
            value = _with_label(value, label - i, pending.at_label)
        stream(grad, start + i, value)


@_function
def stream_rest(pending: Any, e: Any, j: int, n: int, first: int, scratch: Any) -> int:
    """Stream the rest of a chunk of n classes, whose last vector may reach into the next chunk.

    Returns the number of entries in the scratch's line, which are left for the next row.

    C: write_rest in rows_output.h
    """
    w = lanes_of(e)
    k, j = first // pending.step, j + pending.head
    grad, end = at(pending.grad, first), pending.classes - first
    while j < n:
        n_first = n - j if n < end else w
        value = _scaled(load(e, j), e, k, n_first, scratch)
        value = _with_label(value, pending.label - first - j, pending.at_label)
        if j + w > end:
            store(scratch.line, 0, value)
            return end - j
        stream(grad, j, value)
        j += w
    return 0


@_function
def write_pending(pending: Any, e: Any, scratch: Any) -> int:
    """Stream a whole pending row while no other row is summed. Return the number of entries in the scratch's line.

    C: write_chunks in rows_pipeline.h
    """
    stream_head(pending, e, scratch)
    held = 0
    for first in range(0, pending.classes, pending.step):
        n = min(pending.step, pending.classes - first)
        held += stream_rest(pending, at(e, first), 0, n, first, scratch)
    return held


@_function
def flush_line(grad: Any, classes: int, held: int, line: Any) -> None:
    """Write the `held` entries that end the last row.

    C: flush_line in rows_output.h
    """
    if held > 0:
        store_first(grad, classes - held, held, load(line, 0))


# Writing in a pass of its own


class GradientRow(NamedTuple):
    """A row whose gradient is written in a pass of its own. C: output in rows_output.h."""

    x: Any
    e: Any  # exp(x - top); null if it has to be computed again
    grad: Any
    classes: int
    step: int  # classes of a chunk, which have their factors in common
    gain: float  # grad = gain * (factor * exp(x - top) - T) if there is a T for each class; else in the factors
    label: int
    at_label: float


@_inlined
def _exp_again(row: Any, j: int, left: int, k: int, n_first: int, scratch: Any) -> Any:
    """Return the exponentials that chunk k has in its sum, and from lane `n_first` on, those of chunk k + 1.

    C: within value_at in rows_output.h
    """
    top = _by_chunk(row.x, shift_of(scratch.tops[k]), shift_of(scratch.tops[k + 1]), n_first)
    return exp(load_or(row.x, j, left, 0.0) - top)


@_inlined
def _gradient(row: Any, t: Any, has_target: bool, j: int, left: int, k: int, n_first: int, scratch: Any) -> Any:
    """Return the gradient at classes j, j + 1, ..., of which `left` exist.

    C: value_at in rows_output.h
    """
    e = _exp_again(row, j, left, k, n_first, scratch) if is_null(row.e) else load(row.e, j)
    value = _scaled(e, row.grad, k, n_first, scratch)
    if has_target:
        value = filled(row.x, row.gain) * (value - target_at(t, j, left))  # the difference first: one class gives 0
    return _with_label(value, row.label - j, row.at_label)


@_function
def write_row(row: Any, t: Any, held: int, next_row: Any, scratch: Any) -> int:
    """Write the gradient of a row. Return the number of entries in the scratch's line.

    `held` entries of the row before are in the line. If `next_row` is null, no row follows, and the line is written.

    C: write_chunks in rows_pipeline.h
    """
    w = lanes_of(row.grad)
    has_target = not (is_null(t.soft) and is_null(t.base))
    line, j = scratch.line, 0
    if not is_null(line):
        j = entries_to_line(row.grad)
        if j > 0:
            _write_head(row.grad, j, held, _gradient(row, t, has_target, 0, j, 0, w, scratch), scratch)
    k, stop = 0, min(row.step, row.classes)
    while j + w <= row.classes:
        j = _write_within(row, t, has_target, j, k, stop, next_row, scratch)
        if j + w > row.classes:
            break
        if j < stop:  # only if the head has moved lines against chunks, so the gradient is streamed
            stream(row.grad, j, _gradient(row, t, has_target, j, w, k, stop - j, scratch))
            j += w
        k, stop = k + 1, min(stop + row.step, row.classes)
    return _write_tail(row, t, has_target, j, k, stop, next_row, scratch)


@_inlined
def _write_within(row: Any, t: Any, has_target: bool, j: int, k: int, stop: int, next_row: Any, scratch: Any) -> int:
    """Write the vectors from class j on that lie within chunk k, which ends at `stop`. Return where they end.

    C: write_blocks in rows_output.h
    """
    w = lanes_of(row.grad)
    if is_null(scratch.line):
        while j + w <= stop:
            store(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
            j += w
        return j
    while j + w <= stop:
        if is_null(row.e) and j < _NEXT_ROW * w:
            prefetch(next_row, j)
        stream(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
        j += w
    return j


@_inlined
def _write_tail(row: Any, t: Any, has_target: bool, j: int, k: int, stop: int, next_row: Any, scratch: Any) -> int:
    """Write the entries from class j on, fewer than a vector; chunk k ends at `stop`.

    C: write_some_of in rows_output.h
    """
    w, left, line = lanes_of(row.grad), row.classes - j, scratch.line
    if left == 0:
        return 0
    if is_null(line) and not is_null(row.e) and row.classes - w >= k * row.step and stop == row.classes:
        j = row.classes - w  # overlaps what is written already, with the same values from the same exponentials
        store(row.grad, j, _gradient(row, t, has_target, j, w, k, w, scratch))
        return 0
    n_first = max(stop - j, 0) if stop < row.classes else w
    value = _gradient(row, t, has_target, j, left, k, n_first, scratch)
    if not is_null(line) and not is_null(next_row):
        store(line, 0, value)
        return left
    store_first(row.grad, j, left, value)
    return 0


@_function
def fill_row(grad: Any, classes: int, value: float, line: Any, held: int) -> None:
    """Set a row of the gradient to one value, and write the `held` entries of the row before.

    C: fill in rows_pipeline.h
    """
    if held > 0:
        store_first(grad, -held, held, load(line, 0))
    for j in range(classes):
        grad[j] = value
