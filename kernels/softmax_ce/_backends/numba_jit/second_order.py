"""The diagonal of the Hessian, beside loss and gradient: from the same exponentials, which are kept for it.

Formula: hess = gain * (A * p * (1 - p) + 2 * z_loss * p**2) with A = total + 2 * z_loss * lse, computed as
gain * p * (A + (2 * z_loss - A) * p). At p > 1/2, which only the maximum can have, 1 - p would cancel. There it is
rest / s, with the sum `rest` over the other classes. Loss and gradient have the bits of the kernels without a Hessian.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arguments import Call, Outputs, Targets, soft_call
from softmax_ce._backends.numba_jit.arithmetic import exp_scale
from softmax_ce._backends.numba_jit.columns import columns_at
from softmax_ce._backends.numba_jit.few_classes import (
    GroupScratch,
    begin_group,
    finish_group,
    group_of,
    is_few,
    not_finite,
    store_rows,
)
from softmax_ce._backends.numba_jit.gradient import entries_to_line, fill_row, set_factors
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    fence,
    is_null,
    keep_alive,
    load,
    null_if,
    pointer,
    step_of,
    store,
    store_first,
    stream,
)
from softmax_ce._backends.numba_jit.rows import (
    Pipeline,
    finish_pipeline,
    new_pipeline,
    row_at,
    row_entries,
    scratch_at,
    skip_row,
    target_mass,
    write_gradient,
    write_scalars,
)
from softmax_ce._backends.numba_jit.sums import chunk_of, max_of, sum_row
from softmax_ce._backends.numba_jit.vectors import filled, fma, lanes_of, where
from softmax_ce.tuning import LINE_BYTES

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py


class Coefficients(NamedTuple):
    """Vectors from which the Hessian follows: exponential * by * (constant + slope * p) * then.

    C: hessian_scales in rows_hessian.h
    """

    inverse: Any  # p = exponential * inverse
    by: Any  # this and `then` are the two factors of an exponential, as in `set_factors`
    then: Any
    constant: Any
    slope: Any
    at_top: Any  # the Hessian where p > 1/2


@_inlined
def _hessian(e: Any, c: Any) -> Any:
    """Return a vector of the Hessian, given exponentials and their Coefficients.

    C: hessian_of in rows_hessian.h
    """
    p = e * c.inverse
    value = fma((e * c.by) * fma(c.slope, p, c.constant), c.then, 0.0)
    return where(p > 0.5, c.at_top, value)


# Rows one after the other


@_inlined
def _write_chunk(e: Any, out: Any, n: int, c: Any, streamed: bool) -> None:
    """Write the Hessian of a chunk of n classes.

    C: write_hessian in rows_hessian.h
    """
    w, j = lanes_of(e), 0
    if streamed:
        j = min(entries_to_line(out), n)
        store_first(out, 0, j, _hessian(load(e, 0), c))
        while j + w <= n:
            stream(out, j, _hessian(load(e, j), c))
            j += w
    else:
        while j + w <= n:
            store(out, j, _hessian(load(e, j), c))
            j += w
    if j < n:
        store_first(out, j, n - j, _hessian(load(e, j), c))


@_function
def _write_hessian(call: Any, row: Any, sums: Any, log_s: float, out: Any, streamed: bool, scratch: Any) -> None:
    """Write the Hessian of a row that counts to `out`. The factors of its chunks in the scratch are overwritten.

    C: hessian_of_row in rows_hessian.h
    """
    x, classes = row.x, call.classes
    s, twice = 1 + sums.rest, 2 * call.z_loss
    total = target_mass(call, row, sums) + (twice * (sums.top + log_s) if twice != 0 else 0.0)
    gain = row.weight * row.upstream
    at_top = gain * (total * (sums.rest / s) + twice / s) / s
    # The larger coefficient is part of the factor, so that none is subnormal if the Hessian is not.
    size = total if abs(total) >= abs(twice) else twice
    constant, slope = (total / size, (twice - total) / size) if size != 0 else (0.0, 0.0)
    step = chunk_of(x, classes)
    for first in range(0, classes, step):
        k = first // step
        rescale = 1.0 if scratch.tops[k] == sums.top else math.exp(scratch.tops[k] - sums.top)
        set_factors(scratch.factors, k, gain * size * rescale / s, exp_scale(x))
        by, then = filled(x, scratch.factors[2 * k]), filled(x, scratch.factors[2 * k + 1])
        inverse = filled(x, rescale / s / exp_scale(x))
        coefficients = Coefficients(
            inverse, by, then, filled(x, constant), filled(x, slope), filled(x, at_top)
        )  # fmt: skip
        _write_chunk(at(scratch.e, first), at(out, first), min(step, classes - first), coefficients, streamed)


@_inlined
def _fill(out: Any, classes: int, value: float, scratch: Any) -> None:
    """Set a row of the Hessian to one value, unless it is null.

    C: fill in rows_pipeline.h
    """
    if not is_null(out):
        fill_row(out, classes, value, scratch.line, 0)


@_merged
def _one_row(
    call: Any, outputs: Any, hess: Any, i: int, pipeline: Any, next_row: Any, streamed: bool, scratch: Any
) -> Any:  # fmt: skip
    """Compute row i, as `_one_row` in rows.py does, and its Hessian unless `hess` is null. Return the pipeline.

    C: one_row in rows_pipeline.h
    """
    row, classes = row_at(call, i), call.classes
    x, out = row.x, null_if(is_null(hess), at(hess, i * call.classes))
    counts = row.weight != 0 and (not is_null(row.t.soft) or row.label >= 0)
    if not counts and is_null(outputs.row_max) and is_null(outputs.log_sum):
        _fill(out, classes, 0.0, scratch)
        return skip_row(outputs, row, classes, pipeline, scratch)
    grad = null_if(is_null(outputs.grad), at(outputs.grad, i * classes))
    top = pipeline.top if pipeline.top.value == pipeline.top.value else max_of(x, min(classes, chunk_of(x, classes)))
    x_label = np.float64(x[row.label]) if row.label >= 0 else 0.0  # before the gradient may overwrite it
    lines = null_if(streamed, out)
    sums, next_max, _ = sum_row(x, classes, top, scratch.e, next_row, row.t, lines, pipeline.pending, scratch)
    held = pipeline.held
    degenerate = not (-np.inf < sums.top < np.inf) or sums.rest != sums.rest
    log_s = math.log1p(sums.rest) if not degenerate else np.nan if sums.rest != sums.rest else 0.0
    write_scalars(call, outputs, row, sums, log_s, counts, x_label)
    if not counts or degenerate:
        value = np.nan if counts else 0.0
        _fill(out, classes, value, scratch)
        if not is_null(grad):
            fill_row(grad, classes, value, scratch.line, held)
        return Pipeline(next_max, 0, pipeline.pending)
    if not is_null(grad):
        step = chunk_of(x, classes)
        held, _ = write_gradient(call, row, sums, log_s, x_label, grad, held, False, step, next_row, scratch)
    if not is_null(out):
        _write_hessian(call, row, sums, log_s, out, streamed, scratch)
    return Pipeline(next_max, held, pipeline.pending)


@_function
def _rows(call: Any, outputs: Any, hess: Any, streamed: bool, scratch: Any, start: int, stop: int) -> None:
    """Compute rows [start, stop), one after the other.

    C: all_rows in rows_pipeline.h
    """
    pipeline = new_pipeline(call.logits)
    for i in range(start, stop):
        next_row = null_if(i + 1 == stop, at(call.logits, (i + 1) * call.classes))
        pipeline = _one_row(call, outputs, hess, i, pipeline, next_row, streamed, scratch)
    if stop > start and not is_null(scratch.line):
        finish_pipeline(pipeline, at(outputs.grad, (stop - 1) * call.classes), call.classes, scratch)


# Rows of few classes, in groups


@_function
def _hessian_of_group(classes: int, group: Any, sums: Any, z_loss: float, columns: Any, hess: Any) -> int:
    """Compute the Hessian of a group into `hess`, from the exponentials in the columns.

    Returns a bit for each row with a factor that is beyond the format. It is left to `_one_row`.

    C: hessian_of_block in lanes_hessian.h
    """
    unscale = 1 / exp_scale(group.x)
    twice = filled(columns, 2 * z_loss)
    total = sums.mass + sums.spread
    size, constant, slope = total, filled(columns, 1.0), filled(columns, -1.0)
    if z_loss != 0:
        total = fma(sums.top + sums.log_s, twice, total)
        size = where(total * total > twice * twice, total, twice)
        size = where(size == 0.0, 1.0, size)
        constant, slope = total / size, (twice - total) / size
    at_top = group.gain * ((total * (sums.rest * sums.inverse) + twice * sums.inverse) * sums.inverse)
    share = size * sums.inverse
    factor = group.gain * share
    is_small = (factor > -1.0) & (factor < 1.0)
    by = where(is_small, factor, group.gain * unscale * share)
    then = where(is_small, filled(columns, unscale), 1.0)
    coefficients = Coefficients(sums.inverse * unscale, by, then, constant, slope, at_top)
    for j in range(classes):
        hess[j] = _hessian(columns[j], coefficients)
    return not_finite(group.gain) | not_finite(total)


@_function
def _groups(call: Any, outputs: Any, hess: Any, p: Any, start: int, stop: int) -> Any:
    """Compute rows [start, stop) in groups, as `groups` in few_classes.py does, and their Hessian.

    Returns where the last group begins, two masks of rows that are left in it, and where it ends. Of the rows in the
    second mask, only the gradient is left.

    C: lane_groups in rows_lanes.h
    """
    columns, classes, t = columns_at(p), call.classes, call.targets
    lanes = lanes_of(columns)
    kinds = 1 if is_null(t.soft) else 2
    own = at(columns, kinds * classes)
    scratch = GroupScratch(columns, at(columns, classes), at(p, (kinds + 1) * classes * lanes))
    for first in range(start, stop, lanes):
        count = min(lanes, stop - first)
        group = group_of(call, first, count, columns)
        left, out, sums = begin_group(classes, group, t, call.base_total, outputs, scratch)
        left |= _hessian_of_group(classes, group, sums, call.z_loss, columns, own)
        store_rows(own, at(hess, first * classes), classes, (1 << count) - 1, scratch.rows)
        left, left_grad = finish_group(classes, group, t, call.z_loss, outputs, left, out, sums, scratch)
        if left | left_grad != 0:
            return first, left, left_grad, first + count
    return stop, 0, 0, stop


@_merged
def _few_classes(call: Any, outputs: Any, hess: Any, p: Any, start: int, stop: int) -> None:
    """Compute rows [start, stop) in groups, and the rows that are left by these one by one. The scratch is at p.

    C: few_classes_with_hessian in rows_lanes.h
    """
    grad_alone = Outputs(null_if(True, p), outputs.grad, null_if(True, p), null_if(True, p))
    scratch = scratch_at(p, call.classes, False, True)
    while start < stop:
        first, left, left_grad, start = _groups(call, outputs, hess, p, start, stop)
        for i in range(first, start):
            if (left | left_grad) >> (i - first) & 1:
                whole = left >> (i - first) & 1 != 0
                _rows(call, outputs if whole else grad_alone, null_if(not whole, hess), False, scratch, i, i + 1)


# The kernels


@_inlined
def _scratch_entries(classes: int, w: int, few: bool, soft: bool) -> int:
    """Return the entries that single rows need, or a group's columns and rows, and what alignment may cost.

    C: sce_run in rows_dispatch.c
    """
    group = (4 if soft else 3) * classes * 2 * w if few else 0
    return max(row_entries(classes, w, True), group) + 2 * w


@_merged
def _all_rows(call: Any, outputs: Any, hess: Any, logits: Any, stream_bytes: int, start: int, stop: int) -> None:
    """Compute rows [start, stop), with a scratch of their own. `logits` is the array of call.logits.

    C: sce_run in rows_dispatch.c
    """
    classes, w, grad, soft = call.classes, lanes_of(call.logits), outputs.grad, not is_null(call.targets.soft)
    few = is_few(classes, w, soft)
    scratch = np.empty(_scratch_entries(classes, w, few, soft), logits.dtype)
    p = pointer(scratch)
    p = at(p, (-address(p) & (2 * LINE_BYTES - 1)) // logits.itemsize)  # where a pair of cache lines begins
    if few:
        _few_classes(call, outputs, hess, p, start, stop)
    else:
        streamed = logits.size * logits.itemsize >= stream_bytes
        grad_streamed = streamed and not is_null(grad) and address(grad) != address(call.logits)
        _rows(call, outputs, hess, streamed, scratch_at(p, classes, grad_streamed, True), start, stop)
        if streamed:
            fence()
    keep_alive(scratch)


def hard_hessian_rows(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, loss: Any, grad: Any, hess: Any, row_max: Any, log_sum: Any, start: int, stop: int,
    stream_bytes: int,
) -> None:  # fmt: skip
    """Compute what `HessianKernels.hard` in softmax_ce.contract does, with a Hessian that is not None.

    C: hard_hessian in _kernels.pyx
    """
    classes, scale, base = logits.shape[1], pointer(label_mass), pointer(base_mass)
    targets = Targets(null_if(True, scale), scale, step_of(label_mass), base, step_of(base_mass))
    call = Call(
        pointer(logits), classes, pointer(labels), step_of(labels), ignore_index, targets, base_total, z_loss,
        pointer(row_weight), step_of(row_weight), pointer(upstream), step_of(upstream),
    )  # fmt: skip
    outputs = Outputs(pointer(loss), pointer(grad), pointer(row_max), pointer(log_sum))
    _all_rows(call, outputs, pointer(hess), logits, stream_bytes, start, stop)


def soft_hessian_rows(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, hess: Any, row_max: Any, log_sum: Any, start: int, stop: int, stream_bytes: int,
) -> None:  # fmt: skip
    """Compute what `HessianKernels.soft` in softmax_ce.contract does, with a Hessian that is not None.

    C: soft_hessian in _kernels.pyx
    """
    call = soft_call(logits, targets, target_scale, base_mass, z_loss, row_weight, upstream)
    outputs = Outputs(pointer(loss), pointer(grad), pointer(row_max), pointer(log_sum))
    _all_rows(call, outputs, pointer(hess), logits, stream_bytes, start, stop)
