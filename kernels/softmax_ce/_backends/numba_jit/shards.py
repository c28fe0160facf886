"""Some of the classes of each row: the sums of their chunks, the fold of all chunks, and their columns of the gradient.

The functions are those of a whole row, and so the bits are the same if each shard begins with a whole chunk.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arguments import Call, Outputs, Targets
from softmax_ce._backends.numba_jit.gradient import fill_row, shift_of
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    either,
    fence,
    is_null,
    keep_alive,
    null_if,
    pointer,
    step_of,
)
from softmax_ce._backends.numba_jit.rows import (
    Row,
    new_pipeline,
    row_entries,
    scratch_at,
    write_gradient,
    write_scalars,
)
from softmax_ce._backends.numba_jit.sums import (
    CHUNK,
    ChunkMax,
    RowSums,
    has_nan,
    max_of,
    sum_chunk,
    sum_targets,
    with_chunk,
    with_targets,
)
from softmax_ce._backends.numba_jit.vectors import lanes_of
from softmax_ce.tuning import LINE_BYTES

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py

_TOTALS = 4  # softmax_ce.contract.SHARD_TOTALS


class ShardRows(NamedTuple):
    """What there is of each row beside the arrays of a call. C: sce_shard in rows.h."""

    first_class: int
    chunk: int  # the classes of a chunk
    n_chunks: int
    numbers: int  # of a chunk
    chunks: Any
    label_logit: Any
    label_logit_step: int
    label_mass: Any  # null for soft labels
    label_mass_step: int
    totals: Any


@_inlined
def _column_of_label(call: Any, shard: Any, i: int) -> int:
    """Return the column of row i's label, or -1 if the label is in another shard.

    C: column_of_label in rows_shards.h
    """
    column = call.labels[i * call.labels_step] - shard.first_class
    return column if 0 <= column < call.classes else -1


@_inlined
def _targets_of_row(t: Any, i: int, classes: int) -> Any:
    """Return the targets of row i.

    C: within shard_sums in rows_shards.h
    """
    return Targets(null_if(is_null(t.soft), at(t.soft, i * classes)), t.scale, t.scale_step, t.base, t.base_step)


@_function
def _sum_chunks(x: Any, classes: int, top: Any, next_row: Any, t: Any, shard: Any, i: int, scratch: Any) -> Any:
    """Write the numbers of row i's chunks. Return the ChunkMax of the next row's first chunk.

    C: sum_chunks in rows_pipeline.h
    """
    has_target = not (is_null(t.soft) and is_null(t.base))
    none, pending = null_if(True, x), new_pipeline(x).pending
    for k in range(shard.n_chunks):
        first = k * shard.chunk
        n = min(shard.chunk, classes - first)
        ahead, n_ahead = at(x, first + n), min(shard.chunk, classes - first - n)
        if n_ahead == 0:
            ahead, n_ahead = next_row, 0 if is_null(next_row) else min(shard.chunk, classes)
        rest, next_max, _ = sum_chunk(at(x, first), n, top, none, ahead, n_ahead, none, pending, first, scratch)
        if top.value == np.inf:  # the sum only says whether there is a NaN
            rest = np.nan if has_nan(at(x, first), n) else 0.0
        numbers = at(shard.chunks, (i * shard.n_chunks + k) * shard.numbers)
        numbers[0] = top.value
        numbers[1] = rest
        if has_target:
            numbers[2], numbers[3] = sum_targets(x, first, first + n, shift_of(top.value), t)
        top = next_max
    return top


@_inlined
def _entries(n_chunks: int, w: int) -> int:
    """Return the entries of the scratch, and what alignment may cost.

    C: sce_run in rows_dispatch.c
    """
    return row_entries(n_chunks * CHUNK, w, False) + 3 * w


@_inlined
def _shard_sums(call: Any, shard: Any, scratch: Any, start: int, stop: int) -> None:
    """Write the numbers of the chunks of rows [start, stop), and the logits at their labels.

    C: shard_sums in rows_shards.h
    """
    classes, top = call.classes, ChunkMax(np.nan, 0)
    for i in range(start, stop):
        x = at(call.logits, i * classes)
        if top.value != top.value:
            top = max_of(x, min(classes, shard.chunk))
        next_row = null_if(i + 1 == stop, at(x, classes))
        t = _targets_of_row(call.targets, i, classes)
        top = _sum_chunks(x, classes, top, next_row, t, shard, i, scratch)
        if is_null(t.soft):
            column = _column_of_label(call, shard, i)
            shard.label_logit[i] = np.float64(x[column]) if column >= 0 else np.nan


@_inlined
def _fold(numbers: Any, n_chunks: int, width: int) -> Any:
    """Return a row's sums from the numbers of its chunks, `width` each.

    C: within shard_scalars in rows_shards.h
    """
    row = RowSums(-np.inf, 0.0, 0.0, 0.0)
    for k in range(n_chunks):
        top, shift = numbers[k * width], shift_of(row.top)
        row = with_chunk(row, top, numbers[k * width + 1])
        if width > 2:
            row = with_targets(row, shift, numbers[k * width + 2], numbers[k * width + 3], shift_of(top))
    if row.top == np.inf:
        row = RowSums(row.top, np.nan if row.rest != row.rest else 0.0, row.mass, row.cost)
    return row


@_inlined
def _mass_of_row(call: Any, shard: Any, i: int) -> Any:
    """Return the target at row i's label without the base, and whether the row counts.

    C: mass_of_row in rows_shards.h
    """
    mass = 0.0 if is_null(shard.label_mass) else shard.label_mass[i * shard.label_mass_step]
    return mass, call.weight[i * call.weight_step] != 0 and mass == mass


@_inlined
def _logit_at_label(shard: Any, i: int) -> float:
    """Return the logit at row i's label.

    C: logit_at_label in rows_shards.h
    """
    return 0.0 if is_null(shard.label_logit) else shard.label_logit[i * shard.label_logit_step]


@_inlined
def _shard_scalars(call: Any, shard: Any, outputs: Any, start: int, stop: int) -> None:
    """Fold the chunks of all shards, in the order of the classes.

    C: shard_scalars in rows_shards.h
    """
    for i in range(start, stop):
        sums = _fold(at(shard.chunks, i * shard.n_chunks * shard.numbers), shard.n_chunks, shard.numbers)
        degenerate = not (-np.inf < sums.top < np.inf) or sums.rest != sums.rest
        log_s = math.log1p(sums.rest) if not degenerate else np.nan if sums.rest != sums.rest else 0.0
        total = at(shard.totals, i * _TOTALS)
        total[0], total[1], total[2], total[3] = sums.top, sums.rest, sums.mass, log_s
        mass, counts = _mass_of_row(call, shard, i)
        row = Row(i, call.logits, -1, mass, call.targets, call.weight[i * call.weight_step], 1.0)
        write_scalars(call, outputs, row, sums, log_s, counts, _logit_at_label(shard, i))


@_inlined
def _shard_gradient(call: Any, shard: Any, grad: Any, scratch: Any, start: int, stop: int) -> None:
    """Write the shard's columns of the gradient of rows [start, stop).

    C: shard_gradient in rows_shards.h
    """
    classes, held = call.classes, 0
    for i in range(start, stop):
        total = at(shard.totals, i * _TOTALS)
        sums = RowSums(total[0], total[1], total[2], 0.0)
        mass, counts = _mass_of_row(call, shard, i)
        g = at(grad, i * classes)
        if not counts or not (-np.inf < sums.top < np.inf) or sums.rest != sums.rest:
            fill_row(g, classes, np.nan if counts else 0.0, scratch.line, held)
            held = 0
            continue
        for k in range(shard.n_chunks):
            scratch.tops[k] = shard.chunks[(i * shard.n_chunks + k) * shard.numbers]
        t, x = _targets_of_row(call.targets, i, classes), at(call.logits, i * classes)
        label = _column_of_label(call, shard, i) if is_null(t.soft) else -1
        weight, upstream = call.weight[i * call.weight_step], call.upstream[i * call.upstream_step]
        row, next_row = Row(i, x, label, mass, t, weight, upstream), null_if(i + 1 == stop, at(x, classes))
        held, _ = write_gradient(
            call, row, sums, total[3], _logit_at_label(shard, i), g, held, False, shard.chunk, next_row, scratch
        )


# The kernels


def shard_sums_rows(
    logits: Any, labels: Any, targets: Any, target_scale: Any, base_mass: Any, first_class: int, chunk: int,
    chunks: Any, label_logit: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute what `ShardKernels.sums` in softmax_ce.contract does.

    C: shard_sums in shards.pxi
    """
    p, numbers, none = pointer(logits), pointer(chunks), null_if(True, pointer(chunks))
    t = Targets(pointer(targets), pointer(target_scale), step_of(target_scale), pointer(base_mass), step_of(base_mass))
    call = Call(p, logits.shape[1], pointer(labels), step_of(labels), -1, t, 0.0, 0.0, none, 0, none, 0)
    shard = ShardRows(
        first_class, chunk, chunks.shape[1], chunks.shape[2], numbers, pointer(label_logit), 1, none, 0, none
    )
    scratch = np.empty(_entries(chunks.shape[1], lanes_of(p)), logits.dtype)
    s = pointer(scratch)
    s = at(s, (-address(s) & (2 * LINE_BYTES - 1)) // logits.itemsize)
    _shard_sums(call, shard, scratch_at(s, chunks.shape[1] * CHUNK, False, False), start, stop)
    keep_alive(scratch)


def shard_fold_rows(
    chunks: Any, label_logit: Any, label_mass: Any, base_total: float, z_loss: float, row_weight: Any, loss: Any,
    row_max: Any, log_sum: Any, totals: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute what `ShardKernels.fold` in softmax_ce.contract does.

    C: shard_fold in shards.pxi
    """
    p, mass, weight = pointer(loss), pointer(label_mass), pointer(row_weight)
    none = null_if(True, p)
    t = Targets(either(is_null(mass), p, none), none, 0, none, 0)  # all that matters is whether labels are soft
    call = Call(
        none, 0, pointer(np.empty(0, np.int64)), 0, -1, t, base_total, z_loss, weight, step_of(row_weight), weight, 0
    )
    shard = ShardRows(
        0, 0, chunks.shape[1], chunks.shape[2], pointer(chunks), pointer(label_logit), step_of(label_logit), mass,
        step_of(label_mass), pointer(totals),
    )  # fmt: skip
    _shard_scalars(call, shard, Outputs(p, none, pointer(row_max), pointer(log_sum)), start, stop)


def shard_grad_rows(
    logits: Any, labels: Any, targets: Any, target_scale: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, first_class: int, chunk: int, chunks: Any, label_logit: Any, label_mass: Any,
    totals: Any, grad: Any, start: int, stop: int, stream_bytes: int,
) -> None:  # fmt: skip
    """Compute what `ShardKernels.grad` in softmax_ce.contract does.

    C: shard_grad in shards.pxi
    """
    p, g = pointer(logits), pointer(grad)
    t = Targets(pointer(targets), pointer(target_scale), step_of(target_scale), pointer(base_mass), step_of(base_mass))
    call = Call(
        p, logits.shape[1], pointer(labels), step_of(labels), -1, t, base_total, z_loss,
        pointer(row_weight), step_of(row_weight), pointer(upstream), step_of(upstream),
    )  # fmt: skip
    shard = ShardRows(
        first_class, chunk, chunks.shape[1], chunks.shape[2], pointer(chunks), pointer(label_logit),
        step_of(label_logit), pointer(label_mass), step_of(label_mass), pointer(totals),
    )  # fmt: skip
    scratch = np.empty(_entries(chunks.shape[1], lanes_of(p)), logits.dtype)
    s = pointer(scratch)
    s = at(s, (-address(s) & (2 * LINE_BYTES - 1)) // logits.itemsize)
    streamed = logits.size * logits.itemsize >= stream_bytes and address(g) != address(p)
    _shard_gradient(call, shard, g, scratch_at(s, chunks.shape[1] * CHUNK, streamed, False), start, stop)
    if streamed:
        fence()
    keep_alive(scratch)
