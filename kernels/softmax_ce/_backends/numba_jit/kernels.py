"""All rows of a call: what is common to hard and soft labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.arithmetic import lanes_of
from softmax_ce._backends.numba_jit.few_classes import FEW, few_rows
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    fence,
    is_null,
    keep_alive,
    null_if,
    one_each,
    pointer,
    tiles_at,
)
from softmax_ce._backends.numba_jit.rows import CHUNK, chunk_of, max_of, row
from softmax_ce._backends.numba_jit.vectors import filled, known_labels, widen

_inlined: Any = njit(error_model="numpy", forceinline=True)
_function: Any = njit(error_model="numpy")


@_function
def _all_rows(
    x: Any, classes: int, labels: Any, labels_step: int, ignore_index: int, t: Any, base_total: float, z_loss: float,
    by_row: Any, outputs: Any, scratch: Any, streamed: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """Rows [start, stop). `t` as in rows.py; hard labels where its soft ones are null, their mass in its scale."""
    soft, scale, scale_step, base, base_step = t
    weight, weight_step, upstream, upstream_step = by_row
    hard = is_null(soft)
    w = lanes_of(x)
    few = classes <= FEW
    line, e, tiles = scratch, at(scratch, w), tiles_at(scratch)
    label, known, mass = -1, False, 0.0
    top, held = np.nan, 0
    step = lanes_of(tiles) if few else max(stop - start, 1)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        here = at(x, first * classes)
        left = -1
        if few:
            ones = widen(filled(tiles, 1.0))
            row_labels = filled(tiles, -1.0)
            if hard:
                row_labels = known_labels(
                    one_each(labels, labels_step, first, last - first, ones), classes, ignore_index, row_labels
                )
            left = few_rows(
                here, classes, row_labels,
                (soft if hard else at(soft, first * classes), scale, scale_step, base, base_step), base_total, z_loss,
                one_each(weight, weight_step, first, last - first, ones),
                one_each(upstream, upstream_step, first, last - first, ones),
                first, last - first, outputs, tiles,
            )  # fmt: skip
            if left == 0:
                continue
        for i in range(first, last):
            if few and not left >> (i - first) & 1:
                continue
            here = at(x, i * classes)
            if hard:
                label = labels[i * labels_step]
                # Checked again: another thread may have changed it since, and it must not become an address.
                known = 0 <= label < classes and label != ignore_index
                mass = np.float64(scale[label * scale_step]) if known else 0.0
            if few or top != top:
                top = max_of(here, min(classes, chunk_of(x, classes)))
            top, held = row(
                here, classes, top, label if known else -1, mass,
                (soft if hard else at(soft, i * classes), scale, scale_step, base, base_step), base_total, z_loss,
                weight[i * weight_step], upstream[i * upstream_step],
                i, outputs, e, null_if(not streamed, line), held, null_if(few or i + 1 == stop, at(here, classes)),
            )  # fmt: skip


@_inlined
def _scratch_entries(classes: int, w: int) -> int:
    """A line and a row of exponentials, or two sets of tiles; and as much as alignment may cost."""
    return 2 * w + (4 * FEW * w if classes <= FEW else min(classes, CHUNK) + 2 * w)


@_inlined
def _aligned(scratch: Any) -> Any:
    """The first entry that begins two cache lines."""
    p = pointer(scratch)
    return at(p, (-address(p) & 127) // scratch.itemsize)


@_inlined
def _optional(array: Any) -> Any:
    return null_if(array.size == 0, pointer(array))


@_inlined
def _step(array: Any) -> int:
    """0 where there is one entry for all."""
    return 1 if array.size > 1 else 0


@_inlined
def _is_streamed(logits: Any, grad: Any, cache_bytes: int) -> bool:
    """Whether the gradient goes past the caches: where logits and gradient would not both stay in the largest one."""
    in_place = address(pointer(logits)) == address(pointer(grad))
    classes = logits.shape[1]
    return 2 * grad.nbytes > cache_bytes and not in_place and classes >= lanes_of(pointer(logits)) and classes > FEW


def hard_rows(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
    cache_bytes: int,
) -> None:  # fmt: skip
    """The contract's kernel; an array of no entries is one that is not there."""
    x, classes, scale = pointer(logits), logits.shape[1], pointer(label_mass)
    streamed = _is_streamed(logits, grad, cache_bytes)
    scratch = np.empty(_scratch_entries(classes, lanes_of(x)), logits.dtype)
    _all_rows(
        x, classes, pointer(labels), _step(labels), ignore_index,
        (null_if(True, scale), scale, _step(label_mass), _optional(base_mass), _step(base_mass)), base_total, z_loss,
        (pointer(row_weight), _step(row_weight), pointer(upstream), _step(upstream)),
        (_optional(loss), _optional(grad), _optional(row_max), _optional(log_sum)),
        _aligned(scratch), streamed, start, stop,
    )  # fmt: skip
    if streamed:
        fence()
    keep_alive(scratch)


def soft_rows(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int, cache_bytes: int,
) -> None:  # fmt: skip
    """The same for soft labels."""
    x, classes = pointer(logits), logits.shape[1]
    streamed = _is_streamed(logits, grad, cache_bytes)
    scratch = np.empty(_scratch_entries(classes, lanes_of(x)), logits.dtype)
    no_labels = np.empty(0, np.int64)
    _all_rows(
        x, classes, pointer(no_labels), 0, 0,
        (pointer(targets), pointer(target_scale), _step(target_scale), _optional(base_mass), _step(base_mass)),
        0.0, z_loss,
        (pointer(row_weight), _step(row_weight), pointer(upstream), _step(upstream)),
        (_optional(loss), _optional(grad), _optional(row_max), _optional(log_sum)),
        _aligned(scratch), streamed, start, stop,
    )  # fmt: skip
    if streamed:
        fence()
    keep_alive(scratch)
