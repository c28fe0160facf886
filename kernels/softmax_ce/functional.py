"""Softmax cross-entropy: three entry points over one call path (check, fold, run, reduce), and a short one beside it.

The full path says what every argument means and what is wrong with it. Small calls with ordinary arguments take the
short path, which gives the same bits: a backend's own (contract.ShortCalls), or in Python that of softmax_ce.plain.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np

from softmax_ce import checks, plain
from softmax_ce import threads as pool
from softmax_ce.choice import auto
from softmax_ce.fold import Factors, fold
from softmax_ce.problem import Problem
from softmax_ce.reduction import Total, mean, numpy_total, rounded
from softmax_ce.run import Outputs, run_kernel

_OPTIONS = """
    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities, in nats. float32 and float64 are computed as they are, float16 and
        bfloat16 in float32, integers as float64. Classes lie on `axis`.
    targets : array_like
        Hard labels: integers, the logits' shape less the class axis. Or soft labels: real numbers, the
        logits' shape; they are computed in the logits' precision.
    weight : array_like, shape (C,), optional
        Class weights, finite, of either sign.
    sample_weight : array_like, optional
        One weight a row, in the shape of the "none" loss; finite, of either sign. A weight multiplies its row's
        loss, so -inf is the loss of a label at a logit of -inf under a negative one.
    ignore_index : int, default -100
        Rows with this label count for nothing, whether or not it lies in [0, C).
    label_smoothing : float, default 0.0
        In [0, 1]: the target becomes (1 - label_smoothing) * onehot + label_smoothing / C.
    z_loss : float, default 0.0
        Adds z_loss * logsumexp**2 to each counted row.
    reduction : {{"mean", "sum", "none"}}, default "mean"
        The mean over hard labels divides by the sum of sample_weight * weight[label] over the counted rows,
        that over soft labels by the sum of sample_weight (as PyTorch does). The z-loss is divided by the sum of
        sample_weight. Weights of either sign may cancel: a sum of exactly 0 is no denominator, and no row counts.
    denominator : float, optional
        Divides the sum in place of the mean's own denominator, for gradient accumulation.
    on_empty : {{"nan", "zero", "raise"}}, default "nan"
        What "mean" gives when no row counts: all are ignored, or their weights come to 0.
    axis : int, default -1
        The class axis.{grad_output}
    return_lse : bool, default False
        Also return each row's log-sum-exp, last.
    backend : str, optional
        A name from :func:`softmax_ce.backends`; None chooses automatically.
    threads : int, optional
        At most so many; None: the CPUs this process may use. Small work stays on one thread, whatever the number,
        and 1 never enters a thread pool. The bits do not depend on it.{buffers}
    lse_out : ndarray, optional
        Buffer for the log-sum-exp, in the shape of the "none" loss. Asks for it like `return_lse`.
"""
_GRAD_OUTPUT = """
    grad_output : float or array_like, optional
        Upstream gradient: a scalar, or one number a row with reduction "none"."""
_OUT = """
    out : ndarray, optional
        Buffer for the loss; a 0-d array for a scalar loss."""
_GRAD_OUT = """
    grad_out : ndarray, optional
        Buffer for the gradient, in the logits' shape and dtype (float32 is valid for 16-bit logits).
        ``grad_out=logits`` asks for the gradient in place."""
_RAISES = """
    Raises
    ------
    ValueError
        Shapes that do not match, an option's value that is not allowed, an unfit buffer.
    TypeError
        A dtype that is not supported.
    IndexError
        A label outside [0, C) that is not ignored. No output has been touched.
    BackendUnavailableError
        The backend that was named cannot run here.
"""


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    on_empty: str = "nan",
    axis: int = -1,
    return_lse: bool = False,
    backend: str | None = None,
    threads: int | None = None,
    out: Any = None,
    lse_out: Any = None,
) -> Any:
    """Softmax cross-entropy loss.
    {options}

    Returns
    -------
    loss, or (loss, lse)
        In the logits' dtype, float32 for 16-bit logits: a NumPy scalar, or an array with reduction "none".

    {raises}
    """
    return _evaluate(
        logits, targets, True, False, weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction,
        denominator, on_empty, axis, None, return_lse, backend, threads, out, None, lse_out,
    )  # fmt: skip


def cross_entropy_with_grad(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    on_empty: str = "nan",
    axis: int = -1,
    grad_output: Any = None,
    return_lse: bool = False,
    backend: str | None = None,
    threads: int | None = None,
    out: Any = None,
    grad_out: Any = None,
    lse_out: Any = None,
) -> Any:
    """Loss and its gradient with respect to the logits, fused: the logits are read once.
    {options}

    Returns
    -------
    (loss, grad), or (loss, grad, lse)
        The gradient has the logits' shape and dtype (float64 for integer logits); the loss and the
        log-sum-exp as from :func:`cross_entropy`.

    {raises}
    """
    return _evaluate(
        logits, targets, True, True, weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction,
        denominator, on_empty, axis, grad_output, return_lse, backend, threads, out, grad_out, lse_out,
    )  # fmt: skip


def cross_entropy_grad(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    on_empty: str = "nan",
    axis: int = -1,
    grad_output: Any = None,
    return_lse: bool = False,
    backend: str | None = None,
    threads: int | None = None,
    grad_out: Any = None,
    lse_out: Any = None,
) -> Any:
    """The gradient alone: bitwise that of :func:`cross_entropy_with_grad`.
    {options}

    Returns
    -------
    grad, or (grad, lse)
        As from :func:`cross_entropy_with_grad`.

    {raises}
    """
    return _evaluate(
        logits, targets, False, True, weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction,
        denominator, on_empty, axis, grad_output, return_lse, backend, threads, None, grad_out, lse_out,
    )  # fmt: skip


def _document(function: Any, *, grad_output: str, buffers: str) -> None:
    options = "\n" + inspect.cleandoc(_OPTIONS.format(grad_output=grad_output, buffers=buffers))
    text = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = text.format(options=options, raises=inspect.cleandoc(_RAISES))


_document(cross_entropy, grad_output="", buffers=_OUT)
_document(cross_entropy_with_grad, grad_output=_GRAD_OUTPUT, buffers=_OUT + _GRAD_OUT)
_document(cross_entropy_grad, grad_output=_GRAD_OUTPUT, buffers=_GRAD_OUT)


def _evaluate(
    logits: Any, targets: Any, want_loss: bool, want_grad: bool, weight: Any, sample_weight: Any, ignore_index: Any,
    label_smoothing: Any, z_loss: Any, reduction: str, denominator: Any, on_empty: str, axis: Any, grad_output: Any,
    return_lse: bool, backend: str | None, threads: Any, out: Any, grad_out: Any, lse_out: Any,
) -> Any:  # fmt: skip
    """A small call by the short path, any other by the full one. Positional: names cost half a µs."""
    chosen = auto.at_once(backend, want_loss, want_grad, logits, threads)
    if chosen is not None:
        most = pool.serial_below(chosen.info.serial_elements)
        if chosen.short is not None:
            result = chosen.short.cross_entropy(
                logits, targets, want_loss, want_grad, weight, sample_weight, ignore_index, label_smoothing, z_loss,
                reduction, denominator, on_empty, axis, grad_output, return_lse, threads, out, grad_out, lse_out, most,
            )  # fmt: skip
        else:
            result = plain.attempt(
                chosen, logits, targets, want_loss, want_grad, weight, sample_weight, ignore_index, label_smoothing,
                z_loss, reduction, denominator, on_empty, axis, grad_output, return_lse, threads, out, grad_out,
                lse_out, most,
            )  # fmt: skip
        if result is not None:
            return result
    return _evaluate_in_full(
        logits, targets, want_loss, want_grad, weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction,
        denominator, on_empty, axis, grad_output, return_lse, backend, threads, out, grad_out, lse_out,
    )  # fmt: skip


def _evaluate_in_full(
    logits: Any, targets: Any, want_loss: bool, want_grad: bool, weight: Any, sample_weight: Any, ignore_index: Any,
    label_smoothing: Any, z_loss: Any, reduction: str, denominator: Any, on_empty: str, axis: Any, grad_output: Any,
    return_lse: bool, backend: str | None, threads: Any, out: Any, grad_out: Any, lse_out: Any,
) -> Any:  # fmt: skip
    """Check, fold, run, reduce. Nothing is written before everything has been checked."""
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    checks.check_choice("on_empty", on_empty, checks.ON_EMPTY)
    ignore_index = checks.check_ignore_index(ignore_index)
    label_smoothing = checks.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
    z_loss = checks.check_number("z_loss", z_loss, 0.0, math.inf)
    threads = checks.check_threads(threads)
    want_lse = checks.check_flag("return_lse", return_lse) or lse_out is not None
    if denominator is not None:
        if reduction != "mean":
            raise ValueError(f'denominator goes with reduction="mean" only, got reduction={reduction!r}')
        denominator = checks.check_number("denominator", denominator, 0.0, math.inf, above=True)
    problem = checks.check_logits(logits, axis)
    checks.check_targets(problem, targets, ignore_index)
    if out is not None or grad_out is not None or lse_out is not None:
        _check_buffers(problem, reduction, out, grad_out, lse_out, {
            "logits": problem.source, "targets": problem.labels if problem.targets is None else problem.targets,
            "weight": weight, "sample_weight": sample_weight, "grad_output": grad_output,
        })  # fmt: skip
    outputs = Outputs.allocate(problem, want_loss, want_grad, want_lse, out if reduction == "none" else None, grad_out)
    if weight is not None:
        weight = checks.check_weight("weight", weight, (problem.n_classes,))
    if sample_weight is not None:
        sample_weight = checks.check_weight("sample_weight", sample_weight, problem.row_shape)
    if grad_output is not None:
        grad_output = checks.as_array("grad_output", grad_output)
        per_row = reduction == "none" and grad_output.ndim > 0
        grad_output = checks.check_vector("grad_output", grad_output, problem.row_shape if per_row else ())
    chosen = auto.choose(
        backend, want_loss, want_grad, problem.source.dtype, problem.n_rows, problem.n_classes, threads
    )
    auto.check_dtype(chosen, problem.compute)
    factors = fold(
        problem, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, z_loss=z_loss, reduction=reduction, denominator=denominator,
        grad_output=grad_output, total=chosen.total or numpy_total,
    )  # fmt: skip
    if factors.empty and on_empty == "raise":
        raise ValueError("no row counts towards the mean: each is ignored or has weight 0, or the weights sum to 0")
    run_kernel(chosen, problem, factors, ignore_index, outputs, threads)
    results = []
    if want_loss:
        total = chosen.total or numpy_total
        results.append(_reduce(problem, factors, outputs, reduction, on_empty, out, total))
    if want_grad:
        results.append(outputs.grad)
    if outputs.row_max is not None:
        results.append(outputs.finish_lse(problem.row_shape, lse_out))
    return results[0] if len(results) == 1 else tuple(results)


def _check_buffers(
    problem: Problem, reduction: str, out: Any, grad_out: Any, lse_out: Any, inputs: dict[str, Any]
) -> None:
    """The buffers that were handed in: shapes, dtypes, and what they may not overlap."""
    if out is not None:
        shape = problem.row_shape if reduction == "none" else ()
        checks.check_buffer("out", out, shape, (problem.compute,), inputs.items())
    if lse_out is not None:
        checks.check_buffer("lse_out", lse_out, problem.row_shape, (problem.compute,), inputs.items())
    if grad_out is not None:
        checks.check_buffer("grad_out", grad_out, problem.source.shape, _grad_dtypes(problem), inputs.items())
    checks.check_apart({"out": out, "grad_out": grad_out, "lse_out": lse_out})


def _grad_dtypes(problem: Problem) -> tuple[np.dtype[Any], ...]:
    return (problem.result,) if problem.result == problem.compute else (problem.result, problem.compute)


def _reduce(
    problem: Problem, factors: Factors, outputs: Outputs, reduction: str, on_empty: str, out: Any, total: Total
) -> Any:
    """Row losses to the result: summed once, in a fixed order, in float64."""
    if reduction == "none":
        return outputs.finish_loss(problem.row_shape, out)
    if factors.empty:
        result = rounded(math.nan if on_empty == "nan" else 0.0, problem.compute)
    else:
        with np.errstate(invalid="ignore"):  # negative soft labels and weights: infinite losses of either sign
            result = mean(outputs.loss, factors.denominator, problem.compute, total)
    if out is None:
        return result
    out[()] = result
    return out
