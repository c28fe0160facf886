"""The kernels that are compiled: all rows of a call, with hard or with soft labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arguments import Call, Outputs, Targets, soft_call
from softmax_ce._backends.numba_jit.few_classes import groups, is_few
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    either,
    fence,
    is_null,
    keep_alive,
    null_if,
    on_stack,
    pointer,
    step_of,
)
from softmax_ce._backends.numba_jit.rows import row_entries, rows, scratch_at
from softmax_ce._backends.numba_jit.total import total_of
from softmax_ce._backends.numba_jit.vectors import lanes_of
from softmax_ce.tuning import LINE_BYTES

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")
# Merged before types are inferred: each function that calls a large one has LLVM optimise all of that once more.
_merged: Any = njit(error_model="numpy", inline="always")


@_inlined
def _scratch_entries(classes: int, w: int, few: bool, soft: bool, keeps: bool) -> int:
    """Return the entries that single rows need, or a group's columns and rows, and what alignment may cost.

    C: sce_run in rows_dispatch.c
    """
    group = (3 if soft else 2) * classes * 2 * w if few else 0
    return max(row_entries(classes, w, keeps), group) + 2 * w


@_merged
def _few_classes(call: Any, outputs: Any, p: Any, start: int, stop: int) -> None:
    """Compute rows [start, stop) in groups, and the rows that are left by these one by one. The scratch is at p.

    C: few_classes in rows_lanes.h
    """
    grad_alone = Outputs(null_if(True, p), outputs.grad, null_if(True, p), null_if(True, p))
    scratch = scratch_at(p, call.classes, False, not is_null(outputs.grad))
    while start < stop:
        first, left, left_grad, start = groups(call, outputs, p, start, stop)
        for i in range(first, start):
            if (left | left_grad) >> (i - first) & 1:
                rows(call, outputs if left >> (i - first) & 1 else grad_alone, scratch, i, i + 1)


@_merged
def _all_rows(
    call: Any, outputs: Any, logits: Any, keep_bytes: int, stream_bytes: int, start: int, stop: int
) -> None:  # fmt: skip
    """Compute rows [start, stop), with a scratch of their own. `logits` is the array of call.logits.

    C: sce_run in rows_dispatch.c
    """
    classes, w, grad, soft = call.classes, lanes_of(call.logits), outputs.grad, not is_null(call.targets.soft)
    few = is_few(classes, w, soft)
    keeps = not is_null(grad) and (few or classes * logits.itemsize <= keep_bytes)
    scratch = np.empty(_scratch_entries(classes, w, few, soft, keeps), logits.dtype)
    p = pointer(scratch)
    p = at(p, (-address(p) & (2 * LINE_BYTES - 1)) // logits.itemsize)  # where a pair of cache lines begins
    if few:
        _few_classes(call, outputs, p, start, stop)
    else:
        large = logits.size * logits.itemsize >= stream_bytes
        streamed = large and not is_null(grad) and address(grad) != address(call.logits)
        rows(call, outputs, scratch_at(p, classes, streamed, keeps), start, stop)
        if streamed:
            fence()
    keep_alive(scratch)


@_function
def _are_classes(labels: Any, n: int, classes: int) -> bool:
    """Return whether all labels are classes.

    C: _counted_rows in short.pxi
    """
    wrong = 0
    for i in range(n):
        wrong |= not 0 <= labels[i] < classes
    return wrong == 0


def hard_rows(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
    keep_bytes: int, stream_bytes: int, divisor: float, reduced: bool,
) -> float:  # fmt: skip
    """Compute what `hard` and `plain` in softmax_ce.contract do.

    None for a factor means 1, and for the upstream gradient 1 / divisor. With a divisor that is not 0, the result is -1
    if a label is not a class. Otherwise, if `reduced`, it is the total of the losses, which is never negative. Their
    vector is not an argument then: taking over an array from Python takes longer than a short row.

    C: _hard in _kernels.pyx
    """
    classes = logits.shape[1]
    given, scale, base = pointer(labels), pointer(label_mass), pointer(base_mass)
    weight, factor, losses = pointer(row_weight), pointer(upstream), pointer(loss)
    gain = 1.0 / divisor if divisor > 0 else 0.0
    if divisor > 0 and not _are_classes(given, stop, classes):
        return -1.0
    own_losses = np.empty(stop if reduced else 0, logits.dtype)
    targets = Targets(
        null_if(True, scale), either(is_null(scale), on_stack(scale, 1.0), scale), step_of(label_mass),
        base, step_of(base_mass),
    )  # fmt: skip
    call = Call(
        pointer(logits), classes, given, step_of(labels), ignore_index, targets, base_total, z_loss,
        either(is_null(weight), on_stack(weight, 1.0), weight), step_of(row_weight),
        either(is_null(factor), on_stack(factor, gain), factor), step_of(upstream),
    )  # fmt: skip
    outputs = Outputs(either(reduced, pointer(own_losses), losses), pointer(grad), pointer(row_max), pointer(log_sum))
    _all_rows(call, outputs, logits, keep_bytes, stream_bytes, start, stop)
    total = total_of(outputs.loss, stop, divisor) if reduced else 0.0
    keep_alive(own_losses)
    return total


def soft_rows(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int, keep_bytes: int, stream_bytes: int,
) -> None:  # fmt: skip
    """Compute what `soft` in softmax_ce.contract does.

    C: _soft in _kernels.pyx
    """
    call = soft_call(logits, targets, target_scale, base_mass, z_loss, row_weight, upstream)
    outputs = Outputs(pointer(loss), pointer(grad), pointer(row_max), pointer(log_sum))
    _all_rows(call, outputs, logits, keep_bytes, stream_bytes, start, stop)
