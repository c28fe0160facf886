"""Run a backend's kernel on a checked problem: allocate outputs, stage arrays, and share the rows among threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmax_ce import correct, hessian
from softmax_ce import threads as pool
from softmax_ce.checks import same_memory
from softmax_ce.contract import Backend, HessianKernels, StridedKernels, Team
from softmax_ce.fold import ONE_CLASS, Factors
from softmax_ce.problem import Problem, counted
from softmax_ce.staging import Rows
from softmax_ce.transform import target_rows
from softmax_ce.tuning import STAGED_ELEMENTS as _STAGED


@dataclass(slots=True)
class Outputs:
    """The arrays that a call computes into; None for a result that is not wanted.

    Attributes
    ----------
    loss, row_max, log_sum : ndarray or None
        (N,), in the compute dtype.
    grad, hess : ndarray or None
        The gradient and the diagonal of the Hessian, in the logits' shape: the caller's buffer, or a new array.
    correct : ndarray of bool or None
        (N,): whether the label is the first maximum.
    """

    loss: Any
    grad: Any
    row_max: Any
    log_sum: Any
    hess: Any = None
    correct: Any = None

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

    def add(self, problem: Problem, want_hess: bool, hess_buffer: Any, want_correct: bool) -> None:
        """Add new arrays, or the caller's, for the results that few calls want."""
        if want_hess:
            self.hess = np.empty(problem.source.shape, problem.result) if hess_buffer is None else hess_buffer
        if want_correct:
            self.correct = np.empty(problem.n_rows, np.bool_)
            if self.row_max is None:
                self.row_max, self.log_sum = np.empty((2, problem.n_rows), problem.compute)
        if self.loss is None and self.grad is not None and problem.transform is not None:
            self.loss = np.empty(problem.n_rows, problem.compute)  # it tells which gradients must be set to 0

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
    if problem.n_rows > 0:
        _Run(backend, problem, factors, ignore_index, outputs).on(threads)


class _Run:
    """The computation of one call: its arrays as rows of classes, and the ways to compute a range of rows."""

    __slots__ = (
        "arrays", "as_they_lie", "backend", "factors", "ignore_index", "kernels", "marks", "outputs", "problem",
        "smoothed", "transforms",
    )  # fmt: skip

    def __init__(
        self, backend: Backend, problem: Problem, factors: Factors, ignore_index: int, outputs: Outputs
    ) -> None:
        self.backend, self.problem, self.outputs, self.ignore_index = backend, problem, outputs, ignore_index
        self.factors = factors
        self.smoothed: Factors | None = None  # what smooths the targets of each row, if rows differ and NumPy does it
        self.arrays = self._rows_of_arrays()
        self._choose_kernels()
        if factors.spread is not None and self.transforms is None:
            self.smoothed, row_weight = factors, factors.row_weight
            if problem.labels is not None:
                _, counts = counted(problem.labels, problem.n_classes, ignore_index)
                row_weight = np.where(counts, row_weight, 0.0)
            self.factors = replace(factors, class_scale=ONE_CLASS[problem.compute], row_weight=row_weight)

    def _rows_of_arrays(self) -> tuple[Any, Any, Any, Any]:
        """Return logits, targets, gradient and Hessian as rows; None for an array that there is not.

        Kernels may write the gradient over the logits, but nothing else over an input. If they would, or if the logits
        are needed afterwards, each block is copied first.
        """
        problem, outputs, axis, dtype = self.problem, self.outputs, self.problem.axis, self.problem.compute
        logits, targets = problem.logits, None
        copy = _same(outputs.hess, problem.source)
        if outputs.correct is not None:
            copy = copy or _same(outputs.grad, problem.source) or not self.backend.info.stable
        if copy and problem.transform is None:
            logits = Rows(problem.source, axis, dtype, copy=True)
            logits.strided = None  # or the strided kernels would take them where they are
        if problem.targets is not None:
            copy = _same(outputs.grad, problem.targets) or _same(outputs.hess, problem.targets)
            targets = Rows(problem.targets, axis, dtype, copy=copy)
        narrow = outputs.hess is not None  # as kernels for the Hessian can
        grad = None if outputs.grad is None else Rows(outputs.grad, axis, dtype, narrow=narrow)
        hess = None if outputs.hess is None else Rows(outputs.hess, axis, dtype, narrow=narrow)
        return logits, targets, grad, hess

    def _choose_kernels(self) -> None:
        """Find the kernels that take the arrays in place, if there are any, and the views that they take."""
        self.kernels: Backend | StridedKernels | HessianKernels | None = None
        self.as_they_lie: tuple[Any, ...] = ()
        self.marks = self.outputs.correct is not None  # whether labels are still to be compared after the kernel
        backend, problem, given = self.backend, self.problem, [array for array in self.arrays if array is not None]
        whole: Any = backend if self.outputs.hess is None else backend.hessian
        strided = None if whole is None else whole.strided
        if self.outputs.hess is not None and self.marks:
            strided = None  # the Hessian may overwrite the logits, which are needed afterwards
        if whole is not None and all(array.direct is not None for array in given):
            self.kernels, self.as_they_lie = whole, tuple(array and array.direct for array in self.arrays)
        elif strided is not None and all(array.strided is not None for array in given):
            self.kernels, self.as_they_lie = strided, tuple(array and array.strided for array in self.arrays)
        self.transforms: Any = None  # what transforms logits in the kernel; else NumPy does
        if backend.transformed is None or self.outputs.hess is not None:
            return
        self.transforms = backend.transformed
        # Labels are compared in the kernel, unless several threads may share a row.
        if problem.transform is not None or (
            self.outputs.correct is not None and (problem.n_rows > _FEW_ROWS or self.kernels is None)
        ):
            self._choose_transformed()

    def _choose_transformed(self) -> None:
        """Use the kernels that transform the logits and compare the labels, if they can take all arrays."""
        transform, (_, targets, grad, _) = self.problem.transform, self.arrays
        rows: Any = self.problem.logits if transform is None else transform.rows
        views = rows.strided, targets and targets.strided, grad and grad.strided, None
        if any(array is not None and view is None for array, view in zip(self.arrays, views, strict=True)):
            return
        change = (1.0, 0.0, None) if transform is None else transform.for_kernels()
        if change is not None:
            self.kernels, self.as_they_lie = self.transforms(*change, self.outputs.correct, self.factors.spread), views
            self.marks = False

    def on(self, threads: int | None) -> None:
        """Compute every row on up to so many threads."""
        size = self.problem.n_rows, self.problem.n_classes, threads, self.backend.info.serial_elements
        if self.kernels is None:
            pool.run(self._staged, *size)
            return
        has_team = not isinstance(self.kernels, HessianKernels) and self.kernels.team is not None
        pool.run(self._direct, *size, self._team if has_team else None)
        if self.marks:
            # One entry of each row is read, and the whole row if that does not decide.
            pool.run(lambda start, stop: self._mark(self.as_they_lie[0], start, start, stop), size[0], 1, threads)

    def _direct(self, start: int, stop: int) -> None:
        self._call(self.kernels, self.as_they_lie, _ALL, start, stop)

    def _team(self, threads: int, longest: int) -> Team:
        kernels: Any = self.kernels
        return self._call(kernels.team, self.as_they_lie, _ALL, threads, longest)

    def _staged(self, start: int, stop: int) -> None:
        """Compute rows in blocks. Each array that must be staged reuses one scratch for all blocks."""
        logits, targets, grad, hess = self.arrays
        widen, narrow, transform = self.backend.widen, self.backend.narrow, self.problem.transform
        # One array that must be staged decides how all are cut.
        by = next((array for array in self.arrays if array is not None and array.direct is None), logits)
        blocks = list(by.blocks(start, stop, _STAGED))
        most = max(last - first for first, last in blocks)
        scratches = [None if array is None else array.scratch(most) for array in self.arrays]
        room = None
        if (transform is not None and transform.softcap is not None and grad is not None) or hess is not None:
            room = np.empty((most, self.problem.n_classes), self.problem.compute)
        for first, last in blocks:
            spare = None if room is None else room[: last - first]
            if transform is None:
                x = logits.load(first, last, widen, scratches[0])
            elif self.transforms is not None:
                x = transform.rows.load(first, last, widen, scratches[0])
            else:
                x = transform.load(first, last, widen, scratches[0], spare)
            t = None if targets is None else targets.load(first, last, widen, scratches[1])
            g = None if grad is None else grad.block(first, last, scratches[2])
            h = None if hess is None else hess.block(first, last, scratches[3])
            self._block(x, t, g, h, spare, first, last)
            if grad is not None:
                grad.store(first, last, g, narrow)
            if hess is not None:
                hess.store(first, last, h, narrow)

    def _block(self, x: Any, t: Any, g: Any, h: Any, spare: Any, first: int, last: int) -> None:
        """Compute a block of rows. `spare` is the slope of the cap, or else a scratch."""
        backend, transform, rows, n_rows = self.backend, self.problem.transform, slice(first, last), last - first
        if transform is not None and self.transforms is not None:
            marked = None if self.outputs.correct is None else self.outputs.correct[rows]
            kernels = self.transforms(*transform.for_block(first, last), marked, self.factors.spread)
            self._call(kernels, (x, t, g, None), rows, 0, n_rows)
            return
        if self.smoothed is not None:
            mask = transform.masks.load(first, last)
            t = target_rows(self.smoothed, mask, t, rows_of(self.problem.labels, rows))
        if h is not None and backend.hessian is not None:
            self._call(backend.hessian, (x, t, g, h), rows, 0, n_rows)
            if transform is not None and transform.scale != 1.0:
                with np.errstate(all="ignore"):
                    h *= h.dtype.type(transform.scale)
        else:
            if h is not None:
                self._compose_hessian(x, t, h, spare, rows)
            self._call(backend, (x, t, g, None), rows, 0, n_rows)
        if transform is not None and g is not None:
            transform.finish(first, last, self.outputs.loss, g, spare)
        if self.outputs.correct is not None:
            self._mark(x, 0, first, last)

    def _call(self, kernels: Any, arrays: tuple[Any, ...], rows: slice, *last: int) -> Any:
        """Call a kernel on arrays whose rows are `rows` of the problem."""
        factors, outputs, (x, t, g, h) = self.factors, self.outputs, arrays
        row_weight, upstream = rows_of(factors.row_weight, rows), rows_of(factors.upstream, rows)
        derivatives = (g,) if h is None else (g, h)
        results = (
            rows_of(outputs.loss, rows),
            *derivatives,
            rows_of(outputs.row_max, rows),
            rows_of(outputs.log_sum, rows),
        )
        if t is None:
            return kernels.hard(
                x, rows_of(self.problem.labels, rows), self.ignore_index, factors.class_scale, factors.base_mass,
                factors.base_total, factors.z_loss, row_weight, upstream, *results, *last,
            )  # fmt: skip
        return kernels.soft(
            x, t, factors.class_scale, factors.base_mass, factors.z_loss, row_weight, upstream, *results, *last
        )

    def _compose_hessian(self, x: Any, t: Any, h: Any, spare: Any, rows: slice) -> None:
        factors, transform = self.factors, self.problem.transform
        row_weight, upstream = rows_of(factors.row_weight, rows), rows_of(factors.upstream, rows)
        with np.errstate(all="ignore"):  # the upstream gradient may be infinite
            gain = row_weight * upstream * (1.0 if transform is None else transform.scale)
        counts = np.broadcast_to(row_weight != 0, len(x))
        total: Any
        if t is None:
            y, is_label = counted(rows_of(self.problem.labels, rows), x.shape[1], self.ignore_index)
            mass = factors.class_scale if factors.class_scale.size == 1 else factors.class_scale[y]
            total, counts = mass.astype(np.float64) + factors.base_total, counts & is_label
        else:
            total = hessian.row_totals(t, factors.class_scale, factors.base_total, spare)
        hessian.compose(self.backend, x, total, factors.z_loss, gain, counts, h, spare)

    def _mark(self, x: Any, start: int, first: int, last: int) -> None:
        """Compare the labels of rows [first, last) with the maxima. In `x`, they begin with row `start`."""
        outputs, rows = self.outputs, slice(first, last)
        row_max, log_sum = outputs.row_max[rows], outputs.log_sum[rows]
        if not self.backend.info.stable:  # its row_max is no maximum, and x is a block
            row_max, log_sum = x.max(axis=1), np.full(len(x), np.inf)
        correct.mark(x, start, self.problem.labels[rows], self.ignore_index, row_max, log_sum, outputs.correct[rows])


_ALL = slice(None)
_FEW_ROWS = 16


def rows_of(vector: Any, rows: slice) -> Any:
    """Return a range of a row vector. None, and a single entry for all rows, are returned as they are."""
    if vector is None or rows is _ALL or len(vector) == 1:
        return vector
    return vector[rows]


def _same(output: Any, array: Any) -> bool:
    """Return whether an output, if there is one, is the memory of an input."""
    return output is not None and same_memory(output, array)
