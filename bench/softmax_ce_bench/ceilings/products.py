"""The matrix products of a linear layer, without the loss: the limit of what takes a layer in place of the logits.

NumPy's BLAS computes them in the blocks of rows that :func:`softmax_ce.linear_cross_entropy` makes within its default
budget, and on as many threads as it likes. Nothing is added up: the products of a later block overwrite those of an
earlier one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from softmax_ce.dtypes import compute_dtype
from softmax_ce.linear import memory

LOOPS = {"product": "one matrix product", "products": "three matrix products"}
_BUDGET = "256MiB"  # the default of the functions that are bounded


def call(hidden: Any, weight: Any, gradients: tuple[Any, Any] | None = None) -> Callable[[], object]:
    """Return the products as a function without arguments.

    Parameters
    ----------
    hidden : ndarray, shape (..., D)
    weight : ndarray, shape (C, D)
    gradients : pair of ndarray, optional
        Arrays for the gradients of the two, in the dtype of the computation. If None, there is one product, of the
        logits.

    Returns
    -------
    callable
    """
    dtype = compute_dtype(hidden.dtype)
    n_classes, features = weight.shape
    x, w = (np.ascontiguousarray(each.reshape(-1, features), dtype) for each in (hidden, weight))
    plan = memory.plan(memory.parse(_BUDGET), len(x), n_classes, features, dtype.itemsize, 1)
    rows = plan.rows if plan.classes == n_classes else 1
    block = np.zeros((rows, n_classes), dtype)

    def run() -> None:
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            logits = block[: len(part)]
            np.matmul(part, w.T, out=logits)
            if gradients is not None:
                np.matmul(logits.T, part, out=gradients[1])
                np.matmul(logits, w, out=gradients[0].reshape(-1, features)[start : start + rows])

    return run
