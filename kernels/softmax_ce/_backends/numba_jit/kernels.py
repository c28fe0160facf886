"""All rows of a call: what is common to hard and soft labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.few_classes import few_rows, is_few, tiled
from softmax_ce._backends.numba_jit.memory import (
    address,
    at,
    entries,
    fence,
    is_null,
    keep_alive,
    null_if,
    one_each,
    pointer,
    step_of,
    tiles_at,
)
from softmax_ce._backends.numba_jit.rows import CHUNK, chunk_of, max_of, row
from softmax_ce._backends.numba_jit.vectors import filled, known_labels, lanes_of, widen

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
    few = is_few(classes, w, not hard)
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
def _scratch_entries(classes: int, w: int, soft: bool) -> int:
    """A line and a row of exponentials, or tiles of two vectors; and as much as alignment may cost."""
    tiles = (2 if soft else 1) * tiled(classes, w) * 2 * w
    return 2 * w + (tiles if is_few(classes, w, soft) else w + min(classes, CHUNK) + w)


@_inlined
def _aligned(scratch: Any) -> Any:
    """The first entry that begins two cache lines."""
    p = pointer(scratch)
    return at(p, (-address(p) & 127) // scratch.itemsize)


@_inlined
def _is_streamed(logits: Any, grad: Any, soft: bool, cache_bytes: int) -> bool:
    """Whether the gradient goes past the caches: where logits and gradient would not both stay in the largest one."""
    if is_few(logits.shape[1], lanes_of(pointer(logits)), soft) or address(pointer(logits)) == address(pointer(grad)):
        return False
    return 2 * entries(grad) * logits.itemsize > cache_bytes


def hard_rows(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
    cache_bytes: int,
) -> None:  # fmt: skip
    """The contract's kernel."""
    x, classes, scale = pointer(logits), logits.shape[1], pointer(label_mass)
    streamed = _is_streamed(logits, grad, False, cache_bytes)
    scratch = np.empty(_scratch_entries(classes, lanes_of(x), False), logits.dtype)
    _all_rows(
        x, classes, pointer(labels), step_of(labels), ignore_index,
        (null_if(True, scale), scale, step_of(label_mass), pointer(base_mass), step_of(base_mass)), base_total, z_loss,
        (pointer(row_weight), step_of(row_weight), pointer(upstream), step_of(upstream)),
        (pointer(loss), pointer(grad), pointer(row_max), pointer(log_sum)),
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
    streamed = _is_streamed(logits, grad, True, cache_bytes)
    scratch = np.empty(_scratch_entries(classes, lanes_of(x), True), logits.dtype)
    no_labels = np.empty(0, np.int64)
    _all_rows(
        x, classes, pointer(no_labels), 0, 0,
        (pointer(targets), pointer(target_scale), step_of(target_scale), pointer(base_mass), step_of(base_mass)),
        0.0, z_loss,
        (pointer(row_weight), step_of(row_weight), pointer(upstream), step_of(upstream)),
        (pointer(loss), pointer(grad), pointer(row_max), pointer(log_sum)),
        _aligned(scratch), streamed, start, stop,
    )  # fmt: skip
    if streamed:
        fence()
    keep_alive(scratch)
