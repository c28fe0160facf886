"""One row at a time, its classes along the lanes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arguments import Targets
from softmax_ce._backends.numba_jit.arithmetic import exp, exp_scale
from softmax_ce._backends.numba_jit.gradient import (
    Waiting,
    Written,
    end_line,
    fill_row,
    set_factors,
    write_row,
    write_waiting,
)
from softmax_ce._backends.numba_jit.memory import address, at, is_null, null_if
from softmax_ce._backends.numba_jit.sums import CHUNK, Top, chunk_of, sum_row, top_of
from softmax_ce._backends.numba_jit.vectors import filled, first_lane, lanes_of, widen

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")
_merged: Any = njit(error_model="numpy", inline="always")  # see kernels.py


class Scratch(NamedTuple):
    """Where rows are worked on, each part at the beginning of a line."""

    line: Any  # of the gradient, streamed, and room for another; null: it is not
    patch: Any  # a block of logits without the largest one
    tops: Any  # of a row's chunks
    factors: Any  # two for each chunk
    e: Any  # exponentials, if a gradient is wanted and they are kept


class Carry(NamedTuple):
    """What one row leaves to the next."""

    top: Top  # of its first chunk
    held: int  # entries of the line
    waiting: Waiting


class Labelled(NamedTuple):
    """A row and its target."""

    i: int
    x: Any
    label: int  # -1: none
    mass: float  # T there, less the base
    t: Any
    weight: float
    upstream: float


def _lines(entries: int, w: int) -> int:
    return (entries + w - 1) // w * w


_lines = _inlined(_lines)


@_inlined
def row_entries(classes: int, w: int, keeps: bool) -> int:
    """How many a Scratch has. w: lanes of a line."""
    chunks = (classes + CHUNK - 1) // CHUNK
    return 6 * w + _lines(chunks, w) + _lines(2 * chunks, w) + (_lines(classes, w) + w if keeps else 0)


@_inlined
def scratch_at(p: Any, classes: int, streamed: bool, keeps: bool) -> Any:
    """The Scratch at p."""
    w, chunks = lanes_of(p), (classes + CHUNK - 1) // CHUNK
    factors = 6 * w + _lines(chunks, w)
    e = null_if(not keeps, at(p, factors + _lines(2 * chunks, w)))
    return Scratch(null_if(not streamed, p), at(p, 2 * w), at(p, 6 * w), at(p, factors), e)


@_inlined
def nothing_before(p: Any) -> Any:
    """What the first row finds."""
    return Carry(Top(np.nan, 0), 0, Waiting(null_if(True, p), 0, 1, -1, 0.0, 0, 0))


@_function
def _last_row(carry: Any, grad: Any, classes: int, scratch: Any) -> None:
    """Write what waits, the last row being `grad`."""
    held = carry.held
    if not is_null(carry.waiting.grad):
        held = write_waiting(carry.waiting, scratch.e, scratch)
    if held > 0:
        end_line(grad, classes, held, scratch.line)


@_inlined
def _labelled(call: Any, i: int) -> Any:
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
    return Labelled(i, at(call.logits, i * call.classes), label, mass, t, weight, upstream)


@_inlined
def _total(call: Any, row: Any, sums: Any) -> float:
    """The mass of all T."""
    return row.mass + call.base_total if is_null(row.t.soft) else sums.mass


@_inlined
def _loss(call: Any, row: Any, sums: Any, log_s: float, x_label: float) -> float:
    if not (-np.inf < sums.top < np.inf):
        return np.nan
    value = sums.cost + _total(call, row, sums) * log_s
    if row.mass != 0:
        value += 2 * (row.mass * (0.5 * sums.top - 0.5 * x_label))
    if call.z_loss != 0:
        lse = sums.top + log_s
        value += call.z_loss * lse * lse
    return row.weight * value if log_s == log_s else np.nan


@_inlined
def _at_label(call: Any, row: Any, sums: Any, x_label: float, z_pull: float) -> float:
    """From the other classes' share, never as p - 1, which cancels as p approaches 1."""
    s = 1 + sums.rest
    e_label = first_lane(widen(exp(filled(row.x, x_label) - filled(row.x, sums.top)))) / exp_scale(row.x)
    others = sums.rest if x_label == sums.top else s - e_label
    at_base = 0.0 if is_null(row.t.base) else np.float64(row.t.base[row.label * row.t.base_step])
    pull = (call.base_total + z_pull) * (e_label / s) - row.mass * (others / s) - at_base
    return row.weight * row.upstream * pull


@_function
def _write_gradient(
    call: Any, row: Any, sums: Any, log_s: float, x_label: float, grad: Any, held: int, waits: bool, ahead: Any,
    scratch: Any,
) -> Any:  # fmt: skip
    """Write the gradient, or let it wait. Gives what is held of a line, and what waits."""
    x, classes, e = row.x, call.classes, scratch.e
    z_pull = 2 * call.z_loss * (sums.top + log_s) if call.z_loss != 0 else 0.0
    gain, at_label = row.weight * row.upstream, 0.0
    if row.label >= 0:
        at_label = _at_label(call, row, sums, x_label, z_pull)
    has_target = not (is_null(row.t.soft) and is_null(row.t.base))
    factor = (1.0 if has_target else gain) * (_total(call, row, sums) + z_pull) / (1 + sums.rest)
    label = row.label if row.mass != 0 else -1  # without mass, the label is a class like the others
    step = chunk_of(x, classes)
    for first in range(0, classes, step):
        k = first // step
        down = 1.0 if scratch.tops[k] == sums.top else math.exp(scratch.tops[k] - sums.top)
        set_factors(scratch.factors, k, factor * down, exp_scale(x))
    if waits:
        head = (-address(grad) & 63) * lanes_of(x) // 64
        return 0, Waiting(grad, classes, step, label, at_label, head, held)
    written = Written(x, e, grad, classes, step, gain, label, at_label)
    held = write_row(written, row.t, held, ahead, scratch)
    return held, nothing_before(x).waiting


@_inlined
def _write_scalars(call: Any, outputs: Any, row: Any, sums: Any, log_s: float, counts: bool, x_label: float) -> None:
    """What is one number a row; its loss is NaN where the log of its sum is, or its top is infinite."""
    if not is_null(outputs.row_max):
        outputs.row_max[row.i] = sums.top
    if not is_null(outputs.log_sum):
        outputs.log_sum[row.i] = log_s
    if not is_null(outputs.loss):
        outputs.loss[row.i] = _loss(call, row, sums, log_s, x_label) if counts else 0.0


@_inlined
def _skip_row(outputs: Any, row: Any, classes: int, carry: Any, scratch: Any) -> Any:
    """A row that counts for nothing, and whose lse nobody asks for."""
    held = carry.held
    if not is_null(outputs.loss):
        outputs.loss[row.i] = 0.0
    if not is_null(outputs.grad):
        if not is_null(carry.waiting.grad):
            held = write_waiting(carry.waiting, scratch.e, scratch)
        fill_row(at(outputs.grad, row.i * classes), classes, 0.0, scratch.line, held)
    return nothing_before(row.x)


@_merged
def _one_row(call: Any, outputs: Any, i: int, carry: Any, ahead: Any, scratch: Any) -> Any:
    """Row i. `ahead`: the next one, or null. Gives what it leaves to it."""
    row, classes = _labelled(call, i), call.classes
    x, hard = row.x, is_null(row.t.soft)
    counts = row.weight != 0 and (not hard or row.label >= 0)
    if not counts and is_null(outputs.row_max) and is_null(outputs.log_sum):
        return _skip_row(outputs, row, classes, carry, scratch)
    grad = null_if(is_null(outputs.grad), at(outputs.grad, i * classes))
    top = carry.top if carry.top.value == carry.top.value else top_of(x, min(classes, chunk_of(x, classes)))
    x_label = np.float64(x[row.label]) if row.label >= 0 else 0.0  # before the gradient may overwrite it
    waits = not (is_null(scratch.e) or is_null(scratch.line)) and hard and is_null(row.t.base)
    out = null_if(waits or (is_null(scratch.e) and is_null(scratch.line)), grad)
    sums, next_top, held = sum_row(x, classes, top, scratch.e, ahead, row.t, out, carry.waiting, scratch)
    if is_null(carry.waiting.grad):
        held = carry.held
    broken = not (-np.inf < sums.top < np.inf) or sums.rest != sums.rest
    log_s = math.log1p(sums.rest) if not broken else np.nan if sums.rest != sums.rest else 0.0
    _write_scalars(call, outputs, row, sums, log_s, counts, x_label)
    waiting = nothing_before(x).waiting
    if is_null(grad):
        return Carry(next_top, 0, waiting)
    if not counts or broken:
        fill_row(grad, classes, np.nan if counts else 0.0, scratch.line, held)
        return Carry(next_top, 0, waiting)
    held, waiting = _write_gradient(call, row, sums, log_s, x_label, grad, held, waits, ahead, scratch)
    return Carry(next_top, held, waiting)


@_function
def rows(call: Any, outputs: Any, scratch: Any, start: int, stop: int) -> None:
    """Rows [start, stop), one after the other."""
    carry = nothing_before(call.logits)
    for i in range(start, stop):
        ahead = null_if(i + 1 == stop, at(call.logits, (i + 1) * call.classes))
        carry = _one_row(call, outputs, i, carry, ahead, scratch)
    if stop > start and not is_null(scratch.line):
        _last_row(carry, at(outputs.grad, (stop - 1) * call.classes), call.classes, scratch)
