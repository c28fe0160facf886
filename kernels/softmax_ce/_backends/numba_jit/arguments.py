"""The arguments of a call as the kernels pass them on: pointers and numbers with names.

A null pointer stands for an array that was not given. A step of 0 means that one entry holds for all rows or classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from softmax_ce._backends.numba_jit.memory import pointer, step_of


class Targets(NamedTuple):
    """The arrays from which a row's targets T are computed. C: target_row in rows_load.h."""

    soft: Any  # soft labels; null for hard labels
    scale: Any  # by class: the factor of a soft label, or the mass of a hard one
    scale_step: int
    base: Any  # by class: the mass that is added to each class
    base_step: int


class Outputs(NamedTuple):
    """The output arrays, for all rows. C: fields of sce_call in rows.h."""

    loss: Any
    grad: Any
    row_max: Any
    log_sum: Any


class Call(NamedTuple):
    """The inputs of a call, named as in softmax_ce.contract. C: sce_call in rows.h."""

    logits: Any
    classes: int
    labels: Any
    labels_step: int
    ignore_index: int
    targets: Targets
    base_total: float
    z_loss: float
    weight: Any
    weight_step: int
    upstream: Any
    upstream_step: int


_inlined: Any = njit(error_model="numpy", forceinline=True)


@_inlined
def soft_call(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any
) -> Call:
    """Return the inputs of a call with soft labels.

    C: _soft in _kernels.pyx
    """
    soft = Targets(
        pointer(targets), pointer(target_scale), step_of(target_scale), pointer(base_mass), step_of(base_mass)
    )
    return Call(
        pointer(logits), logits.shape[1], pointer(np.empty(0, np.int64)), 0, 0, soft, 0.0, z_loss,
        pointer(row_weight), step_of(row_weight), pointer(upstream), step_of(upstream),
    )  # fmt: skip
