"""Numba: compiled on first use, cached on disk where a cache can be written, one fused pass per row.

Formula: chunks of a row combined as (m, s) pairs, then loss = (m - x_y) + log1p(s - 1) and
grad = gain * (total * exp(x - m) / s - T). Passes over memory: the logits are read once, the gradient is written
once, past the caches where it is larger than they are. Rows of up to 2048 classes keep their exponentials in a
scratch; longer ones compute them a second time, since the logits lie in L2 and such a scratch would not lie in L1.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from softmax_ce._backends.numba_jit.cache import Cache
from softmax_ce._backends.numba_jit.kernels import hard_rows, soft_rows


def _largest_cache() -> int:
    """Bytes of the last-level cache: a gradient beyond this is written past the caches."""
    sizes = []
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = size.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
        except (OSError, ValueError):
            continue
    return max(sizes, default=32 << 20)


_CACHE_BYTES = _largest_cache()


@functools.cache
def _compiled(rows: Any, itemsize: int) -> Any:
    """The kernel for one dtype. One signature: inputs declared read-only, which takes writeable arrays too."""
    real = types.float32 if itemsize == 4 else types.float64

    def given(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C", readonly=True)

    tables = given(real, 1), given(real, 1)  # by class
    factors = given(types.float64, 1), given(types.float64, 1)  # by row
    outputs = real[::1], real[:, ::1], real[::1], real[::1]
    first = (
        (given(real, 2), given(types.int64, 1), types.int64, *tables, types.float64)
        if rows is hard_rows
        else (given(real, 2), given(real, 2), *tables)
    )
    signature = types.void(*first, types.float64, *factors, *outputs, types.int64, types.int64, types.int64)
    dispatcher: Any = njit(nogil=True, error_model="numpy")(rows)
    with contextlib.suppress(Exception):  # no home folder, or a Numba that caches in another way
        dispatcher._cache = Cache(rows)
    dispatcher.compile(signature)
    dispatcher.disable_compile()  # one signature: arrays that may be written to are taken as read-only ones
    return dispatcher


_NONE = {4: (np.empty(0, np.float32), np.empty((0, 0), np.float32)), 8: (np.empty(0), np.empty((0, 0)))}


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    none, no_grad = _NONE[logits.itemsize]
    _compiled(hard_rows, logits.itemsize)(
        logits, labels, ignore_index, label_mass, none if base_mass is None else base_mass, base_total, z_loss,
        row_weight, upstream, none if loss is None else loss, no_grad if grad is None else grad,
        none if row_max is None else row_max, none if log_sum is None else log_sum, start, stop, _CACHE_BYTES,
    )  # fmt: skip


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """The same for soft targets: see softmax_ce.contract."""
    none, no_grad = _NONE[logits.itemsize]
    _compiled(soft_rows, logits.itemsize)(
        logits, targets, target_scale, none if base_mass is None else base_mass, z_loss,
        row_weight, upstream, none if loss is None else loss, no_grad if grad is None else grad,
        none if row_max is None else row_max, none if log_sum is None else log_sum, start, stop, _CACHE_BYTES,
    )  # fmt: skip
