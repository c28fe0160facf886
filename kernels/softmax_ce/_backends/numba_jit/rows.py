"""The rows one after the other, with the classes along the lanes of the vectors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arguments import Targets
from softmax_ce._backends.numba_jit.arithmetic import exp, exp_scale
from softmax_ce._backends.numba_jit.gradient import (
    GradientRow,
    PendingGradient,
    entries_to_line,
    fill_row,
    flush_line,
    set_factors,
    write_pending,
    write_row,
)
from softmax_ce._backends.numba_jit.memory import at, is_null, null_if
from softmax_ce._backends.numba_jit.sums import CHUNK, ChunkMax, chunk_of, max_of, sum_row
from softmax_ce._backends.numba_jit.vectors import filled, first_lane, lanes_of, widen

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py


class RowScratch(NamedTuple):
    """The scratch for rows one after the other. Each part begins with a cache line.

    C: fields of sce_call in rows.h
    """

    line: Any  # the gradient's unfinished line, and space for another; null if the gradient is not streamed
    masked: Any  # a block of logits with -inf in place of the largest one
    tops: Any  # the maxima of a row's chunks
    factors: Any  # two for each chunk
    e: Any  # exponentials; null unless they are kept for a gradient


class Pipeline(NamedTuple):
    """What the work on one row leaves to the next. C: pipeline in rows_pipeline.h."""

    top: ChunkMax  # of its first chunk
    held: int  # entries of the gradient in the scratch's line
    pending: PendingGradient


class Row(NamedTuple):
    """A row and its target. C: fields of sce_call in rows.h."""

    i: int
    x: Any
    label: int  # -1 if there is none
    mass: float  # T at the label, without the base
    t: Any
    weight: float
    upstream: float


def _whole_lines(entries: int, w: int) -> int:
    """Return the number of entries, rounded up to whole lines of w.

    C: SCE_KEPT_ROW_BYTES in rows.h
    """
    return (entries + w - 1) // w * w


_whole_lines = _inlined(_whole_lines)


@_inlined
def row_entries(classes: int, w: int, keeps: bool) -> int:
    """Return the number of entries of a RowScratch; w is the lanes of a cache line.

    C: sce_run in rows_dispatch.c
    """
    chunks = (classes + CHUNK - 1) // CHUNK
    kept = _whole_lines(classes, w) + w if keeps else 0
    return 6 * w + _whole_lines(chunks, w) + _whole_lines(2 * chunks, w) + kept


@_inlined
def scratch_at(p: Any, classes: int, streamed: bool, keeps: bool) -> Any:
    """Return the RowScratch at p.

    C: sce_run in rows_dispatch.c
    """
    w, chunks = lanes_of(p), (classes + CHUNK - 1) // CHUNK
    factors = 6 * w + _whole_lines(chunks, w)
    e = null_if(not keeps, at(p, factors + _whole_lines(2 * chunks, w)))
    return RowScratch(null_if(not streamed, p), at(p, 2 * w), at(p, 6 * w), at(p, factors), e)


@_inlined
def new_pipeline(p: Any) -> Any:
    """Return what the first row finds.

    C: new_pipeline in rows_pipeline.h
    """
    return Pipeline(ChunkMax(np.nan, 0), 0, PendingGradient(null_if(True, p), 0, 1, -1, 0.0, 0, 0))


@_function
def finish_pipeline(pipeline: Any, grad: Any, classes: int, scratch: Any) -> None:
    """Write the pending gradient and the unfinished line, after the last row, whose gradient is `grad`.

    C: write_chunks in rows_pipeline.h
    """
    held = pipeline.held
    if not is_null(pipeline.pending.grad):
        held = write_pending(pipeline.pending, scratch.e, scratch)
    if held > 0:
        flush_line(grad, classes, held, scratch.line)


@_inlined
def row_at(call: Any, i: int) -> Any:
    """Return row i of a call.

    C: label_of in rows_pipeline.h
    """
    t = call.targets
    label, mass = -1, 0.0
    if is_null(t.soft):
        # Checked again: another thread may have changed it since, and it must not become an address.
        label = call.labels[i * call.labels_step]
        if not 0 <= label < call.classes or label == call.ignore_index:
            label = -1
        else:
            mass = np.float64(t.scale[label * t.scale_step])
    else:
        t = Targets(at(t.soft, i * call.classes), t.scale, t.scale_step, t.base, t.base_step)
    weight, upstream = call.weight[i * call.weight_step], call.upstream[i * call.upstream_step]
    return Row(i, at(call.logits, i * call.classes), label, mass, t, weight, upstream)


@_inlined
def target_mass(call: Any, row: Any, sums: Any) -> float:
    """Return the sum of T over all classes, a in softmax_ce.contract.

    C: within write_scalars in rows_pipeline.h
    """
    return row.mass + call.base_total if is_null(row.t.soft) else sums.mass


@_inlined
def _loss(call: Any, row: Any, sums: Any, log_s: float, x_label: float) -> float:
    """Return the loss of a row that counts. It is NaN if the log of the sum is, or if the maximum is infinite.

    C: write_scalars in rows_pipeline.h
    """
    if not (-np.inf < sums.top < np.inf):
        return np.nan
    value = sums.cost + target_mass(call, row, sums) * log_s
    if row.mass != 0:
        value += 2 * (row.mass * (0.5 * sums.top - 0.5 * x_label))
    if call.z_loss != 0:
        lse = sums.top + log_s
        value += call.z_loss * lse * lse
    return row.weight * value if log_s == log_s else np.nan


@_inlined
def _at_label(call: Any, row: Any, sums: Any, x_label: float, z_pull: float) -> float:
    """Return the gradient at the label, from the other classes' share: p - 1 would cancel as p approaches 1.

    C: begin_gradient in rows_pipeline.h
    """
    s = 1 + sums.rest
    e_label = first_lane(widen(exp(filled(row.x, x_label) - filled(row.x, sums.top)))) / exp_scale(row.x)
    others = sums.rest if x_label == sums.top else s - e_label
    at_base = 0.0 if is_null(row.t.base) else np.float64(row.t.base[row.label * row.t.base_step])
    pull = (call.base_total + z_pull) * (e_label / s) - row.mass * (others / s) - at_base
    return row.weight * row.upstream * pull


@_function
def write_gradient(
    call: Any, row: Any, sums: Any, log_s: float, x_label: float, grad: Any, held: int, is_deferred: bool,
    step: int, next_row: Any, scratch: Any,
) -> Any:  # fmt: skip
    """Write the gradient of a row that counts, or defer it. Return how many entries are held, and what is pending.

    `step` is the number of classes in a chunk.

    C: begin_gradient in rows_pipeline.h
    """
    x, classes, e = row.x, call.classes, scratch.e
    z_pull = 2 * call.z_loss * (sums.top + log_s) if call.z_loss != 0 else 0.0
    gain, at_label = row.weight * row.upstream, 0.0
    if row.label >= 0:
        at_label = _at_label(call, row, sums, x_label, z_pull)
    has_target = not (is_null(row.t.soft) and is_null(row.t.base))
    factor = (1.0 if has_target else gain) * (target_mass(call, row, sums) + z_pull) / (1 + sums.rest)
    label = row.label if row.mass != 0 else -1  # without mass, the label is a class like the others
    for first in range(0, classes, step):
        k = first // step
        rescale = 1.0 if scratch.tops[k] == sums.top else math.exp(scratch.tops[k] - sums.top)
        set_factors(scratch.factors, k, factor * rescale, exp_scale(x))
    if is_deferred:
        return 0, PendingGradient(grad, classes, step, label, at_label, entries_to_line(grad), held)
    written = GradientRow(x, e, grad, classes, step, gain, label, at_label)
    held = write_row(written, row.t, held, next_row, scratch)
    return held, new_pipeline(x).pending


@_inlined
def write_scalars(call: Any, outputs: Any, row: Any, sums: Any, log_s: float, counts: bool, x_label: float) -> None:
    """Write the outputs that have one entry a row.

    C: write_scalars in rows_pipeline.h
    """
    if not is_null(outputs.row_max):
        outputs.row_max[row.i] = sums.top
    if not is_null(outputs.log_sum):
        outputs.log_sum[row.i] = log_s
    if not is_null(outputs.loss):
        outputs.loss[row.i] = _loss(call, row, sums, log_s, x_label) if counts else 0.0


@_inlined
def skip_row(outputs: Any, row: Any, classes: int, pipeline: Any, scratch: Any) -> Any:
    """Write zeros for a row that does not count and whose log-sum-exp is not wanted. Return the new pipeline.

    C: within one_row in rows_pipeline.h
    """
    held = pipeline.held
    if not is_null(outputs.loss):
        outputs.loss[row.i] = 0.0
    if not is_null(outputs.grad):
        if not is_null(pipeline.pending.grad):
            held = write_pending(pipeline.pending, scratch.e, scratch)
        fill_row(at(outputs.grad, row.i * classes), classes, 0.0, scratch.line, held)
    return new_pipeline(row.x)


@_merged
def _one_row(call: Any, outputs: Any, i: int, pipeline: Any, next_row: Any, scratch: Any) -> Any:
    """Compute row i. Return the pipeline for the next row, which begins at `next_row`; null after the last.

    C: one_row in rows_pipeline.h
    """
    row, classes = row_at(call, i), call.classes
    x, hard = row.x, is_null(row.t.soft)
    counts = row.weight != 0 and (not hard or row.label >= 0)
    if not counts and is_null(outputs.row_max) and is_null(outputs.log_sum):
        return skip_row(outputs, row, classes, pipeline, scratch)
    grad = null_if(is_null(outputs.grad), at(outputs.grad, i * classes))
    top = pipeline.top if pipeline.top.value == pipeline.top.value else max_of(x, min(classes, chunk_of(x, classes)))
    x_label = np.float64(x[row.label]) if row.label >= 0 else 0.0  # before the gradient may overwrite it
    is_deferred = not (is_null(scratch.e) or is_null(scratch.line)) and hard and is_null(row.t.base)
    out = null_if(is_deferred or (is_null(scratch.e) and is_null(scratch.line)), grad)
    sums, next_max, held = sum_row(x, classes, top, scratch.e, next_row, row.t, out, pipeline.pending, scratch)
    if is_null(pipeline.pending.grad):
        held = pipeline.held
    degenerate = not (-np.inf < sums.top < np.inf) or sums.rest != sums.rest
    log_s = math.log1p(sums.rest) if not degenerate else np.nan if sums.rest != sums.rest else 0.0
    write_scalars(call, outputs, row, sums, log_s, counts, x_label)
    pending = new_pipeline(x).pending
    if is_null(grad):
        return Pipeline(next_max, 0, pending)
    if not counts or degenerate:
        fill_row(grad, classes, np.nan if counts else 0.0, scratch.line, held)
        return Pipeline(next_max, 0, pending)
    step = chunk_of(x, classes)
    held, pending = write_gradient(call, row, sums, log_s, x_label, grad, held, is_deferred, step, next_row, scratch)
    return Pipeline(next_max, held, pending)


@_function
def rows(call: Any, outputs: Any, scratch: Any, start: int, stop: int) -> None:
    """Compute rows [start, stop), one after the other.

    C: all_rows in rows_pipeline.h
    """
    pipeline = new_pipeline(call.logits)
    for i in range(start, stop):
        next_row = null_if(i + 1 == stop, at(call.logits, (i + 1) * call.classes))
        pipeline = _one_row(call, outputs, i, pipeline, next_row, scratch)
    if stop > start and not is_null(scratch.line):
        finish_pipeline(pipeline, at(outputs.grad, (stop - 1) * call.classes), call.classes, scratch)
