"""Evaluate a loss: on the short path for small, ordinary calls, else check, fold, run and reduce.

The full path handles every argument and reports what is wrong with it. Small calls with ordinary arguments take a short
path, which gives the same bits: the backend's own (:class:`softmax_ce.contract.ShortCalls`), or :mod:`softmax_ce.plain`
in Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softmax_ce import checks, plain, plain_hessian, registry
from softmax_ce import threads as pool
from softmax_ce.choice import auto
from softmax_ce.fold import Factors, fold
from softmax_ce.options import Options
from softmax_ce.problem import Problem
from softmax_ce.reduction import Total, mean, numpy_total, rounded
from softmax_ce.run import Outputs, run_kernel
from softmax_ce.transform import apply


def evaluate(
    logits: Any, targets: Any, want_loss: bool, want_grad: bool, backend: str | None, given: tuple[Any, ...]
) -> Any:
    """Return the results that are wanted, in the order loss, gradient, log-sum-exp, correct.

    Parameters
    ----------
    logits, targets : array_like
    want_loss, want_grad : bool
    backend : str or None
    given : tuple
        The fields of :class:`Options`. A bare tuple saves a fifth of a small call's time.
    """
    chosen = auto.fixed if backend is None else registry.loaded(backend)
    if chosen is None:
        chosen = auto.at_once(backend, want_loss, want_grad, logits, given[_AXIS], given[_THREADS])
    if chosen is not None:
        most = pool.serial_below(chosen.info.serial_elements)
        if chosen.short is not None:
            result = chosen.short.cross_entropy(logits, targets, want_loss, want_grad, given, most)
        else:
            result = plain.attempt(chosen, logits, targets, want_loss, want_grad, *given, most)  # type: ignore[call-arg]
        if result is not None:
            return result
    return evaluate_in_full(logits, targets, want_loss, want_grad, backend, Options._make(given))


def evaluate_with_hessian(logits: Any, targets: Any, backend: str | None, options: Options, hess_out: Any) -> Any:
    """Return loss, gradient and Hessian, and the optional results after them."""
    chosen = auto.fixed if backend is None else registry.loaded(backend)
    if chosen is None:
        chosen = auto.at_once(backend, True, True, logits, options.axis, options.threads)
    if chosen is not None:
        most = pool.serial_below(chosen.info.serial_elements)
        result = plain_hessian.attempt(chosen, logits, targets, options, hess_out, most)
        if result is not None:
            return result
    return evaluate_in_full(logits, targets, True, True, backend, options, want_hess=True, hess_out=hess_out)


_AXIS, _THREADS = Options._fields.index("axis"), Options._fields.index("threads")


def evaluate_in_full(
    logits: Any, targets: Any, want_loss: bool, want_grad: bool, backend: str | None, options: Options,
    want_hess: bool = False, hess_out: Any = None,
) -> Any:  # fmt: skip
    """Check, fold, run and reduce. Nothing is written until every argument has been checked."""
    options = check_options(options)
    reduction = options.reduction
    problem = checks.check_logits(logits, options.axis)
    checks.check_targets(problem, targets, options.ignore_index)
    check_buffers(problem, options, hess_out)
    apply(problem, options.logit_scale, options.softcap, options.where)
    check_combinations(problem, options, want_hess)
    outputs = Outputs.allocate(
        problem, want_loss, want_grad, options.return_lse, options.out if reduction == "none" else None,
        options.grad_out,
    )  # fmt: skip
    outputs.add(problem, want_hess, hess_out, options.return_correct)
    options = check_weights(problem, options)
    chosen = auto.choose(
        backend, want_loss, want_grad, problem.source.dtype, problem.n_rows, problem.n_classes, options.threads
    )
    auto.check_dtype(chosen, problem.compute)
    total = chosen.total or numpy_total
    factors = fold_options(problem, options, total)
    run_kernel(chosen, problem, factors, options.ignore_index, outputs, options.threads)
    results = []
    if want_loss:
        results.append(reduce_rows(problem, factors, outputs, options, total))
    if want_grad:
        results.append(outputs.grad)
    if want_hess:
        results.append(outputs.hess)
    return returned(results, problem, options, outputs)


def returned(results: list[Any], problem: Problem, options: Options, outputs: Outputs) -> Any:
    """Return results with the log-sum-exp and what is correct after them, if wanted: a tuple if there are several."""
    if options.return_lse:
        results.append(outputs.finish_lse(problem.row_shape, options.lse_out))
    if outputs.correct is not None:
        results.append(outputs.correct.reshape(problem.row_shape)[()])
    return results[0] if len(results) == 1 else tuple(results)


def check_options(options: Options) -> Options:
    """Return the options that need no arrays for their checks, checked. `return_lse` is true if `lse_out` is given."""
    checks.check_choice("reduction", options.reduction, checks.REDUCTIONS)
    checks.check_choice("on_empty", options.on_empty, checks.ON_EMPTY)
    ignore_index = checks.check_ignore_index(options.ignore_index)
    label_smoothing = checks.check_number("label_smoothing", options.label_smoothing, 0.0, 1.0)
    z_loss = checks.check_number("z_loss", options.z_loss, 0.0, math.inf)
    threads = checks.check_threads(options.threads)
    want_lse = checks.check_flag("return_lse", options.return_lse) or options.lse_out is not None
    want_correct = checks.check_flag("return_correct", options.return_correct)
    denominator = options.denominator
    if denominator is not None:
        if options.reduction != "mean":
            raise ValueError(f'denominator goes with reduction="mean" only, got reduction={options.reduction!r}')
        denominator = checks.check_number("denominator", denominator, 0.0, math.inf, above=True)
    return options._replace(
        ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss, threads=threads,
        return_lse=want_lse, denominator=denominator, return_correct=want_correct,
    )  # fmt: skip


def check_combinations(problem: Problem, options: Options, want_hess: bool) -> None:
    """Check options that exclude each other."""
    if options.return_correct and problem.targets is not None:
        raise ValueError("return_correct needs hard labels: soft labels name no class that could be the maximum")
    if want_hess and options.softcap is not None:
        raise ValueError(
            "the Hessian is not available with softcap: the cap adds terms of its own that are not computed"
        )


def check_weights(problem: Problem, options: Options) -> Options:
    """Return the options with the weights and the upstream gradient as vectors."""
    weight, sample_weight, grad_output = options.weight, options.sample_weight, options.grad_output
    if weight is not None:
        weight = checks.check_weight("weight", weight, (problem.n_classes,))
    if sample_weight is not None:
        sample_weight = checks.check_weight("sample_weight", sample_weight, problem.row_shape)
    if grad_output is not None:
        grad_output = checks.as_array("grad_output", grad_output)
        per_row = options.reduction == "none" and grad_output.ndim > 0
        grad_output = checks.check_vector("grad_output", grad_output, problem.row_shape if per_row else ())
    return options._replace(weight=weight, sample_weight=sample_weight, grad_output=grad_output)


def check_buffers(problem: Problem, options: Options, hess_out: Any) -> None:
    """Check the caller's buffers: their shapes and dtypes, and what they overlap."""
    out, grad_out, lse_out = options.out, options.grad_out, options.lse_out
    if out is None and grad_out is None and lse_out is None and hess_out is None:
        return
    inputs = {
        "logits": problem.source,
        "targets": problem.labels if problem.targets is None else problem.targets,
        "weight": options.weight,
        "sample_weight": options.sample_weight,
        "grad_output": options.grad_output,
        "where": options.where,
    }
    if out is not None:
        shape = problem.row_shape if options.reduction == "none" else ()
        checks.check_buffer("out", out, shape, (problem.compute,), inputs.items())
    if lse_out is not None:
        checks.check_buffer("lse_out", lse_out, problem.row_shape, (problem.compute,), inputs.items())
    if grad_out is not None:
        checks.check_buffer("grad_out", grad_out, problem.source.shape, _grad_dtypes(problem), inputs.items())
    if hess_out is not None:
        checks.check_buffer("hess_out", hess_out, problem.source.shape, _grad_dtypes(problem), inputs.items())
    checks.check_apart({"out": out, "grad_out": grad_out, "hess_out": hess_out, "lse_out": lse_out})


def _grad_dtypes(problem: Problem) -> tuple[np.dtype[Any], ...]:
    """Return the dtypes that a gradient or Hessian may have: the logits', and float32 too."""
    return (problem.result,) if problem.result == _FLOAT32 else (problem.result, _FLOAT32)


_FLOAT32 = np.dtype(np.float32)


def fold_options(problem: Problem, options: Options, total: Total) -> Factors:
    """Return the factors for checked options.

    Raises
    ------
    ValueError
        No row counts, under ``on_empty="raise"``.
    """
    factors = fold(
        problem, weight=options.weight, sample_weight=options.sample_weight, ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing, z_loss=options.z_loss, reduction=options.reduction,
        denominator=options.denominator, grad_output=options.grad_output, total=total,
    )  # fmt: skip
    if factors.empty and options.on_empty == "raise":
        raise ValueError("no row counts towards the mean: each is ignored or has weight 0, or the weights sum to 0")
    return factors


def reduce_rows(problem: Problem, factors: Factors, outputs: Outputs, options: Options, total: Total) -> Any:
    """Reduce the row losses to the result. They are summed once, in a fixed order, in float64."""
    if options.reduction == "none":
        return outputs.finish_loss(problem.row_shape, options.out)
    if factors.empty:
        result = rounded(math.nan if options.on_empty == "nan" else 0.0, problem.compute)
    else:
        with np.errstate(invalid="ignore"):  # negative soft labels and weights: infinite losses of either sign
            result = mean(outputs.loss, factors.denominator, problem.compute, total)
    if options.out is None:
        return result
    options.out[()] = result
    return options.out
