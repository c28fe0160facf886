"""Rows of few classes: several rows at a time, one in each lane, so that rows shorter than a vector waste no lanes."""

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
from softmax_ce.tuning import FEW_CLASSES

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py


class Group(NamedTuple):
    """Rows that are computed together, as many as a vector has lanes, or fewer. C: block in lanes_sums.h."""

    x: Any  # the first row's logits
    soft: Any  # the first row's soft labels, or null
    first: int
    size: int
    label: Any  # here and below, vectors with an entry a row; -1 if a row has no label
    weight: Any
    gain: Any  # weight * upstream


class GroupScratch(NamedTuple):
    """The scratch for a group. C: block in lanes_sums.h."""

    columns: Any  # a vector for each class: logits, then exponentials, then the gradient
    soft: Any  # the soft labels, likewise
    rows: Any  # rows as they are in memory


class GroupSums(NamedTuple):
    """The sums over the rows of a group: vectors with an entry a row. C: block in lanes_sums.h."""

    top: Any  # the largest logit
    x_label: Any
    mass: Any  # T at the label, without the base
    at_label: Any  # the base at the label
    spread: Any  # the sum of T, without `mass`
    cost: Any  # the sum of that T * (top - x)
    rest: Any  # the sum of exp(x - top), without one of the maxima
    s: Any  # 1 + rest
    inverse: Any  # 1 / s
    log_s: Any


@_inlined
def is_few(classes: int, w: int, soft: bool) -> bool:
    """Return whether rows are computed in groups; w is the lanes of a vector.

    C: LANES in vec_baseline.h
    """
    most = FEW_CLASSES.soft if soft else FEW_CLASSES.float32 if w > 8 else FEW_CLASSES.float64
    return classes <= most


@_inlined
def load_rows(columns: Any, p: Any, classes: int, count: int, rows: Any) -> None:
    """Load `count` rows at p into columns. If they are fewer than the lanes, `rows` is a copy, so none is read beyond.

    C: load_columns in lanes_memory.h
    """
    lanes = lanes_of(columns)
    if count < lanes:
        for k in range(count * classes):
            rows[k] = p[k]
        for k in range(count * classes, lanes * classes):
            rows[k] = 0.0
        p = rows
    load_columns(columns, p, classes)


@_inlined
def store_rows(columns: Any, p: Any, classes: int, wanted: int, rows: Any) -> None:
    """Store the rows that have a bit in `wanted` at p.

    C: store_columns in lanes_memory.h
    """
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
    """Store one entry for each row of the group, unless p is null.

    C: within finish_block in lanes_output.h
    """
    if not is_null(p):
        if group.size == lanes_of(value):
            store(p, group.first, value)
        else:
            store_first(p, group.first, group.size, value)


@_inlined
def not_finite(v: Any) -> int:
    """Return a bit for each lane that is not finite.

    C: not_finite in lanes_sums.h
    """
    return ~as_bits(v - v == 0.0)


@_inlined
def _target(t: Any, soft: Any, j: int) -> Any:
    """Return T of class j in each row, without the mass of a hard label.

    C: lane_target in lanes_sums.h
    """
    v = filled(soft, 0.0)
    if not is_null(t.soft):
        v = soft[j] * filled(soft, t.scale[j * t.scale_step])
    if not is_null(t.base):
        v = v + filled(soft, t.base[j * t.base_step])
    return v


@_inlined
def _prefetch_columns(group: Any, out: Any, classes: int, j: int) -> None:
    """Prefetch lines of the next group's logits, and of the gradient at `out`: hardware follows fewer streams.

    C: prefetch_columns in lanes_sums.h
    """
    lanes = lanes_of(group.label)
    for entry in range(j * lanes, (j + 1) * lanes, lanes_of(group.x)):
        prefetch(group.x, lanes * classes + entry)
        if not is_null(out):
            prefetch_to_write(out, entry)


@_function
def _maxima_and_labels(classes: int, group: Any, t: Any, columns: Any) -> Any:
    """Return each row's largest logit, the logit at its label, and the mass there.

    C: begin_block in lanes_sums.h
    """
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
    """Replace the logits of class j by exp(x - top), scaled. Return these with 0 at the maxima, which `ties` counts.

    C: exps_of_columns in lanes_sums.h
    """
    v = columns[j]
    e = exp(v - top)
    columns[j] = e
    is_top = v == top
    return where(is_top, 0.0, e), ties + where(is_top, 1.0, filled(columns, 0.0))


@_function
def _sum_exponentials(classes: int, group: Any, top: Any, out: Any, columns: Any) -> Any:
    """Return how many logits of each row equal the largest one, and the sum of exp over the others, scaled.

    C: sum_block in lanes_sums.h
    """
    ties = filled(columns, 0.0)
    total = widen(ties)
    j = 0
    while j + 4 <= classes:
        for k in range(j, j + 4):
            _prefetch_columns(group, out, classes, k)
        a, ties = _exp_of(columns, j, top, ties)
        b, ties = _exp_of(columns, j + 1, top, ties)
        c, ties = _exp_of(columns, j + 2, top, ties)
        d, ties = _exp_of(columns, j + 3, top, ties)
        total = total + widen((a + b) + (c + d))
        j += 4
    while j < classes:
        _prefetch_columns(group, out, classes, j)
        a, ties = _exp_of(columns, j, top, ties)
        total = total + widen(a)
        j += 1
    return ties, total


@_function
def _sum_targets(classes: int, group: Any, top: Any, t: Any, scratch: Any) -> Any:
    """Return the sum of T, the sum of T * (top - x) / 2, and T at the label, for each row. The columns hold logits.

    C: sum_columns in lanes_sums.h
    """
    at_label = index = filled(scratch.columns, 0.0)
    mass = cost = widen(index)
    for j in range(classes):
        target = _target(t, scratch.soft, j)
        mass = mass + widen(target)
        cost = cost + widen(where(target == 0.0, 0.0, target * (top * 0.5 - scratch.columns[j] * 0.5)))
        at_label = where(group.label == index, target, at_label)
        index = index + 1.0
    return mass, cost, at_label


@_inlined
def _losses(group: Any, sums: Any, z_loss: float) -> Any:
    """Return the losses. They are not finite if a logit is NaN or +inf, or if all are -inf, because 0 * inf is NaN.

    C: losses_of_block in lanes_output.h
    """
    value = sums.mass * ((sums.top - sums.x_label) + sums.log_s)
    value = value + fma(sums.spread, sums.log_s, sums.cost)
    if z_loss != 0:
        lse = sums.top + sums.log_s
        value = fma(lse * z_loss, lse, value)
    return group.weight * value


@_function
def _write_columns(classes: int, group: Any, sums: Any, t: Any, z_loss: float, scratch: Any) -> int:
    """Replace the exponentials by the gradients. Return a bit for each row whose gradient is not finite.

    The formulas are those of `_at_label` and `write_gradient` in rows.py.

    C: gradient_of_block in lanes_output.h
    """
    columns, gain = scratch.columns, group.gain
    has_target = not (is_null(t.soft) and is_null(t.base))
    zero = filled(columns, 0.0)
    unscale = 1 / exp_scale(group.x)
    p_label = exp(sums.x_label - sums.top) * unscale  # times s
    others = where(sums.x_label == sums.top, sums.rest, sums.s - p_label)
    pull = sums.spread
    if z_loss != 0:
        pull = fma(sums.top + sums.log_s, 2 * z_loss, pull)
    at_label = gain * ((pull * p_label - sums.mass * others) * sums.inverse - sums.at_label)
    share = (sums.mass + pull) * sums.inverse
    factor = share if has_target else gain * share
    is_small = (factor > -1.0) & (factor < 1.0)
    by = where(is_small, factor, factor * unscale)
    then = where(is_small, filled(columns, unscale), 1.0)
    label = where(sums.mass == 0.0, -1.0, group.label)  # without mass, the label is a class like the others
    index = zero
    for j in range(classes):
        value = fma(columns[j] * by, then, 0.0)
        if has_target:
            value = gain * (value - _target(t, scratch.soft, j))  # the difference first: one class gives exactly 0
        columns[j] = where(label == index, at_label, value)
        index = index + 1.0
    return not_finite(gain * share + at_label)


@_inlined
def _sums_of(classes: int, group: Any, t: Any, base_total: float, out: Any, scratch: Any) -> Any:
    """Return the GroupSums, and replace the logits in the columns by exponentials.

    C: sum_block in lanes_sums.h
    """
    columns = scratch.columns
    hard = is_null(t.soft)
    at_label = cost = filled(columns, 0.0)
    spread = filled(columns, base_total)
    top, x_label, mass = _maxima_and_labels(classes, group, t, columns)
    if not hard:
        mass = at_label
    if not (hard and is_null(t.base)):
        soft_mass, half_cost, at_label = _sum_targets(classes, group, top, t, scratch)
        cost = rounded(half_cost * 2.0, top)
        if not hard:
            spread = rounded(soft_mass, top)
    ties, scaled = _sum_exponentials(classes, group, top, out, columns)
    rest = fma(rounded(scaled, top), 1 / exp_scale(group.x), ties - 1.0)
    s = 1.0 + rest
    inverse = 1.0 / s
    return GroupSums(top, x_label, mass, at_label, spread, cost, rest, s, inverse, log1p(rest, s, inverse))


@_merged
def begin_group(classes: int, group: Any, t: Any, base_total: float, outputs: Any, scratch: Any) -> Any:
    """Load a group of rows. Return a bit for each row that does not count, where the gradient goes, and the GroupSums.

    The columns then hold exponentials.

    C: begin_block and sum_block in lanes_sums.h
    """
    load_rows(scratch.columns, group.x, classes, group.size, scratch.rows)
    left = as_bits(group.weight == 0.0)
    if is_null(t.soft):
        left |= as_bits(group.label == -1.0)
    else:
        load_rows(scratch.soft, group.soft, classes, group.size, scratch.rows)
    out = null_if(is_null(outputs.grad), at(outputs.grad, group.first * classes))
    return left, out, _sums_of(classes, group, t, base_total, out, scratch)


@_merged
def finish_group(
    classes: int, group: Any, t: Any, z_loss: float, outputs: Any, left: int, out: Any, sums: Any, scratch: Any
) -> Any:  # fmt: skip
    """Write the results for a group of rows. Return two masks with a bit for each row that is left to rows.py.

    The first mask has the rows of which nothing is written: they do not count, or are not finite somewhere, or would
    overflow on the way. Of those in the second mask, only the gradient is left: a loss may not depend on whether a
    gradient is wanted.

    C: finish_block in lanes_output.h
    """
    every = (1 << group.size) - 1
    loss = _losses(group, sums, z_loss)
    left = (left | not_finite(loss)) & every
    left_grad = 0
    _store_each(outputs.loss, group, loss)
    _store_each(outputs.row_max, group, sums.top)
    _store_each(outputs.log_sum, group, sums.log_s)
    if not is_null(out):
        left_grad = _write_columns(classes, group, sums, t, z_loss, scratch) & every & ~left
        store_rows(scratch.columns, out, classes, every & ~(left | left_grad), scratch.rows)
    return left, left_grad


@_inlined
def _factors(call: Any, first: int, count: int, like: Any) -> Any:
    """Return the weights of `count` rows, and weight * upstream, each rounded once.

    C: row_gain in lanes_sums.h
    """
    ones = widen(filled(like, 1.0))
    if call.weight_step == 0 and call.upstream_step == 0:
        weight, gain = call.weight[0], call.weight[0] * call.upstream[0]
        return rounded(ones * weight, like), rounded(ones * gain, like)
    weights = one_each(call.weight, call.weight_step, first, count, ones)
    gains = weights * one_each(call.upstream, call.upstream_step, first, count, ones)
    return rounded(weights, like), rounded(gains, like)


@_function
def group_of(call: Any, first: int, count: int, columns: Any) -> Any:
    """Return the group of `count` rows from row `first` on.

    C: select_labels in lanes_sums.h
    """
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
    """Compute rows [start, stop) in groups, up to the first group in which rows are left. The scratch is at p.

    Returns where that group begins, its two masks of rows that are left (see `finish_group`), and where it ends.

    C: lane_groups in rows_lanes.h
    """
    columns, classes, t = columns_at(p), call.classes, call.targets
    lanes = lanes_of(columns)
    kinds = 1 if is_null(call.targets.soft) else 2
    scratch = GroupScratch(columns, at(columns, classes), at(p, kinds * classes * lanes))
    for first in range(start, stop, lanes):
        count = min(lanes, stop - first)
        group = group_of(call, first, count, columns)
        left, out, sums = begin_group(classes, group, t, call.base_total, outputs, scratch)
        left, left_grad = finish_group(classes, group, t, call.z_loss, outputs, left, out, sums, scratch)
        if left | left_grad != 0:
            return first, left, left_grad, first + count
    return stop, 0, 0, stop
