"""Evaluate a KL divergence: check, fold, run and reduce, as :mod:`softmax_ce.evaluation` does for the losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softmax_ce import checks, evaluation
from softmax_ce import threads as pool
from softmax_ce.choice import auto
from softmax_ce.contract import Backend
from softmax_ce.divergence import Blocks
from softmax_ce.fold import Factors
from softmax_ce.keywords import with_defaults
from softmax_ce.problem import Problem
from softmax_ce.reduction import numpy_total
from softmax_ce.run import Outputs, rows_of
from softmax_ce.staging import Rows
from softmax_ce.tuning import STAGED_ELEMENTS

_FLOAT64 = np.dtype(np.float64)
_WORK = 4  # how many times as long as in a softmax an element takes


def evaluate(
    logits: Any, target_logits: Any, temperature: Any, sample_weight: Any, reduction: Any, axis: Any,
    backend: str | None, threads: Any, out: Any, want_grad: bool, grad_output: Any, grad_out: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Check, fold, run and reduce. Nothing is written until every argument has been checked."""
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    temperature = checks.check_number("temperature", temperature, 0.0, math.inf, above=True)
    threads = checks.check_threads(threads)
    problem = checks.check_logits(logits, axis)
    others = _check_others(problem, target_logits, axis)
    _check_buffers(problem, reduction, out, grad_out, sample_weight, grad_output)
    options = evaluation.check_weights(
        problem,
        with_defaults({"sample_weight": sample_weight, "reduction": reduction, "grad_output": grad_output, "out": out}),
    )
    # The kernels run in float64, whatever the logits are.
    chosen = auto.choose(backend, True, want_grad, _FLOAT64, problem.n_rows, problem.n_classes, threads)
    if _FLOAT64.name not in chosen.info.dtypes:
        raise ValueError(
            f"the KL divergence is computed in float64, but backend {chosen.name!r} computes "
            f"{', '.join(chosen.info.dtypes)} only"
        )
    total = chosen.total or numpy_total
    factors = evaluation.fold_options(problem, options, total)
    outputs = Outputs.allocate(problem, True, want_grad, False, out if reduction == "none" else None, grad_out)
    _run(chosen, problem, others, factors, temperature, outputs, threads)
    return evaluation.reduce_rows(problem, factors, outputs, options, total), outputs.grad


def _check_others(problem: Problem, target_logits: Any, axis: Any) -> Any:
    """Return the target logits, which must have the logits' shape, as rows, and add them to the problem."""
    others = checks.check_logits(target_logits, axis, "target_logits")
    if others.source.shape != problem.source.shape:
        raise ValueError(f"target_logits must have the logits' shape {problem.source.shape}, got {others.source.shape}")
    problem.targets = others.source
    return others.logits  # nothing has transformed them


def _check_buffers(
    problem: Problem, reduction: str, out: Any, grad_out: Any, sample_weight: Any, grad_output: Any
) -> None:
    """Check the caller's buffers: their shapes and dtypes, and what they overlap."""
    inputs = {
        "logits": problem.source,
        "target_logits": problem.targets,
        "sample_weight": sample_weight,
        "grad_output": grad_output,
    }
    if out is not None:
        shape = problem.row_shape if reduction == "none" else ()
        checks.check_buffer("out", out, shape, (problem.compute,), inputs.items())
    if grad_out is not None:
        dtypes = (problem.result,) if problem.result == problem.compute else (problem.result, problem.compute)
        checks.check_buffer("grad_out", grad_out, problem.source.shape, dtypes, inputs.items())
    checks.check_apart({"out": out, "grad_out": grad_out})


def _run(
    chosen: Backend, problem: Problem, others: Any, factors: Factors, temperature: float, outputs: Outputs,
    threads: int | None,
) -> None:  # fmt: skip
    """Compute every row, in ranges that are shared among threads."""
    if problem.n_rows == 0:
        return
    grad = None if outputs.grad is None else Rows(outputs.grad, problem.axis, problem.compute)
    run = _Run(chosen, problem, (problem.logits, others, grad), factors, temperature, outputs.loss)
    serial_elements = (pool.SERIAL_ELEMENTS if chosen.kl is None else chosen.info.serial_elements) // _WORK
    pool.run(run.range, problem.n_rows, problem.n_classes, threads, serial_elements)


class _Run:
    """The computation of one call, and the ways to compute a range of rows."""

    def __init__(
        self, chosen: Backend, problem: Problem, arrays: tuple[Any, Any, Any], factors: Factors, temperature: float,
        loss: Any,
    ) -> None:  # fmt: skip
        self._backend, self._kernel = chosen, chosen.kl
        self._arrays, self._factors, self._temperature, self._loss = arrays, factors, temperature, loss
        self._n_classes, self._is_narrow = problem.n_classes, problem.compute != _FLOAT64
        given = [rows for rows in arrays if rows is not None]
        # One array that must be staged decides how all are cut.
        self._by = next((rows for rows in given if rows.direct is None), given[0])
        self._whole: Any = None
        self.range = self._staged
        if self._kernel is not None:
            x, z = arrays[0].direct, arrays[1].direct
            if self._by.direct is not None and x.dtype == z.dtype:
                self._whole = x, z, None if arrays[2] is None else arrays[2].direct
                self.range = self._direct

    def _direct(self, start: int, stop: int) -> None:
        x, z, grad = self._whole
        self._call(x, z, grad, slice(None), start, stop)

    @np.errstate(all="ignore")  # exponentials underflow, and rows may be NaN
    def _staged(self, start: int, stop: int) -> None:
        """Compute rows in blocks. Each array that must be staged reuses one scratch for all blocks."""
        logits, others, grad = self._arrays
        widen, narrow = self._backend.widen, self._backend.narrow
        cuts = list(self._by.blocks(start, stop, STAGED_ELEMENTS))
        most = max(last - first for first, last in cuts)
        scratches = [None if rows is None else rows.scratch(most) for rows in self._arrays]
        compute = self._with_kernel if self._kernel is not None else self._composed(most, grad is not None)
        for first, last in cuts:
            x = logits.load(first, last, widen, scratches[0])
            z = others.load(first, last, widen, scratches[1])
            block = None if grad is None else grad.block(first, last, scratches[2])
            compute(x, z, slice(first, last), block)
            if grad is not None:
                grad.store(first, last, block, narrow)

    def _with_kernel(self, x: Any, z: Any, rows: slice, grad: Any) -> None:
        if x.dtype != z.dtype:
            x, z = x.astype(np.float64, copy=False), z.astype(np.float64, copy=False)
        self._call(x, z, grad, rows, 0, len(x))

    def _call(self, x: Any, z: Any, grad: Any, rows: slice, start: int, stop: int) -> None:
        """Call the kernel on arrays whose rows are `rows` of the problem."""
        kernel: Any = self._kernel
        weight, upstream = rows_of(self._factors.row_weight, rows), rows_of(self._factors.upstream, rows)
        kernel(x, z, self._temperature, weight, upstream, self._loss[rows], grad, start, stop)

    def _composed(self, most: int, want_grad: bool) -> Callable[..., None]:
        """Return what computes a block of up to `most` rows with NumPy and the backend's softmax."""
        size = most * self._n_classes
        blocks = Blocks(self._backend, self._temperature, self._is_narrow, want_grad, size)

        def compute(x: Any, z: Any, rows: slice, grad: Any) -> None:
            kl, difference = blocks.evaluate(x, z)
            weight = rows_of(self._factors.row_weight, rows)
            self._loss[rows] = np.where(weight != 0, weight * kl, 0.0)
            if grad is not None:
                _write_grad(difference, weight, rows_of(self._factors.upstream, rows), self._temperature, grad)

        return compute


def _write_grad(difference: Any, weight: Any, upstream: Any, temperature: float, block: Any) -> None:
    """Write the gradient: p - t times the factors of the rows. `difference` is overwritten."""
    gain = weight * upstream
    if gain.size > 1 or gain[0] != 1.0:
        difference *= gain[:, None]
    if temperature != 1.0:
        difference /= temperature
    block[...] = difference
    if not weight.all():
        block[np.broadcast_to(weight == 0, len(block))] = 0.0
