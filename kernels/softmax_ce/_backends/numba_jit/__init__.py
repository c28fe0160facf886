"""The Numba backend: compiled on first use, and cached on disk if a cache can be written. One fused pass a row.

Formula: chunks of a row combined as (m, s) pairs, then loss = (m - x_y) + log1p(s - 1) and
grad = gain * (total * exp(x - m) / s - T). Passes over memory: the logits are read once, and the gradient is written
once, past the caches if it is larger than they are. The exponentials of a row are kept for its gradient, or computed
again if the row is too long. The limits for both are in softmax_ce.tuning.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numba import config, njit, types

from softmax_ce import forks, tuning
from softmax_ce._backends.numba_jit.cache import Cache
from softmax_ce._backends.numba_jit.instruction_set import instruction_set
from softmax_ce._backends.numba_jit.kernels import hard_rows, soft_rows
from softmax_ce._backends.numba_jit.second_order import hard_hessian_rows, soft_hessian_rows
from softmax_ce._backends.numba_jit.shards import shard_fold_rows, shard_grad_rows, shard_sums_rows
from softmax_ce._backends.numba_jit.sums import classes_of_chunk
from softmax_ce._backends.numba_jit.total import total_over
from softmax_ce.contract import HessianKernels, ShardKernels
from softmax_ce.reduction import numpy_total

if getattr(config, "DISABLE_JIT", 0):  # njit then returns the Python functions, for coverage and debuggers
    raise ImportError("NUMBA_DISABLE_JIT is set, and without compilation its kernels would be plain Python loops")

_TUNING = tuning.for_isa(instruction_set())
_STREAM_BYTES_ASKED_FOR = tuning.stream_bytes_asked_for()
_KEEP_BYTES = _TUNING.keep_bytes
_WHOLE_STREAM_BYTES = _TUNING.stream_bytes if _STREAM_BYTES_ASKED_FOR is None else _STREAM_BYTES_ASKED_FOR


def _stream_bytes(logits: Any, start: int, stop: int) -> int:
    """Return the size from which a gradient is streamed."""
    if _STREAM_BYTES_ASKED_FOR is not None:
        return _STREAM_BYTES_ASKED_FOR
    whole = stop - start == len(logits)
    return _TUNING.stream_bytes if whole else _TUNING.shared_stream_bytes


def _signature(rows: Any, itemsize: int) -> Any:
    """Return a kernel's signature. Read-only inputs accept writeable arrays too, so one signature is enough."""
    real = types.float32 if itemsize == 4 else types.float64

    def given(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C", readonly=True)

    if rows is total_over:
        return types.float64(given(real, 1), types.float64)
    if rows in (shard_sums_rows, shard_fold_rows, shard_grad_rows):
        return _signature_of_shard(rows, real)
    by_class, by_row = given(real, 1), given(types.float64, 1)
    row, matrix = types.Optional(real[::1]), real[:, ::1]
    hess = [matrix] if rows in (hard_hessian_rows, soft_hessian_rows) else []
    outputs = row, types.Optional(matrix), *hess, row, row
    sizes = [types.int64] * (3 if hess else 4)  # start, stop and the thresholds
    if rows in (soft_rows, soft_hessian_rows):
        inputs = given(real, 2), given(real, 2), by_class, types.Optional(by_class), types.float64, by_row, by_row
        return types.void(*inputs, *outputs, *sizes)
    first = given(real, 2), given(types.int64, 1), types.int64
    numbers = types.float64, types.float64
    if rows is hard_hessian_rows:
        return types.void(*first, by_class, types.Optional(by_class), *numbers, by_row, by_row, *outputs, *sizes)
    factors = *[types.Optional(by_class)] * 2, *numbers, *[types.Optional(by_row)] * 2
    return types.float64(*first, *factors, *outputs, *sizes, types.float64, types.boolean)


def _signature_of_shard(rows: Any, real: Any) -> Any:
    """Return the signature of a kernel for shards."""

    def given(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C", readonly=True)

    matrix, by_class, by_row = given(real, 2), given(real, 1), given(types.float64, 1)
    number, index, maybe = types.float64, types.int64, types.Optional
    inputs = matrix, maybe(given(types.int64, 1)), maybe(matrix), by_class, maybe(by_class)
    if rows is shard_sums_rows:
        return types.void(*inputs, index, index, number[:, :, ::1], maybe(number[::1]), index, index)
    of_labels, chunks = (maybe(by_row), maybe(by_row)), given(number, 3)
    if rows is shard_fold_rows:
        outputs = (real[::1],) * 3
        return types.void(chunks, *of_labels, number, number, by_row, *outputs, number[:, ::1], index, index)
    factors, sizes = (number, number, by_row, by_row, index, index), (index,) * 3
    return types.void(*inputs, *factors, chunks, *of_labels, given(number, 2), real[:, ::1], *sizes)


def dispatcher(rows: Any, itemsize: int, *, cached: bool = True) -> Any:
    """Return Numba's object for a kernel and a dtype, loaded from the cache if `cached`, else compiled."""
    made: Any = njit(nogil=True, error_model="numpy")(rows)
    if cached:
        with contextlib.suppress(Exception):  # no home folder, or a Numba that caches in another way
            made._cache = Cache(rows)
    made.compile(_signature(rows, itemsize))
    made.disable_compile()
    return made


class _Compiled(dict[int, Any]):
    """From an item size to the compiled kernel, which is compiled or loaded when it is first used.

    Numba's dispatcher would look at the type of every argument of every call, but the contract fixes the types. So the
    function that the dispatcher would call is called directly. It converts the arguments, holds references to the
    arrays, and releases the GIL.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._lock = forks.Lock()

    def __missing__(self, itemsize: int) -> Any:
        with self._lock.held():  # compiled once, however many threads come first
            if itemsize not in self:
                made = dispatcher(self._rows, itemsize)
                (result,) = made.overloads.values()
                self[itemsize] = getattr(result, "entry_point", None) or made
            return self[itemsize]


_hard, _soft, _total = _Compiled(hard_rows), _Compiled(soft_rows), _Compiled(total_over)
_hard_hessian, _soft_hessian = _Compiled(hard_hessian_rows), _Compiled(soft_hessian_rows)


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    _hard[logits.itemsize](
        logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
        loss, grad, row_max, log_sum, start, stop,
        _KEEP_BYTES, _stream_bytes(logits, start, stop), 0.0, False,
    )  # fmt: skip


def plain(logits: Any, labels: Any, divisor: float, loss: Any, grad: Any, reduced: bool) -> float | None:
    """Compute a small call without any option: see softmax_ce.contract."""
    n = len(labels)
    if reduced and n > _FEW:
        loss = np.empty(n, logits.dtype)
        return None if plain(logits, labels, divisor, loss, grad, False) is None else total(loss, divisor)
    found: float = _hard[logits.itemsize](
        logits, labels, -1, None, None, 0.0, 0.0, None, None, loss, grad, None, None, 0, n,
        _KEEP_BYTES, _WHOLE_STREAM_BYTES, divisor, reduced,
    )  # fmt: skip
    return None if found < 0 else found


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for soft labels: see softmax_ce.contract."""
    _soft[logits.itemsize](
        logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
        loss, grad, row_max, log_sum, start, stop,
        _KEEP_BYTES, _stream_bytes(logits, start, stop),
    )  # fmt: skip


def _hard_with_hessian(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, hess: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    if hess is None:
        hard(
            logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
            loss, grad, row_max, log_sum, start, stop,
        )  # fmt: skip
        return
    _hard_hessian[logits.itemsize](
        logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
        loss, grad, hess, row_max, log_sum, start, stop, _stream_bytes(logits, start, stop),
    )  # fmt: skip


def _soft_with_hessian(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, hess: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    if hess is None:
        soft(
            logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
            loss, grad, row_max, log_sum, start, stop,
        )  # fmt: skip
        return
    _soft_hessian[logits.itemsize](
        logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
        loss, grad, hess, row_max, log_sum, start, stop, _stream_bytes(logits, start, stop),
    )  # fmt: skip


hessian = HessianKernels(_hard_with_hessian, _soft_with_hessian)


_sums, _fold, _grad = _Compiled(shard_sums_rows), _Compiled(shard_fold_rows), _Compiled(shard_grad_rows)


def _chunk(n_classes: int, itemsize: int) -> int:
    return classes_of_chunk(n_classes, 4 * tuning.LINE_BYTES // itemsize)


def _shard_sums(logits: Any, *arguments: Any) -> None:
    _sums[logits.itemsize](logits, *arguments)


def _shard_fold(
    chunks: Any, label_logit: Any, label_mass: Any, base_total: float, z_loss: float, row_weight: Any, loss: Any,
    *arguments: Any,
) -> None:  # fmt: skip
    _fold[loss.itemsize](chunks, label_logit, label_mass, base_total, z_loss, row_weight, loss, *arguments)


def _shard_grad(logits: Any, *arguments: Any) -> None:
    *_, start, stop = arguments
    _grad[logits.itemsize](logits, *arguments, _stream_bytes(logits, start, stop))


shards = ShardKernels(_chunk, _shard_sums, _shard_fold, _shard_grad)


_FEW = 128  # losses that are summed in lanes


def total(values: Any, divisor: float) -> float:
    """Return the sum of a vector, divided by a number, in float64: see softmax_ce.contract."""
    if len(values) > _FEW:  # NumPy's sum is pairwise: its error grows with the logarithm of the length
        return numpy_total(values, divisor)
    compiled = _total[values.itemsize]
    return float(compiled(values if values.flags.c_contiguous else values.copy(), float(divisor)))
