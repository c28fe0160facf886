"""softmax, log_softmax and logsumexp, from the kernels of the loss. Small calls take a backend's short path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from softmax_ce import checks, registry
from softmax_ce.choice import auto
from softmax_ce.contract import Backend, StridedKernels, Team
from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_ROW, Factors
from softmax_ce.options import Array, Scalar
from softmax_ce.problem import Problem
from softmax_ce.run import Outputs, run_kernel
from softmax_ce.staging import Rows
from softmax_ce.threads import run, serial_below
from softmax_ce.transform import apply
from softmax_ce.tuning import STAGED_ELEMENTS as _STAGED


def softmax(
    x: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Compute the softmax, exp(x) / sum(exp(x)), over one axis.

    Parameters
    ----------
    x : array_like
        At least 1-D. Integers are computed in float64.
    axis : int, default -1
        The class axis.
    where : array_like of bool, optional
        The entries that take part, in the shape (C,) or that of `x`. All others count as -inf, whatever they are.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer in the shape and dtype of the result. It may be `x` itself.

    Returns
    -------
    ndarray
        The softmax, in the shape and dtype of `x`, or float64 for integers. A row with a NaN or +inf, or in which
        every entry is -inf, is NaN.

    Raises
    ------
    ValueError, TypeError
        A shape, dtype or buffer that does not fit.
    """
    chosen = auto.fixed if backend is None else registry.loaded(backend)
    if chosen is None:
        chosen = auto.at_once(backend, False, True, x, axis, threads)
    if where is None and chosen is not None and chosen.short is not None:
        result = chosen.short.softmax(x, axis, threads, out, serial_below(chosen.info.serial_elements))
        if result is not None:
            return result
    problem, threads = _check(x, axis, where, threads)
    if out is not None:
        checks.check_buffer(
            "out", out, problem.source.shape, (problem.result,), (("x", problem.source), ("where", where))
        )
    outputs = Outputs.allocate(problem, False, True, False, None, out)
    _run(_choose(problem, True, backend, threads), problem, outputs, threads)
    return outputs.grad


def logsumexp(
    x: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
) -> Array | Scalar:
    """Compute log(sum(exp(x))) over one axis, without overflow.

    Parameters
    ----------
    x : array_like
        At least 1-D. Integers are computed in float64.
    axis : int, default -1
        The class axis.
    where : array_like of bool, optional
        The entries that take part, in the shape (C,) or that of `x`. All others count as -inf, whatever they are.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer in the shape of `x` without the class axis, in the dtype of the result.

    Returns
    -------
    ndarray or scalar
        The log-sum-exp, in the dtype of `x`, or float32 for 16-bit floats and float64 for integers. It is -inf for a
        row of -inf, as in ``scipy.special.logsumexp``.

    Raises
    ------
    ValueError, TypeError
        A shape, dtype or buffer that does not fit.
    """
    chosen = auto.fixed if backend is None else registry.loaded(backend)
    if chosen is None:
        chosen = auto.at_once(backend, False, False, x, axis, threads)
    if where is None and chosen is not None and chosen.short is not None:
        result = chosen.short.logsumexp(x, axis, threads, out, serial_below(chosen.info.serial_elements))
        if result is not None:
            return result
    problem, threads = _check(x, axis, where, threads)
    if out is not None:
        checks.check_buffer(
            "out", out, problem.row_shape, (problem.compute,), (("x", problem.source), ("where", where))
        )
    outputs = Outputs.allocate(problem, False, False, True, None, None)
    _run(_choose(problem, False, backend, threads), problem, outputs, threads)
    return outputs.finish_lse(problem.row_shape, out)


def log_softmax(
    x: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Compute log(softmax(x)) over one axis, accurately even where softmax underflows.

    Parameters
    ----------
    x : array_like
        At least 1-D. Integers are computed in float64.
    axis : int, default -1
        The class axis.
    where : array_like of bool, optional
        The entries that take part, in the shape (C,) or that of `x`. All others count as -inf, whatever they are.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer in the shape and dtype of the result. It may be `x` itself.

    Returns
    -------
    ndarray
        (x - max) - log(sum(exp(x - max))), in the shape and dtype of `x`, or float64 for integers.

    Raises
    ------
    ValueError, TypeError
        A shape, dtype or buffer that does not fit.
    """
    chosen = auto.fixed if backend is None else registry.loaded(backend)
    if chosen is None:
        chosen = auto.at_once(backend, False, False, x, axis, threads)
    if where is None and chosen is not None and chosen.short is not None:
        result = chosen.short.log_softmax(x, axis, threads, out, serial_below(chosen.info.serial_elements))
        if result is not None:
            return result
    problem, threads = _check(x, axis, where, threads)
    if out is not None:
        checks.check_buffer(
            "out", out, problem.source.shape, (problem.result,), (("x", problem.source), ("where", where))
        )
    chosen = _choose(problem, False, backend, threads)
    result = np.empty(problem.source.shape, problem.result) if out is None else out
    rows = Rows(result, problem.axis, problem.compute)
    if chosen.log_softmax is not None:
        _log_rows(chosen, problem, rows, threads)
    else:
        _compose_log_rows(chosen, problem, rows, threads)
    return result


def _log_rows(chosen: Backend, problem: Problem, rows: Rows, threads: int | None) -> None:
    """Run the backend's own kernel, on the arrays in place or, where it cannot read them, on staged blocks."""
    if problem.n_rows == 0:
        return
    logits = problem.logits
    kernels: Backend | StridedKernels = chosen
    arrays: tuple[Any, Any] | None = None
    if logits.direct is not None and rows.direct is not None:
        arrays = logits.direct, rows.direct
    elif chosen.strided is not None and chosen.strided.log_softmax is not None:
        kernels = chosen.strided
        if logits.strided is not None and rows.strided is not None:
            arrays = logits.strided, rows.strided
    team_kernels = None if kernels.team is None else kernels.team.log_softmax

    def direct(start: int, stop: int) -> None:
        assert arrays is not None
        assert kernels.log_softmax is not None
        kernels.log_softmax(*arrays, start, stop)

    def team(threads: int, longest: int) -> Team:
        assert arrays is not None
        assert team_kernels is not None
        return team_kernels(*arrays, threads, longest)

    def staged(start: int, stop: int) -> None:
        assert chosen.log_softmax is not None
        by = logits if rows.direct is not None else rows
        for first, last in by.blocks(start, stop, _STAGED):
            block = rows.block(first, last)
            chosen.log_softmax(logits.load(first, last, chosen.widen), block, 0, last - first)
            rows.store(first, last, block, chosen.narrow)

    run(
        staged if arrays is None else direct, problem.n_rows, problem.n_classes, threads, chosen.info.serial_elements,
        team if arrays is not None and team_kernels is not None else None,
    )  # fmt: skip


def _compose_log_rows(chosen: Backend, problem: Problem, rows: Rows, threads: int | None) -> None:
    """Compute log-probabilities from the row maxima and the logs of the sums."""
    outputs = Outputs.allocate(problem, False, False, True, None, None)
    _run(chosen, problem, outputs, threads)
    row_max, log_sum = outputs.row_max[:, None], outputs.log_sum[:, None]
    log_sum[~np.isfinite(row_max + log_sum)] = np.nan  # a row without a distribution is NaN, as in softmax

    def subtract(start: int, stop: int) -> None:
        for first, last in rows.blocks(start, stop, _STAGED):
            block = rows.block(first, last)
            with np.errstate(all="ignore"):
                np.subtract(problem.logits.load(first, last), row_max[first:last], out=block)
                np.subtract(block, log_sum[first:last], out=block)
            rows.store(first, last, block)

    run(subtract, problem.n_rows, problem.n_classes, threads)


def _check(x: Any, axis: int, where: Any, threads: Any) -> tuple[Problem, int | None]:
    problem, threads = checks.check_logits(x, axis, "x"), checks.check_threads(threads)
    if where is not None:
        apply(problem, where=where, name="x")
    return problem, threads


def _choose(problem: Problem, want_grad: bool, backend: str | None, threads: int | None) -> Backend:
    chosen = auto.choose(backend, False, want_grad, problem.source.dtype, problem.n_rows, problem.n_classes, threads)
    auto.check_dtype(chosen, problem.compute)
    return chosen


def _run(chosen: Backend, problem: Problem, outputs: Outputs, threads: int | None) -> None:
    """Run the hard-label kernel without mass at any label, so that the gradient is 1 * p - 0."""
    problem.labels = NO_LABEL
    factors = Factors(
        NO_MASS[problem.compute], None, 1.0, 0.0, ONE_ROW, ONE_ROW,
        denominator=1.0, empty=False,
    )  # fmt: skip
    run_kernel(chosen, problem, factors, -1, outputs, threads)
