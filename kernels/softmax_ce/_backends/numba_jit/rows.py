"""One row at a time, its classes along the lanes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp, exp_scale
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    is_null,
    load,
    load_first,
    null_if,
    prefetch,
    prefetch_to_write,
    store,
    store_first,
    stream,
)
from softmax_ce._backends.numba_jit.vectors import (
    filled,
    first_lane,
    fma,
    insert_lane,
    lanes_below,
    lanes_of,
    max_lanes,
    maximum,
    sum_lanes,
    where,
    widen,
)

CHUNK = 2048  # classes summed at a time, at most; the bits of a row depend on it

# How far ahead lines are asked for, in vectors of 64 bytes: the hardware's own prefetcher keeps too close to the loop.
_READ_AHEAD = 128
_NEXT_ROW = 1024  # of the row ahead, while a row is written; the rest beside its sums, so that memory never waits

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


@_inlined
def _load(p: Any, j: int, left: int, fill: float) -> Any:
    return load(p, j) if left >= lanes_of(p) else load_first(p, j, left, fill)


@_inlined
def _add_exp(v: Any, tops: Any, shifts: Any, e: Any, j: int, keep: bool, count: Any) -> Any:
    """exp(v - shift), 0 where v is the top, which is counted instead."""
    value = exp(v - shifts)
    if keep:
        store(e, j, value)
    is_top = v == tops
    return where(is_top, 0.0, value), where(is_top, count + 1.0, count)


@_inlined
def _sum_block(x: Any, j: int, top: Any, shift: Any, e: Any, keep: bool, rest: Any, count: Any) -> Any:
    """Four vectors, added up two by two, then in float64."""
    w = lanes_of(x)
    a, count = _add_exp(load(x, j), top, shift, e, j, keep, count)
    b, count = _add_exp(load(x, j + w), top, shift, e, j + w, keep, count)
    c, count = _add_exp(load(x, j + 2 * w), top, shift, e, j + 2 * w, keep, count)
    d, count = _add_exp(load(x, j + 3 * w), top, shift, e, j + 3 * w, keep, count)
    return rest + widen((a + b) + (c + d)), count


@_inlined
def _max_block(x: Any, j: int, a: Any, b: Any) -> Any:
    w = lanes_of(x)
    a, b = maximum(load(x, j), a), maximum(load(x, j + w), b)
    return maximum(load(x, j + 2 * w), a), maximum(load(x, j + 3 * w), b)


@_inlined
def _max_rest(x: Any, j: int, n: int, a: Any, b: Any) -> Any:
    """The largest of n entries, of which those before j are in a and b. A NaN is passed over."""
    w = lanes_of(x)
    while j + 4 * w <= n:
        a, b = _max_block(x, j, a, b)
        j += 4 * w
    while j < n:
        a = maximum(_load(x, j, n - j, -np.inf), a)
        j += w
    return np.float64(max_lanes(maximum(a, b)))


@_inlined
def chunk_of(x: Any, classes: int) -> int:
    """Classes a chunk: as few chunks as CHUNK allows, all of a length but the last, which may be shorter."""
    chunks = (classes + CHUNK - 1) // CHUNK
    block = 4 * lanes_of(x)
    return ((classes + chunks - 1) // chunks + block - 1) // block * block


@_function
def max_of(x: Any, n: int) -> Any:
    """The largest of n entries; a NaN is passed over."""
    low = filled(x, -np.inf)
    return _max_rest(x, 0, n, low, low)


@_function
def _sum_chunk(x: Any, n: int, top: Any, e: Any, keep: bool, ahead: Any, n_ahead: int, out: Any) -> Any:
    """Sum of exp(x - top) below the top, how many are at the top, and the top of the chunk ahead.

    The chunk ahead is read meanwhile, and so are the lines of the gradient at `out`, if there is one: they come in
    while the arithmetic of this chunk is done.
    """
    w = lanes_of(x)
    shift = 0.0 if top == -np.inf else top  # -inf - -inf would be NaN
    rest, count = widen(filled(x, 0.0)), filled(x, 0.0)
    a = b = filled(x, -np.inf)
    j = 0
    both = min(n, n_ahead)
    while j + 4 * w <= both:
        rest, count = _sum_block(x, j, top, shift, e, keep, rest, count)
        a, b = _max_block(ahead, j, a, b)
        for k in range(4):
            prefetch(ahead, j + (k + _READ_AHEAD) * w)
            if not is_null(out):
                prefetch_to_write(out, j + k * w)
        j += 4 * w
    next_top = _max_rest(ahead, j, n_ahead, a, b)
    while j + 4 * w <= n:
        rest, count = _sum_block(x, j, top, shift, e, keep, rest, count)
        j += 4 * w
    while j < n:
        # Lanes that are not there are -inf: they add 0, and are counted only where the count is not used.
        value, count = _add_exp(_load(x, j, n - j, -np.inf), top, shift, e, j, keep, count)
        rest = rest + widen(value)
        j += w
    tops = 0.0 if top == -np.inf else sum_lanes(widen(count))
    return sum_lanes(rest) / exp_scale(x), tops, next_top


# Where a row's T comes from: (soft, scale, scale_step, base, base_step). Null pointers: not there; step 0: one for all.


@_inlined
def _by_class(p: Any, step: int, j: int, left: int) -> Any:
    if step != 0:
        return _load(p, j, left, 0.0)
    v = filled(p, p[0])
    return v if left >= lanes_of(p) else where(lanes_below(left, v), v, 0.0)  # a lane without a class has no mass


@_inlined
def _target(t: Any, j: int, left: int) -> Any:
    """T at classes j, j + 1 ... of which `left` are left."""
    soft, scale, scale_step, base, base_step = t
    v = filled(base, 0.0)
    if not is_null(soft):
        v = _load(soft, j, left, 0.0) * _by_class(scale, scale_step, j, left)
    if not is_null(base):
        v = v + _by_class(base, base_step, j, left)
    return v


@_function
def _sum_targets(x: Any, first: int, stop: int, shift: Any, t: Any) -> Any:
    """Sum of T and of T * (shift - x), for classes [first, stop), in float64. 0 * inf = 0."""
    mass = cost = widen(filled(x, 0.0))
    half_shift = filled(x, shift) * 0.5  # halves, since shift - x may overflow where the loss does not
    for j in range(first, stop, lanes_of(x)):
        target = _target(t, j, stop - j)
        gap = half_shift - _load(x, j, stop - j, 0.0) * 0.5
        mass = mass + widen(target)
        cost = cost + widen(where(target == 0.0, 0.0, target * gap))
    return sum_lanes(mass), 2 * sum_lanes(cost)


@_function
def _sum_row(x: Any, classes: int, top: Any, e: Any, keep: bool, ahead: Any, t: Any, out: Any) -> Any:
    """First sweep over a row whose first chunk's top is known.

    Gives the row's top; the sum of exp(x - top) without one of the tops; the sum of T and of T * (top - x); and the
    top of the first chunk ahead, if there is a row ahead.
    """
    has_target = not (is_null(t[0]) and is_null(t[3]))
    row_top = -np.inf
    rest = count = mass = cost = shift = 0.0
    step = chunk_of(x, classes)
    for first in range(0, classes, step):
        n = min(step, classes - first)
        if first + n < classes:
            following, n_following = at(x, first + n), min(step, classes - first - n)
        else:
            following, n_following = ahead, 0 if is_null(ahead) else min(step, classes)
        chunk = at(x, first)
        chunk_rest, chunk_count, next_top = _sum_chunk(chunk, n, top, e, keep, following, n_following, out)
        if top == row_top:
            count += chunk_count
            rest += chunk_rest
        elif top > row_top:  # a NaN so far comes through
            rest = chunk_rest + (count + rest) * math.exp(row_top - top)
            count = chunk_count
            row_top = top
        else:
            rest += (chunk_count + chunk_rest) * math.exp(top - row_top)
        if has_target:
            new_shift = 0.0 if row_top == -np.inf else row_top
            chunk_mass, chunk_cost = _sum_targets(x, first, first + n, 0.0 if top == -np.inf else top, t)
            if mass != 0:
                cost += 2 * (mass * (0.5 * new_shift - 0.5 * shift))
            if chunk_mass != 0:
                cost += 2 * (chunk_mass * (0.5 * new_shift - 0.5 * (0.0 if top == -np.inf else top)))
            mass += chunk_mass
            cost += chunk_cost
            shift = new_shift
        top = next_top
    return row_top, rest + (count - 1), mass, cost, top


@_inlined
def _gradient(
    x: Any, e: Any, keep: bool, tops: Any, by: Any, gain: Any, t: Any, has_target: bool, label: int, at_label: Any,
    j: int, left: int,
) -> Any:  # fmt: skip
    if keep:
        value = _load(e, j, left, 0.0) * by[0] * by[1]
    else:  # fused: where its result is subnormal, a plain product takes 2.5 times as long on Zen 5
        value = fma(exp(_load(x, j, left, 0.0) - tops) * by[0], by[1], 0.0)
    if has_target:
        value = gain * (value - _target(t, j, left))  # the difference first: with one class it is exactly 0
    if 0 <= label - j < lanes_of(x):
        value = insert_lane(value, label - j, at_label)
    return value


@_function
def _write_row(
    x: Any, grad: Any, classes: int, e: Any, keep: bool, top: float, factor: float, gain: float, t: Any,
    label: int, at_label: Any, line: Any, held: int, ahead: Any,
) -> int:  # fmt: skip
    """Second sweep: grad = factor * exp(x - top), or gain * (factor * exp(x - top) - T); at_label at the label.

    Streamed, if there is a `line` to hold what does not fill one: whole cache lines go past the caches, and none of
    them is touched by another store, which would read it back. So the label is put into its vector; and the end of a
    row, `held` entries of a line, waits for the beginning of the next. Gives how many wait now.
    """
    w = lanes_of(x)
    has_target = not (is_null(t[0]) and is_null(t[3]))
    tops, gains = filled(x, top), filled(x, gain)
    # In two steps, so that neither a factor nor a product is subnormal where the gradient is not.
    by = filled(x, factor), filled(x, 1 / exp_scale(x))
    if abs(factor) >= 1:
        by = filled(x, factor / exp_scale(x)), filled(x, 1.0)
    j = 0
    if not is_null(line):
        j = (-address(grad) & 63) * w // 64
        if j > 0:
            value = _gradient(x, e, keep, tops, by, gains, t, has_target, label, at_label, 0, j)
            if held > 0:
                store_first(line, held, j, value)
                stream(grad, -held, load(line, 0))
            else:
                store_first(grad, 0, j, value)
        while j + w <= classes:
            if not keep and j < _NEXT_ROW * w:
                prefetch(ahead, j)
            stream(grad, j, _gradient(x, e, keep, tops, by, gains, t, has_target, label, at_label, j, w))
            j += w
    while j + w <= classes:
        store(grad, j, _gradient(x, e, keep, tops, by, gains, t, has_target, label, at_label, j, w))
        j += w
    left = classes - j
    if left > 0:
        value = _gradient(x, e, keep, tops, by, gains, t, has_target, label, at_label, j, left)
        if not is_null(line) and not is_null(ahead):
            store(line, 0, value)
            return left
        store_first(grad, j, left, value)
    return 0


@_inlined
def _fill(grad: Any, classes: int, value: float, line: Any, held: int) -> None:
    """A gradient that is one value throughout, after what waits of the row before."""
    if held > 0:
        store_first(grad, -held, held, load(line, 0))
    for j in range(classes):
        grad[j] = value


@_function
def row(
    x: Any, classes: int, top: Any, label: int, mass: float, t: Any, base_total: float, z_loss: float,
    weight: float, upstream: float, i: int, outputs: Any, e: Any, line: Any, held: int, ahead: Any,
) -> Any:  # fmt: skip
    """Row i, at x; label -1: none. Gives the top of the first chunk ahead (NaN: not known) and what is held of a line.

    e is a scratch of CHUNK entries, or of the classes if they are fewer, and one vector. The gradient is streamed if
    there is a `line`, a scratch of one vector; `held` is what the row before has left in it.
    """
    loss, grads, row_max, log_sum = outputs
    soft, base, base_step = t[0], t[3], t[4]
    hard = is_null(soft)
    grad = grads if is_null(grads) else at(grads, i * classes)
    counts = weight != 0 and (not hard or label >= 0)
    if not counts:
        if not is_null(loss):
            loss[i] = 0
        if is_null(row_max) and is_null(log_sum):
            if not is_null(grad):
                _fill(grad, classes, 0.0, line, held)
            return np.nan, 0
    x_label = np.float64(x[label]) if label >= 0 else 0.0  # before the gradient may overwrite it
    keep = classes <= CHUNK and not is_null(grad)
    out = null_if(not keep or not is_null(line), grad)
    row_top, rest, soft_mass, cost, next_top = _sum_row(x, classes, top, e, keep, ahead, t, out)
    broken = not (-np.inf < row_top < np.inf) or rest != rest
    log_s = math.log1p(rest) if not broken else np.nan if rest != rest else 0.0
    if not is_null(row_max):
        row_max[i] = row_top
    if not is_null(log_sum):
        log_sum[i] = log_s
    if not counts or broken:
        if counts and not is_null(loss):
            loss[i] = np.nan
        if not is_null(grad):
            _fill(grad, classes, np.nan if counts else 0.0, line, held)
        return next_top, 0
    s = 1 + rest
    lse = row_top + log_s
    total = mass + base_total if hard else soft_mass
    z_pull = 2 * z_loss * lse if z_loss != 0 else 0.0
    if not is_null(loss):
        value = cost + total * log_s
        if hard and mass != 0:
            value += 2 * (mass * (0.5 * row_top - 0.5 * x_label))
        if z_loss != 0:
            value += z_loss * lse * lse
        loss[i] = weight * value
    if not is_null(grad):
        gain = weight * upstream
        at_label = 0.0
        if hard:  # from the other classes' share, never as p - 1, which cancels as p approaches 1
            e_label = first_lane(widen(exp(filled(x, x_label) - filled(x, row_top)))) / exp_scale(x)
            others = rest if x_label == row_top else s - e_label
            at_base = 0.0 if is_null(base) else np.float64(base[label * base_step])
            at_label = gain * ((base_total + z_pull) * (e_label / s) - mass * (others / s) - at_base)
        has_target = not (is_null(soft) and is_null(base))
        factor = (total + z_pull) / s if has_target else gain * (total + z_pull) / s
        own = label if mass != 0 else -1  # without mass, the label is a class like the others
        held = _write_row(x, grad, classes, e, keep, row_top, factor, gain, t, own, at_label, line, held, ahead)
    return next_top, held
