"""Logits whose class axis is not the last: the calls that are timed on them, and those they are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.inputs.workloads import WIDTH, Shape, Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.timing import Clock, Local
from softmax_ce_bench.truth import reference
from tools.roofline.candidates import TimedCall, other_complaint


@dataclass(frozen=True, slots=True)
class AxisCase:
    """Logits with more than two axes.

    Attributes
    ----------
    shape : tuple of int
    axis : int
        The class axis, which is not the last one.
    dtype : str
    operation : str
        One of :data:`softmax_ce_bench.measure.operations.LOSSES` or `NORMALIZERS`.
    kept : int or None
        So many classes are a slice of the array; None for all of it.
    """

    shape: tuple[int, ...]
    axis: int
    dtype: str = "float32"
    operation: str = "fused"
    kept: int | None = None

    @property
    def classes(self) -> int:
        """Return the number of classes that take part."""
        return self.kept or self.shape[self.axis]

    @property
    def flat(self) -> Shape:
        """Return the case as a shape whose rows are its positions."""
        rows = math.prod(self.shape) // self.shape[self.axis]
        return Shape(self.key, rows, self.classes, "")

    @property
    def key(self) -> str:
        """Return the name: the operation and dtype unless they are fused and float32, the shape, and the axis."""
        size = "x".join(map(str, self.shape)) + ("" if self.kept is None else f"[:{self.kept}]")
        unusual = [what for what in (self.operation, self.dtype) if what not in ("fused", "float32")]
        return "/".join((*unusual, size, str(self.axis)))

    def within(self, size: int) -> AxisCase:
        """Return the case with fewer leading positions, so that its logits have at most so many bytes in float32."""
        each = 4 * math.prod(self.shape) // self.shape[0]
        if self.axis == 0 or each * self.shape[0] <= size:
            return self
        return replace(self, shape=(max(1, size // each), *self.shape[1:]))

    def workload(self) -> Workload:
        """Wide logits, and labels in their shape less the class axis; the same each time."""
        rng = np.random.default_rng([self.axis, *self.shape])
        logits = (WIDTH * rng.standard_normal(self.shape, np.float32)).astype(self.dtype, copy=False)
        if self.kept is not None:
            logits = logits[(slice(None),) * self.axis + (slice(self.kept),)]
        labels = rng.integers(0, self.classes, [n for k, n in enumerate(logits.shape) if k != self.axis])
        return Workload(self.key, "", logits, labels)


# The first three are the quick run's: many positions and few behind the axis; a slice; 16 bits.
CASES = (
    AxisCase((65_536, 5, 2), 1),
    AxisCase((100_000, 3, 10), 1, kept=2),
    AxisCase((20_000, 3, 10, 3), 2, "float16"),
    AxisCase((100_000, 10, 2), 1, operation="log_softmax"),
    AxisCase((65_536, 5, 2), 1, operation="softmax"),
    AxisCase((65_536, 5, 2), 1, operation="logsumexp"),
    AxisCase((4096, 50, 3), 1),
    AxisCase((256, 21, 32), 1),
    AxisCase((256, 21, 32), 1, "float64", "forward"),
    AxisCase((8, 1000, 7, 7), 1),
    AxisCase((2, 21, 128, 128), 1, "float64"),
    AxisCase((2, 150, 64, 64), 1, operation="softmax"),
    AxisCase((10, 4096), 0),
)
SEGMENTATION = AxisCase((8, 21, 256, 256), 1)


class AxisWorkload:
    """A workload with buffers that its candidates share. See :class:`~.candidates.SharedWorkload`.

    Parameters
    ----------
    case : AxisCase
    threads : int or None
    clock : callable
    """

    def __init__(self, case: AxisCase, threads: int | None, clock: Clock) -> None:
        self._case, self._threads, self._clock = case, threads, clock
        self.workload = case.workload()
        self._logits, self._labels = self.workload.logits, self.workload.targets
        self._last = np.ascontiguousarray(np.moveaxis(self._logits, case.axis, -1))
        self._buffers = operations.Buffers(self._logits)
        self._buffers.rows = np.zeros(self._labels.shape, self._buffers.rows.dtype.type)  # a number a position

    def truth(self) -> Any:
        """Return the reference of the loss and its gradient, whose rows are the positions."""
        return reference.evaluate(self._last.reshape(-1, self._case.classes), self._labels.ravel())

    def build(self, candidate: TimedCall) -> tuple[Local, str | None]:
        """Return a sampler, and why its result is wrong, if so.

        A backend's operation is the case's, on the axis as it is; "moved": the axis moved to the end, copied, the
        call, the result copied back; "last axis": the same numbers with the classes last, and nothing else.
        """
        options: dict[str, Any] = {"backend": candidate.who, "threads": self._threads}
        what, operation = candidate.what, self._case.operation
        if what == "last axis":
            buffers = operations.Buffers(self._last)
            run = operations.call(sce, operation, self._last, self._labels, buffers, **options)
            result, axis = run(), -1
        elif what == "moved":
            run = self._by_hand(options)
            result, axis = run(), self._case.axis
        else:
            options["axis"] = axis = self._case.axis
            run = operations.call(sce, operation, self._logits, self._labels, self._buffers, **options)
            result = run()
        return Local(run, clock=self._clock), self._complaint(result, axis)

    def _by_hand(self, options: dict[str, Any]) -> Callable[[], Any]:
        """Return the call that moves the axis, as you would write it without an `axis` option."""
        case, logits, labels = self._case, self._logits, self._labels
        row = operations.TABLE[case.operation]
        function = getattr(sce, row.function)
        target = self._buffers.array

        def back(array: Any) -> Any:
            target[...] = np.moveaxis(array, -1, case.axis)
            return target

        def run() -> Any:
            moved = np.ascontiguousarray(np.moveaxis(logits, case.axis, -1))
            result = function(moved, labels, **options) if row.takes_targets else function(moved, **options)
            if not row.writes_array:
                return result
            return (result[0], back(result[1])) if isinstance(result, tuple) else back(result)

        return run

    def _complaint(self, result: Any, axis: int) -> str | None:
        case = self._case
        found = operations.TABLE[case.operation].results(result)
        if case.operation in operations.NORMALIZERS:
            by_row = {
                part: self._as_rows(each, axis) if each.ndim == self._logits.ndim else each.reshape(-1)
                for part, each in found.items()
            }
            last = self._last.reshape(-1, case.classes)
            return other_complaint(last, self._labels.ravel(), case.operation, by_row)
        truth = self.truth()
        grad = found.get(operations.GRAD)
        rows = None if grad is None else self._as_rows(grad, axis)[truth.rows]
        return truth.complaint(found.get(operations.LOSS), rows)

    def _as_rows(self, array: Any, axis: int) -> Any:
        return np.moveaxis(array, axis, -1).reshape(-1, self._case.classes)
