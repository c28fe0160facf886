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
from functools import cached_property, partial
from typing import Any

import numpy as np

# What a buffer holds: one number a logit, in the first or the second array of that size; one a row; or the loss.
ARRAY, SECOND, ROWS = "array", "second", "rows"
LOSS, GRAD = "loss", "grad"
_ALWAYS = ("axis", "backend", "threads")  # options of every function


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
        The results that it returns, in order, by the names of :class:`softmax_ce_bench.truth.expected.ExpectedResults`.
    buffers : mapping
        Keyword of each buffer that it can be given -> what that holds: `LOSS`, `ARRAY`, `SECOND` or `ROWS`.
    takes_targets : bool
        It takes the workload's targets.
    takes_target_logits : bool
        It takes a second array of logits: see :func:`make_target_logits`.
    """

    name: str
    function: str
    computes: tuple[str, ...]
    buffers: Mapping[str, str]
    takes_targets: bool = False
    takes_target_logits: bool = False

    @property
    def writes_array(self) -> bool:
        """Return whether the operation writes as many numbers as there are logits."""
        return ARRAY in self.buffers.values()

    @property
    def arrays_written(self) -> int:
        """Return how many arrays of the logits' size the operation writes."""
        return sum(what in (ARRAY, SECOND) for what in self.buffers.values())

    def arrays_moved(self, *, soft: bool) -> int:
        """Return how many arrays of the logits' size the operation reads and writes, with soft or with hard targets."""
        return 1 + (self.takes_targets and soft) + self.takes_target_logits + self.arrays_written

    def given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the losses' options that the function takes."""
        if self.takes_targets:
            return dict(options)
        known = (*_ALWAYS, "reduction", "grad_output") if self.takes_target_logits else _ALWAYS
        return {name: value for name, value in options.items() if name in known}

    @property
    def loops(self) -> tuple[str, ...]:
        """Return the loops of :mod:`softmax_ce_bench.ceilings` whose speed bounds that of the operation."""
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
        Operation(
            "hessian",
            "cross_entropy_with_hessian",
            (LOSS, GRAD, "hess"),
            {"out": LOSS, "grad_out": ARRAY, "hess_out": SECOND},
            takes_targets=True,
        ),
        Operation(
            "kl",
            "kl_divergence_with_grad",
            ("kl", "kl_grad"),
            {"out": LOSS, "grad_out": ARRAY},
            takes_target_logits=True,
        ),
    )
}
# Compared unasked, and picked: what computes the loss, its gradient or both.
LOSSES = tuple(name for name, row in TABLE.items() if row.takes_targets and set(row.computes) <= {LOSS, GRAD})
OTHERS = tuple(name for name in TABLE if name not in LOSSES)
NORMALIZERS = tuple(name for name in OTHERS if not (TABLE[name].takes_targets or TABLE[name].takes_target_logits))


class Buffers:
    """The memory for the results of all calls on one array of logits. Its pages have been touched.

    Parameters
    ----------
    logits : ndarray
    reduction : str
        "none" has one loss a row.
    axis : int
        Where the classes are.
    """

    def __init__(self, logits: Any, reduction: str = "mean", axis: int = -1) -> None:
        # By type: an array that was read or sent may have an equal dtype that is another object, no user's buffer has.
        self._shape, self._kind = logits.shape, logits.dtype.type
        real = np.float64 if logits.dtype.itemsize == 8 else np.float32
        rows = logits.shape[:axis] + logits.shape[axis:][1:]
        self.array = self._touched()
        self.rows = np.zeros(rows, real)
        self.loss = np.zeros(rows if reduction == "none" else (), real)

    @cached_property
    def second(self) -> Any:
        """The second array of the logits' size. It is made when the first operation asks for it."""
        return self._touched()

    def _touched(self) -> Any:
        made = np.empty(self._shape, self._kind)
        made.fill(0)
        return made

    def of(self, operation: str) -> dict[str, Any]:
        """Return the keyword arguments that pass the buffers of an operation."""
        return {keyword: getattr(self, what) for keyword, what in TABLE[operation].buffers.items()}


def make_target_logits(logits: Any) -> Any:
    """Return the logits of a second model: those of the first, with normal noise of standard deviation 1.

    The same logits give the same. Classes at -inf stay there.
    """
    real = np.float64 if logits.dtype.itemsize == 8 else np.float32
    made = np.random.default_rng([3, *logits.shape]).standard_normal(logits.shape, real)
    made += logits.astype(real, copy=False)
    return made.astype(logits.dtype.type, copy=False)


def call(
    module: Any,
    operation: str,
    logits: Any,
    targets: Any,
    buffers: Buffers | None = None,
    target_logits: Any = None,
    **options: Any,
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
    target_logits : ndarray, optional
        For an operation that takes them. By default, they are made here, as :func:`make_target_logits` does.
    **options
        Options of the public function. Those that the operation does not take are left out.

    Returns
    -------
    callable
    """
    row = TABLE[operation]
    given = (logits, targets) if row.takes_targets else (logits,)
    if row.takes_target_logits:
        given = (logits, make_target_logits(logits) if target_logits is None else target_logits)
    out = buffers.of(operation) if buffers else {}
    return partial(getattr(module, row.function), *given, **out, **row.given(options))
