"""Run a backend's kernel on a checked problem: allocate outputs, stage arrays, and share the rows among threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce import threads as pool
from softmax_ce.checks import same_memory
from softmax_ce.contract import Backend, StridedKernels, Team, TeamKernels
from softmax_ce.fold import Factors
from softmax_ce.problem import Problem
from softmax_ce.staging import Rows

_STAGED = 1 << 16  # elements copied to the scratch at a time: logits, targets and gradient stay in L2


@dataclass(slots=True)
class Outputs:
    """The arrays that a call computes into; None for a result that is not wanted.

    Attributes
    ----------
    loss, row_max, log_sum : ndarray or None
        (N,), in the compute dtype.
    grad : ndarray or None
        The gradient, in the logits' shape: the caller's buffer, or a new array.
    """

    loss: Any
    grad: Any
    row_max: Any
    log_sum: Any

    @classmethod
    def allocate(
        cls, problem: Problem, want_loss: bool, want_grad: bool, want_lse: bool, loss_buffer: Any, grad_buffer: Any
    ) -> Outputs:
        """Return new arrays, or the caller's if the kernel can write them in place."""
        n_rows, dtype = problem.n_rows, problem.compute
        loss = row_max = log_sum = None
        if want_loss:
            usable = loss_buffer is not None and loss_buffer.flags.c_contiguous and loss_buffer.flags.aligned
            loss = np.asarray(loss_buffer).ravel() if usable else np.empty(n_rows, dtype)
        if want_lse:
            row_max, log_sum = np.empty(n_rows, dtype), np.empty(n_rows, dtype)
        if want_grad and grad_buffer is None:
            grad_buffer = np.empty(problem.source.shape, problem.result)
        return cls(loss, grad_buffer, row_max, log_sum)

    def finish_loss(self, shape: tuple[int, ...], buffer: Any) -> Any:
        """Return the row losses in this shape, in the caller's buffer if there is one."""
        loss = self.loss.reshape(shape)
        if buffer is None:
            return loss[()]
        if not same_memory(loss, buffer):
            buffer[...] = loss
        return buffer

    def finish_lse(self, shape: tuple[int, ...], buffer: Any) -> Any:
        """Return row_max + log_sum in this shape, in the caller's buffer if there is one."""
        with np.errstate(all="ignore"):
            lse = (self.row_max + self.log_sum).reshape(shape)
        if buffer is None:
            return lse[()]
        buffer[...] = lse
        return buffer


def run_kernel(
    backend: Backend, problem: Problem, factors: Factors, ignore_index: int, outputs: Outputs, threads: int | None
) -> None:
    """Compute every row. The rows are shared among threads; arrays that the kernel cannot read are staged in blocks."""
    n_rows, n_classes = problem.n_rows, problem.n_classes
    if n_rows == 0:
        return
    axis, dtype = problem.axis, problem.compute
    logits = problem.logits
    grad = None if outputs.grad is None else Rows(outputs.grad, axis, dtype)
    targets = None
    if problem.targets is not None:
        # If the gradient overwrites the targets, each block of them is read before it is overwritten.
        in_place = outputs.grad is not None and same_memory(outputs.grad, problem.targets)
        targets = Rows(problem.targets, axis, dtype, copy=in_place)

    def call(kernels: Backend | StridedKernels | TeamKernels, x: Any, t: Any, g: Any, rows: slice, *last: int) -> Any:
        """Call a kernel on arrays whose rows are `rows` of the problem."""
        row_weight, upstream = _rows(factors.row_weight, rows), _rows(factors.upstream, rows)
        loss, row_max = _rows(outputs.loss, rows), _rows(outputs.row_max, rows)
        log_sum = _rows(outputs.log_sum, rows)
        if problem.labels is not None:
            return kernels.hard(
                x, _rows(problem.labels, rows), ignore_index, factors.class_scale, factors.base_mass,
                factors.base_total, factors.z_loss, row_weight, upstream, loss, g, row_max, log_sum, *last,
            )  # fmt: skip
        return kernels.soft(
            x, t, factors.class_scale, factors.base_mass, factors.z_loss, row_weight, upstream,
            loss, g, row_max, log_sum, *last,
        )  # fmt: skip

    def direct(start: int, stop: int) -> None:
        assert kernels is not None
        call(kernels, *as_they_lie, _ALL, start, stop)

    def team(threads: int, longest: int) -> Team:
        assert kernels is not None
        return call(kernels.team, *as_they_lie, _ALL, threads, longest)  # type: ignore[arg-type]

    def staged(start: int, stop: int) -> None:
        arrays = logits, targets, grad
        # One array that must be staged decides how all are cut. Each array reuses one scratch for all blocks.
        by = next(array for array in arrays if array is not None and array.direct is None)
        blocks = list(by.blocks(start, stop, _STAGED))
        most = max(last - first for first, last in blocks)
        scratches = [None if array is None else array.scratch(most) for array in arrays]
        for first, last in blocks:
            x = logits.load(first, last, backend.widen, scratches[0])
            t = None if targets is None else targets.load(first, last, backend.widen, scratches[1])
            g = None if grad is None else grad.block(first, last, scratches[2])
            call(backend, x, t, g, slice(first, last), 0, last - first)
            if grad is not None:
                grad.store(first, last, g, backend.narrow)

    # The kernels that take the arrays in place, if there are any, and the views that they take.
    arrays = [array for array in (logits, targets, grad) if array is not None]
    kernels: Backend | StridedKernels | None = None
    as_they_lie: tuple[Any, Any, Any] = (None, None, None)
    if all(array.direct is not None for array in arrays):
        kernels, as_they_lie = backend, (logits.direct, targets and targets.direct, grad and grad.direct)
    elif backend.strided is not None and all(array.strided is not None for array in arrays):
        kernels, as_they_lie = backend.strided, (logits.strided, targets and targets.strided, grad and grad.strided)
    pool.run(
        staged if kernels is None else direct, n_rows, n_classes, threads, backend.info.serial_elements,
        team if kernels is not None and kernels.team is not None else None,
    )  # fmt: skip


_ALL = slice(None)


def _rows(vector: Any, rows: slice) -> Any:
    """Return a range of a row vector. None, and a single entry for all rows, are returned as they are."""
    if vector is None or rows is _ALL or len(vector) == 1:
        return vector
    return vector[rows]
