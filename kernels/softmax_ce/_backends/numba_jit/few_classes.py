"""Rows of few classes: several rows at a time, a row in each lane, so that a row shorter than a vector wastes none."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp, exp_scale, log1p
from softmax_ce._backends.numba_jit.columns import columns_at, load_columns, store_columns
from softmax_ce._backends.numba_jit.memory import (
    at,
    is_null,
    null_if,
    one_each,
    prefetch,
    prefetch_to_write,
    store,
    store_first,
)
from softmax_ce._backends.numba_jit.vectors import (
    as_bits,
    filled,
    fma,
    known_labels,
    lanes_of,
    maximum,
    rounded,
    where,
    widen,
)

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py


class Group(NamedTuple):
    """Some rows side by side, as many as a vector has lanes or fewer."""

    x: Any  # the first of their logits
    soft: Any  # the first of their soft labels, or null
    first: int
    size: int
    label: Any  # vectors, an entry a row; -1: no label
    weight: Any
    gain: Any  # weight * upstream


class Room(NamedTuple):
    """Scratch: a vector for each class, for logits and for soft labels, and rows as they are in memory."""

    columns: Any
    soft: Any
    rows: Any


class _Rows(NamedTuple):
    """Vectors, an entry a row."""

    top: Any
    x_label: Any
    mass: Any  # the label's own
    at_label: Any  # what else T has there
    spread: Any  # the sum of what else T has
    cost: Any  # the sum of it times top - x
    rest: Any  # the sum of exp(x - top), less one of the tops
    s: Any  # 1 + rest
    inverse: Any
    log_s: Any


@_inlined
def is_few(classes: int, w: int, soft: bool) -> bool:
    """Whether this is the faster way, as measured: about as long as the tiles stay in L1. w: lanes of a vector."""
    most = 128 if soft else 256 if w > 8 else 160  # soft labels have tiles too; float64 has half the lanes
    return classes <= most


@_inlined
def _load(columns: Any, p: Any, classes: int, count: int, rows: Any) -> None:
    """Rows at p, `count` of them, into columns; fewer than the lanes by way of `rows`, so that none is read beyond."""
    lanes = lanes_of(columns)
    if count < lanes:
        for k in range(count * classes):
            rows[k] = p[k]
        for k in range(count * classes, lanes * classes):
            rows[k] = 0.0
        p = rows
    load_columns(columns, p, classes)


@_inlined
def _store(columns: Any, p: Any, classes: int, wanted: int, rows: Any) -> None:
    """Columns into the rows at p that have a bit in `wanted`."""
    lanes = lanes_of(columns)
    if wanted == (1 << lanes) - 1:
        store_columns(columns, p, classes)
        return
    store_columns(columns, rows, classes)
    for i in range(lanes):
        if wanted >> i & 1:
            for k in range(i * classes, (i + 1) * classes):
                p[k] = rows[k]


@_inlined
def _store_each(p: Any, group: Any, value: Any) -> None:
    """An entry of p a row, where there is p."""
    if not is_null(p):
        if group.size == lanes_of(value):
            store(p, group.first, value)
        else:
            store_first(p, group.first, group.size, value)


@_inlined
def _not_finite(v: Any) -> int:
    return ~as_bits(v - v == 0.0)


@_inlined
def _target(t: Any, soft: Any, j: int) -> Any:
    """T of class j in every row."""
    v = filled(soft, 0.0)
    if not is_null(t.soft):
        v = soft[j] * filled(soft, t.scale[j * t.scale_step])
    if not is_null(t.base):
        v = v + filled(soft, t.base[j * t.base_step])
    return v


@_inlined
def _ask_for(group: Any, out: Any, classes: int, j: int) -> None:
    """Lines of the rows ahead, and of the gradient at `out`: so many rows are more streams than hardware follows."""
    lanes = lanes_of(group.label)
    for entry in range(j * lanes, (j + 1) * lanes, lanes_of(group.x)):
        prefetch(group.x, lanes * classes + entry)
        if not is_null(out):
            prefetch_to_write(out, entry)


@_function
def _look_over(classes: int, group: Any, t: Any, columns: Any) -> Any:
    """Each row's largest logit, and what lies at its label: the logit and the mass."""
    top = columns[0]
    index = x_label = filled(columns, 0.0)
    mass = filled(columns, t.scale[0])
    for j in range(classes):
        v = columns[j]
        top = maximum(v, top)
        is_label = group.label == index
        x_label = where(is_label, v, x_label)
        if t.scale_step != 0:
            mass = where(is_label, filled(columns, t.scale[j]), mass)
        index = index + 1.0
    return top, x_label, mass


@_inlined
def _exp_of(columns: Any, j: int, top: Any, ties: Any) -> Any:
    """exp(x - top), raised, takes the logits' place; 0 where x is the top, which is counted instead."""
    v = columns[j]
    e = exp(v - top)
    columns[j] = e
    is_top = v == top
    return where(is_top, 0.0, e), ties + where(is_top, 1.0, filled(columns, 0.0))


@_function
def _sum_group(classes: int, group: Any, top: Any, out: Any, columns: Any) -> Any:
    """Of each row: how many of its logits equal the largest, and the sum of exp over the others, raised."""
    ties = filled(columns, 0.0)
    total = widen(ties)
    j = 0
    while j + 4 <= classes:
        for k in range(j, j + 4):
            _ask_for(group, out, classes, k)
        a, ties = _exp_of(columns, j, top, ties)
        b, ties = _exp_of(columns, j + 1, top, ties)
        c, ties = _exp_of(columns, j + 2, top, ties)
        d, ties = _exp_of(columns, j + 3, top, ties)
        total = total + widen((a + b) + (c + d))
        j += 4
    while j < classes:
        _ask_for(group, out, classes, j)
        a, ties = _exp_of(columns, j, top, ties)
        total = total + widen(a)
        j += 1
    return ties, total


@_function
def _sum_targets(classes: int, group: Any, top: Any, t: Any, room: Any) -> Any:
    """Of each row, before its logits are overwritten: the sum of T, of T * (top - x) / 2, and T at the label."""
    at_label = index = filled(room.columns, 0.0)
    mass = cost = widen(index)
    for j in range(classes):
        target = _target(t, room.soft, j)
        mass = mass + widen(target)
        cost = cost + widen(where(target == 0.0, 0.0, target * (top * 0.5 - room.columns[j] * 0.5)))
        at_label = where(group.label == index, target, at_label)
        index = index + 1.0
    return mass, cost, at_label


@_inlined
def _loss(group: Any, rows: Any, z_loss: float) -> Any:
    """Not finite where a logit is NaN or +inf, or all are -inf: 0 * inf is NaN."""
    value = rows.mass * ((rows.top - rows.x_label) + rows.log_s)
    value = value + fma(rows.spread, rows.log_s, rows.cost)
    if z_loss != 0:
        lse = rows.top + rows.log_s
        value = fma(lse * z_loss, lse, value)
    return group.weight * value


@_function
def _write_columns(classes: int, group: Any, rows: Any, t: Any, z_loss: float, room: Any) -> int:
    """The gradients of all rows take the exponentials' place. Gives a bit for each that is not finite.

    What is not explained here is in `row`.
    """
    columns, gain = room.columns, group.gain
    has_target = not (is_null(t.soft) and is_null(t.base))
    zero = filled(columns, 0.0)
    unscale = 1 / exp_scale(group.x)
    p_label = exp(rows.x_label - rows.top) * unscale  # times s
    others = where(rows.x_label == rows.top, rows.rest, rows.s - p_label)
    pull = rows.spread
    if z_loss != 0:
        pull = fma(rows.top + rows.log_s, 2 * z_loss, pull)
    at_label = gain * ((pull * p_label - rows.mass * others) * rows.inverse - rows.at_label)
    share = (rows.mass + pull) * rows.inverse
    factor = share if has_target else gain * share
    is_small = (factor > -1.0) & (factor < 1.0)
    by = where(is_small, factor, factor * unscale)
    then = where(is_small, filled(columns, unscale), 1.0)
    place = where(rows.mass == 0.0, -1.0, group.label)  # without mass, the label is a class like the others
    index = zero
    for j in range(classes):
        value = fma(columns[j] * by, then, 0.0)
        if has_target:
            value = gain * (value - _target(t, room.soft, j))  # the difference first: one class gives exactly 0
        columns[j] = where(place == index, at_label, value)
        index = index + 1.0
    return _not_finite(gain * share + at_label)


@_inlined
def _sum_rows(classes: int, group: Any, t: Any, base_total: float, out: Any, room: Any) -> Any:
    columns = room.columns
    hard = is_null(t.soft)
    at_label = cost = filled(columns, 0.0)
    spread = filled(columns, base_total)
    top, x_label, mass = _look_over(classes, group, t, columns)
    if not hard:
        mass = at_label
    if not (hard and is_null(t.base)):
        soft_mass, half_cost, at_label = _sum_targets(classes, group, top, t, room)
        cost = rounded(half_cost * 2.0, top)
        if not hard:
            spread = rounded(soft_mass, top)
    ties, raised = _sum_group(classes, group, top, out, columns)
    rest = fma(rounded(raised, top), 1 / exp_scale(group.x), ties - 1.0)
    s = 1.0 + rest
    inverse = 1.0 / s
    return _Rows(top, x_label, mass, at_label, spread, cost, rest, s, inverse, log1p(rest, s, inverse))


@_merged
def _few_rows(classes: int, group: Any, t: Any, base_total: float, z_loss: float, outputs: Any, room: Any) -> Any:
    """A group of rows, each in its lane; as `row` does them one by one.

    Gives a bit for each row that is left to do, untouched: it does not count, or is not finite somewhere, or would
    overflow on the way. And a bit for each whose gradient alone is left: a loss must not depend on its being asked for.
    """
    there = (1 << group.size) - 1
    _load(room.columns, group.x, classes, group.size, room.rows)
    left = as_bits(group.weight == 0.0)
    if is_null(t.soft):
        left |= as_bits(group.label == -1.0)
    else:
        _load(room.soft, group.soft, classes, group.size, room.rows)
    out = null_if(is_null(outputs.grad), at(outputs.grad, group.first * classes))
    rows = _sum_rows(classes, group, t, base_total, out, room)
    loss = _loss(group, rows, z_loss)
    left = (left | _not_finite(loss)) & there
    left_grad = 0
    _store_each(outputs.loss, group, loss)
    _store_each(outputs.row_max, group, rows.top)
    _store_each(outputs.log_sum, group, rows.log_s)
    if not is_null(out):
        left_grad = _write_columns(classes, group, rows, t, z_loss, room) & there & ~left
        _store(room.columns, out, classes, there & ~(left | left_grad), room.rows)
    return left, left_grad


@_inlined
def _factors(call: Any, first: int, count: int, like: Any) -> Any:
    """Of `count` rows: weight, and weight * upstream, rounded once."""
    ones = widen(filled(like, 1.0))
    if call.weight_step == 0 and call.upstream_step == 0:
        weight, gain = call.weight[0], call.weight[0] * call.upstream[0]
        return rounded(ones * weight, like), rounded(ones * gain, like)
    weights = one_each(call.weight, call.weight_step, first, count, ones)
    gains = weights * one_each(call.upstream, call.upstream_step, first, count, ones)
    return rounded(weights, like), rounded(gains, like)


@_function
def _group_of(call: Any, first: int, count: int, columns: Any) -> Any:
    """`count` rows from `first` on."""
    zero = filled(columns, 0.0)
    label = filled(columns, -1.0)
    hard = is_null(call.targets.soft)
    if hard:
        labels = one_each(call.labels, call.labels_step, first, count, widen(zero))
        label = known_labels(labels, call.classes, call.ignore_index, label)
    weight, gain = _factors(call, first, count, zero)
    soft = null_if(hard, at(call.targets.soft, first * call.classes))
    return Group(at(call.logits, first * call.classes), soft, first, count, label, weight, gain)


@_function
def groups(call: Any, outputs: Any, p: Any, start: int, stop: int) -> Any:
    """Rows [start, stop), up to the first group that has some left. p: scratch.

    Gives where that group begins, its bits as `_few_rows` has them, and where it ends.
    """
    columns, classes = columns_at(p), call.classes
    lanes = lanes_of(columns)
    kinds = 1 if is_null(call.targets.soft) else 2
    room = Room(columns, at(columns, classes), at(p, kinds * classes * lanes))
    for first in range(start, stop, lanes):
        count = min(lanes, stop - first)
        group = _group_of(call, first, count, columns)
        left, left_grad = _few_rows(classes, group, call.targets, call.base_total, call.z_loss, outputs, room)
        if left | left_grad != 0:
            return first, left, left_grad, first + count
    return stop, 0, 0, stop
