"""The operations that are timed, and the one builder of their calls.

A call is the public function with its arguments bound and nothing around it, and its buffers are arrays as a user
makes them: what is timed is what a user's own call takes. Nothing here imports softmax_ce: a process that holds another
build passes that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

LOSS, ARRAY, ROWS = "loss", "array", "rows"  # what a buffer holds: the loss, one number a logit, one a row


@dataclass(frozen=True, slots=True)
class Operation:
    """One public function.

    Attributes
    ----------
    name : str
        What commands and records call it.
    function : str
        Its name in softmax_ce.
    takes_targets : bool
    buffers : mapping
        Keyword of each buffer that it can be given -> what that holds.
    """

    name: str
    function: str
    takes_targets: bool
    buffers: Mapping[str, str]

    @property
    def writes_array(self) -> bool:
        """Whether it writes as many numbers as there are logits."""
        return ARRAY in self.buffers.values()

    @property
    def loops(self) -> tuple[str, ...]:
        """The loops of :mod:`softmax_ce_bench.ceilings` that do its job."""
        return ("copy", "stream") if self.writes_array else ("read",)


TABLE = {
    operation.name: operation
    for operation in (
        Operation("forward", "cross_entropy", True, {"out": LOSS}),
        Operation("backward", "cross_entropy_grad", True, {"grad_out": ARRAY}),
        Operation("fused", "cross_entropy_with_grad", True, {"out": LOSS, "grad_out": ARRAY}),
        Operation("softmax", "softmax", False, {"out": ARRAY}),
        Operation("log_softmax", "log_softmax", False, {"out": ARRAY}),
        Operation("logsumexp", "logsumexp", False, {"out": ROWS}),
    )
}
LOSSES = tuple(name for name, operation in TABLE.items() if operation.takes_targets)
NORMALIZERS = tuple(name for name in TABLE if name not in LOSSES)


class Buffers:
    """The results' memory for all calls on one array of logits; its pages are there.

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
        """The keywords that hand an operation its buffers."""
        return {keyword: getattr(self, what) for keyword, what in TABLE[operation].buffers.items()}


def call(
    module: Any, operation: str, logits: Any, targets: Any, buffers: Buffers | None = None, **options: Any
) -> Callable[[], Any]:
    """An operation as a function without arguments.

    Parameters
    ----------
    module : module
        softmax_ce, of any build.
    operation : str
        A key of `TABLE`.
    logits, targets : ndarray
        Targets are left out where the operation takes none.
    buffers : Buffers, optional
        None: the results are allocated in the call.
    **options
        Of the public function. The reduction is left out where there is none.

    Returns
    -------
    callable
    """
    row = TABLE[operation]
    given = (logits, targets) if row.takes_targets else (logits,)
    if not row.takes_targets:
        options = {name: value for name, value in options.items() if name in ("axis", "backend", "threads")}
    return partial(getattr(module, row.function), *given, **(buffers.of(operation) if buffers else {}), **options)
