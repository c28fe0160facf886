"""The arrays of one call, checked and viewed as rows. Every step after the checks works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.staging import Rows


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
    logits : Rows
    row_shape : tuple of int
        The shape of the "none" loss.
    labels : ndarray of int64 or None
        Hard labels, (N,); None if the labels are soft.
    targets : ndarray or None
        Soft labels as given, N-d; None if the labels are hard.
    any_ignored : bool
        Whether some label is `ignore_index`.
    """

    source: Any
    axis: int
    compute: np.dtype[Any]
    result: np.dtype[Any]
    logits: Rows
    row_shape: tuple[int, ...]
    labels: Any = None
    targets: Any = None
    any_ignored: bool = False

    @property
    def n_rows(self) -> int:
        return self.logits.n_rows

    @property
    def n_classes(self) -> int:
        return self.logits.n_classes
