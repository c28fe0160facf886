"""What the kernels pass on: a call's arguments, as pointers, under their names.

Null pointers stand for what is not there; a step of 0 is one entry for all rows or classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Targets(NamedTuple):
    """Where a row's T comes from."""

    soft: Any  # soft labels; null: hard ones
    scale: Any  # what soft labels are multiplied by, or a hard label's mass, by class
    scale_step: int
    base: Any  # the mass that each class has beside
    base_step: int


class Outputs(NamedTuple):
    """Where the results go, of all rows."""

    loss: Any
    grad: Any
    row_max: Any
    log_sum: Any


class Call(NamedTuple):
    """A call's arguments but its outputs and its range of rows; as softmax_ce.contract has it."""

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
