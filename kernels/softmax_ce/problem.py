"""The arrays of one call, checked and viewed as rows. Every step after the checks works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(slots=True)
class Problem:
    """The arrays of one call, checked and viewed as rows.

    Attributes
    ----------
    source : ndarray
        The logits as given, N-d.
    axis : int
        The class axis in [0, ndim).
    compute, result : dtype
        The dtypes of the computation and of the gradient.
    logits : Rows or Transformed
        What is computed on: the logits, or what the options make of them.
    row_shape : tuple of int
        The shape of the "none" loss.
    labels : ndarray of int64 or None
        Hard labels, (N,); None if the labels are soft.
    targets : ndarray or None
        Soft labels as given, N-d; None if the labels are hard.
    any_ignored : bool
        Whether some label is `ignore_index`.
    transform : Transformed or None
        The same as `logits` if an option changes them.
    """

    source: Any
    axis: int
    compute: np.dtype[Any]
    result: np.dtype[Any]
    logits: Any
    row_shape: tuple[int, ...]
    labels: Any = None
    targets: Any = None
    any_ignored: bool = False
    transform: Any = None

    @property
    def n_rows(self) -> int:
        return self.logits.n_rows

    @property
    def n_classes(self) -> int:
        return self.logits.n_classes


def counted(labels: Any, n_classes: int, ignore_index: int) -> tuple[Any, Any]:
    """Return labels that are read once, with 0 in place of one that does not count, and which of them count."""
    y = labels.copy()
    counts = (y.view(np.uint64) < n_classes) & (y != ignore_index)  # a negative label is huge
    y[~counts] = 0
    return y, counts
