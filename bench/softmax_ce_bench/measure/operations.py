"""The operations that are measured, and the one builder of their calls.

A row of `TABLE` is all that a new operation needs: commands, gate, suites, roofline and reports go by the table. A call
is the public function with its arguments bound and nothing around it, and its buffers are arrays as a user makes them.
Its time is therefore that of a user's own call.

This file needs NumPy alone, and can be loaded by its path. It does not import softmax_ce: a process that holds another
build hands that over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

ARRAY, ROWS = "array", "rows"  # what a buffer holds: one number a logit, one a row; or the loss
LOSS, GRAD = "loss", "grad"


@dataclass(frozen=True, slots=True)
class Operation:
    """One public function.

    Attributes
    ----------
    name : str
        Its name in commands and records.
    function : str
        Its name in softmax_ce.
    computes : tuple of str
        The results that it returns, in order, by the names of :class:`softmax_ce_bench.truth.oracle.Truth`.
    buffers : mapping
        Keyword of each buffer that it can be given -> what that holds: `LOSS`, `ARRAY` or `ROWS`.
    takes_targets : bool
    """

    name: str
    function: str
    computes: tuple[str, ...]
    buffers: Mapping[str, str]
    takes_targets: bool = False

    @property
    def writes_array(self) -> bool:
        """Return whether the operation writes as many numbers as there are logits."""
        return ARRAY in self.buffers.values()

    @property
    def loops(self) -> tuple[str, ...]:
        """Return the loops of :mod:`softmax_ce_bench.ceilings` that move the same bytes."""
        return ("copy", "stream") if self.writes_array else ("read",)

    def results(self, returned: Any) -> dict[str, Any]:
        """Return the results of a call by the names of `computes`."""
        values = returned if len(self.computes) > 1 else (returned,)
        return dict(zip(self.computes, values, strict=True))


TABLE = {
    operation.name: operation
    for operation in (
        Operation("forward", "cross_entropy", (LOSS,), {"out": LOSS}, takes_targets=True),
        Operation("backward", "cross_entropy_grad", (GRAD,), {"grad_out": ARRAY}, takes_targets=True),
        Operation(
            "fused", "cross_entropy_with_grad", (LOSS, GRAD), {"out": LOSS, "grad_out": ARRAY}, takes_targets=True
        ),
        Operation("softmax", "softmax", ("softmax",), {"out": ARRAY}),
        Operation("log_softmax", "log_softmax", ("log_softmax",), {"out": ARRAY}),
        Operation("logsumexp", "logsumexp", ("lse",), {"out": ROWS}),
    )
}
LOSSES = tuple(name for name, operation in TABLE.items() if operation.takes_targets)  # compared unasked, and picked
NORMALIZERS = tuple(name for name in TABLE if name not in LOSSES)


class Buffers:
    """The memory for the results of all calls on one array of logits. Its pages have been touched.

    Parameters
    ----------
    logits : ndarray, shape (..., C)
    reduction : str
        "none" has one loss a row.
    """

    def __init__(self, logits: Any, reduction: str = "mean") -> None:
        # By type: an array that was read or sent may have an equal dtype that is another object, no user's buffer has.
        kind = logits.dtype.type
        real = np.float64 if logits.dtype.itemsize == 8 else np.float32
        rows = logits.shape[:-1]
        self.array = np.empty(logits.shape, kind)
        self.array.fill(0)
        self.rows = np.zeros(rows, real)
        self.loss = np.zeros(rows if reduction == "none" else (), real)

    def of(self, operation: str) -> dict[str, Any]:
        """Return the keyword arguments that pass the buffers of an operation."""
        return {keyword: getattr(self, what) for keyword, what in TABLE[operation].buffers.items()}


def call(
    module: Any, operation: str, logits: Any, targets: Any, buffers: Buffers | None = None, **options: Any
) -> Callable[[], Any]:
    """Return a call of an operation as a function without arguments.

    Parameters
    ----------
    module : module
        softmax_ce, of any build.
    operation : str
        A key of `TABLE`.
    logits, targets : ndarray
        The targets are left out if the operation takes none.
    buffers : Buffers, optional
        If None, the call allocates its results.
    **options
        Options of the public function. Those that the operation does not take are left out.

    Returns
    -------
    callable
    """
    row = TABLE[operation]
    given = (logits, targets) if row.takes_targets else (logits,)
    if not row.takes_targets:
        options = {name: value for name, value in options.items() if name in ("axis", "backend", "threads")}
    return partial(getattr(module, row.function), *given, **(buffers.of(operation) if buffers else {}), **options)
