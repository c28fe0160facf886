"""The plain call in Python, for backends that have no short call of their own: no option in use, work for one thread.

For one row of ten classes the checks of what cannot be wrong would take ten times as long as the kernel. The same
kernel is given the same factors as on the full path, so the bits are the same; whatever is unusual, or wrong, is left
to that path. Options and dtypes are compared by value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce import checks
from softmax_ce.contract import INTEGERS, NATIVE_DTYPES, NUMBERS, ROW_ELEMENTS, Backend
from softmax_ce.fold import ONE_CLASS, ONE_ROW
from softmax_ce.reduction import numpy_total, rounded, total_of
from softmax_ce.tuning import NUMPY_BLOCK_ELEMENTS as _ALONE  # with one thread, so much is computed in one piece

_INT64 = np.dtype(np.int64)
_UINT64 = np.dtype(np.uint64)


def attempt(
    chosen: Backend, logits: Any, targets: Any, want_loss: bool, want_grad: bool, weight: Any, sample_weight: Any,
    ignore_index: Any, label_smoothing: Any, z_loss: Any, reduction: Any, denominator: Any, on_empty: Any, axis: Any,
    grad_output: Any, return_lse: Any, threads: Any, out: Any, grad_out: Any, lse_out: Any, logit_scale: Any,
    softcap: Any, where: Any, return_correct: Any, most: int,
) -> Any:  # fmt: skip
    """The results of a call, as the public functions return them; None where it is not plain, or of `most` elements.

    With one thread it may be larger: no other one would share the work.
    """
    if (
        weight is not None or sample_weight is not None or denominator is not None or grad_output is not None
        or lse_out is not None or softcap is not None or where is not None or return_correct is not False
        or type(logits) is not np.ndarray or type(targets) is not np.ndarray
        or type(reduction) is not str or type(on_empty) is not str or on_empty not in checks.ON_EMPTY
    ):  # fmt: skip
        return None
    shape, dtype = logits.shape, logits.dtype
    if (
        not (isinstance(label_smoothing, NUMBERS) and isinstance(z_loss, NUMBERS) and isinstance(logit_scale, NUMBERS))
        or label_smoothing != 0
        or z_loss != 0
        or logit_scale != 1
    ):
        return None
    if len(shape) != 2 or (return_lse is not False and (not isinstance(return_lse, int | np.bool_) or return_lse)):
        return None
    if not (isinstance(axis, INTEGERS) and (axis == -1 or axis == 1)):
        return None
    if not (isinstance(ignore_index, INTEGERS) and -(2**63) <= ignore_index < 0):  # no class
        return None
    if threads is not None and not (isinstance(threads, INTEGERS) and threads >= 1):
        return None
    flags = logits.flags
    if dtype not in ONE_CLASS or not flags.c_contiguous or not flags.aligned:
        return None
    n_rows, n_classes = shape
    if threads == 1:
        most = max(most, _ALONE)
    if logits.size == 0 or n_rows * (n_classes + ROW_ELEMENTS) >= most:
        return None
    if targets.dtype != _INT64 or targets.shape != (n_rows,):
        return None
    label_flags = targets.flags
    if not label_flags.c_contiguous or not label_flags.aligned:
        return None
    if reduction == "mean":
        divisor = n_rows
    elif reduction == "sum" or reduction == "none":
        divisor = 1
    else:
        return None
    if grad_out is not None and not (_fits(grad_out, shape, dtype) and is_apart(grad_out, logits, targets)):
        return None
    if out is not None and not (
        reduction != "none" and _fits(out, (), dtype) and is_apart(out, logits, targets, grad_out)
    ):
        return None
    if chosen.info.dtypes is not NATIVE_DTYPES:
        return None
    grad = None
    if want_grad:
        grad = np.empty(shape, dtype) if grad_out is None else grad_out
    reduced = want_loss and reduction != "none"
    loss = np.empty(n_rows, dtype) if want_loss and not reduced else None
    if chosen.plain is not None:
        total = chosen.plain(logits, targets, divisor, loss, grad, reduced)
    else:
        total = _by_hard(chosen, logits, targets, divisor, loss, grad, reduced)
    if total is None:
        return None
    if not want_loss:
        return grad
    result: Any = loss
    if reduced:
        result = rounded(total, dtype)
        if out is not None:
            out[()] = result
            result = out
    return (result, grad) if want_grad else result


def _by_hard(
    chosen: Backend, logits: Any, labels: Any, divisor: float, loss: Any, grad: Any, reduced: bool
) -> float | None:  # fmt: skip
    """The plain call, as in the contract, of a backend that has none of its own."""
    n_rows, n_classes = logits.shape
    wild = labels.view(_UINT64)  # a negative label is a huge one
    if wild.item(wild.argmax()) >= n_classes:
        return None
    if reduced:
        loss = np.empty(n_rows, logits.dtype)
    one: Any = ONE_CLASS[logits.dtype]
    upstream = np.array((1.0 / divisor,))
    chosen.hard(logits, labels, -1, one, None, 0.0, 0.0, ONE_ROW, upstream, loss, grad, None, None, 0, n_rows)
    return total_of(loss, divisor, chosen.total or numpy_total) if reduced else 0.0


def _fits(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether a kernel can write into this buffer as it is."""
    if type(buffer) is not np.ndarray or buffer.shape != shape or buffer.dtype != dtype:
        return False
    flags = buffer.flags
    return bool(flags.c_contiguous and flags.aligned and flags.writeable)


def is_apart(buffer: Any, *others: Any) -> bool:
    """Return whether a buffer shares no memory with the others. Two arrays that own their data do not."""
    owns = buffer.flags.owndata
    for other in others:
        if other is buffer:
            return False
        if other is not None and not (owns and other.flags.owndata) and np.may_share_memory(buffer, other):
            return False
    return True
