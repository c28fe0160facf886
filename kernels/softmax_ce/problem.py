"""One call's arrays, checked and seen as rows: what every step after the checks works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.staging import Rows


@dataclass(slots=True)
class Problem:
    """One call's arrays, checked and seen as rows.

    Attributes
    ----------
    source : ndarray
        The logits as given, N-d.
    axis : int
        The class axis in [0, ndim).
    compute, result : dtype
        What the kernel computes in; what the gradient comes back in.
    logits : Rows
    row_shape : tuple of int
        The shape of the "none" loss.
    labels : ndarray of int64 or None
        (N,), hard labels. None for soft ones.
    targets : ndarray or None
        Soft labels as given, N-d. None for hard ones.
    any_ignored : bool
        Whether some label is ignore_index.
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
