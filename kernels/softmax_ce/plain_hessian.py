"""The plain call with the Hessian in Python: hard labels that all count, no option in use, work for one thread.

Boosting libraries call with a few thousand rows of few classes, for which the checks of what cannot be wrong would take
as long as the kernel. The kernel is given the factors of the full path, so the bits are the same; whatever is unusual,
or wrong, is left to that path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce.contract import INTEGERS, NATIVE_DTYPES, NUMBERS, ROW_ELEMENTS, Backend
from softmax_ce.fold import ONE_CLASS, ONE_ROW
from softmax_ce.options import Options
from softmax_ce.plain import is_apart
from softmax_ce.reduction import numpy_total, rounded, total_of
from softmax_ce.tuning import NUMPY_BLOCK_ELEMENTS as _ALONE

_FLOAT32, _INT64, _UINT64 = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.uint64)


def attempt(chosen: Backend, logits: Any, targets: Any, options: Options, hess_out: Any, most: int) -> Any:
    """Return loss, gradient and Hessian; None where the call is not plain, or of `most` elements or more."""
    kernels: Any = chosen.hessian
    if kernels is None or chosen.info.dtypes is not NATIVE_DTYPES or not _is_plain(options):
        return None
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray or logits.ndim != 2 or logits.size == 0:
        return None
    (n_rows, n_classes), dtype = logits.shape, logits.dtype
    if dtype not in ONE_CLASS or not logits.flags.aligned:
        return None
    axis, ignored, threads, reduction = options.axis, options.ignore_index, options.threads, options.reduction
    if not (isinstance(axis, INTEGERS) and (axis == -1 or axis == 1)):
        return None
    if not (isinstance(ignored, INTEGERS) and (-(2**63) <= ignored < 0 or n_classes <= ignored < 2**63)):  # no class
        return None
    if threads is not None and not (isinstance(threads, INTEGERS) and threads >= 1):
        return None
    if n_rows * (n_classes + ROW_ELEMENTS) >= (max(most, _ALONE) if threads == 1 else most):
        return None
    if targets.dtype != _INT64 or targets.shape != (n_rows,) or not targets.flags.carray:
        return None
    grad_out = options.grad_out
    for buffer, other in ((grad_out, hess_out), (hess_out, grad_out)):
        if buffer is not None and not (_fits(buffer, logits) and is_apart(buffer, logits, targets, other)):
            return None
    wild = targets.view(_UINT64)  # a negative label is a huge one
    if wild.item(wild.argmax()) >= n_classes:
        return None
    grad = np.empty(logits.shape, dtype) if grad_out is None else grad_out
    hess = np.empty(logits.shape, dtype) if hess_out is None else hess_out
    if not all(array.flags.c_contiguous and array.dtype == dtype for array in (logits, grad, hess)):
        kernels = kernels.strided
        if kernels is None:
            return None
    loss = np.empty(n_rows, dtype)
    divisor = n_rows if reduction == "mean" else 1
    one: Any = ONE_CLASS[dtype]
    upstream = ONE_ROW if divisor == 1 else np.array((1.0 / divisor,))
    kernels.hard(
        logits, targets, -1, one, None, 0.0, 0.0, ONE_ROW, upstream, loss, grad, hess, None, None, 0, n_rows
    )  # fmt: skip
    if reduction == "none":
        return loss, grad, hess
    return rounded(total_of(loss, divisor, chosen.total or numpy_total), dtype), grad, hess


def _is_plain(options: Options) -> bool:
    """Return whether no option is in use that changes more than the reduction."""
    return (
        options.weight is None and options.sample_weight is None and options.denominator is None
        and options.grad_output is None and options.out is None and options.lse_out is None
        and options.softcap is None and options.where is None
        and options.return_lse is False and options.return_correct is False
        and isinstance(options.label_smoothing, NUMBERS) and options.label_smoothing == 0
        and isinstance(options.z_loss, NUMBERS) and options.z_loss == 0
        and isinstance(options.logit_scale, NUMBERS) and options.logit_scale == 1
        and type(options.reduction) is str and options.reduction in checks.REDUCTIONS
        and type(options.on_empty) is str and options.on_empty in checks.ON_EMPTY
    )  # fmt: skip


def _fits(buffer: Any, logits: Any) -> bool:
    """Return whether a kernel can write a derivative into this buffer as it is."""
    if type(buffer) is not np.ndarray or buffer.shape != logits.shape:
        return False
    # In one piece, it does not overlap itself. Of others, the full way finds out.
    is_whole = buffer.flags.c_contiguous or buffer.flags.f_contiguous
    return is_whole and (buffer.dtype == logits.dtype or buffer.dtype == _FLOAT32) and buffer.flags.behaved
