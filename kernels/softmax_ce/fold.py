"""Fold the options into the few factors that kernels take. The formula is in softmax_ce.contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce import weights
from softmax_ce.problem import Problem
from softmax_ce.reduction import Total, numpy_total

ONE_ROW = np.ones(1)
ONE_ROW.flags.writeable = False
_ZERO_ROW = np.zeros(1)
_ZERO_ROW.flags.writeable = False
ONE_CLASS = {np.dtype(real): np.ones(1, real) for real in (np.float32, np.float64)}
NO_LABEL = np.zeros(1, np.int64)
NO_MASS = {dtype: np.zeros(1, dtype) for dtype in ONE_CLASS}
for _fixed in (NO_LABEL, *ONE_CLASS.values(), *NO_MASS.values()):
    _fixed.flags.writeable = False


@dataclass(slots=True)
class Factors:
    """The factors that a kernel takes beside the arrays, named as in the contract.

    Attributes
    ----------
    class_scale : ndarray
        R, (C,) or (1,): label_mass for hard labels, target_scale for soft ones.
    base_mass : ndarray or None
        R, (C,) or (1,).
    base_total, z_loss : float
    row_weight, upstream : ndarray
        float64, (N,) or (1,).
    denominator : float
        Divides the summed loss, after the kernel has run. `upstream` is divided already.
    empty : bool
        Whether no row counts towards a mean.
    spread : ndarray or None
        R, (C,) or (1,): what smoothing shares out among the classes that take part, if they differ by row. There is no
        base_mass then.
    """

    class_scale: Any
    base_mass: Any
    base_total: float
    z_loss: float
    row_weight: Any
    upstream: Any
    denominator: float
    empty: bool
    spread: Any = None


def fold(
    problem: Problem,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    denominator: float | None,
    grad_output: Any,
    total: Total = numpy_total,
) -> Factors:
    """Return the factors for checked options. `weight`, `sample_weight` and a vector `grad_output` are flat float64."""
    of_mean = None
    if reduction == "mean" and denominator is None:
        of_mean = weights.of_mean(problem, weight, sample_weight, ignore_index, label_smoothing, z_loss, total)
        weight, sample_weight = of_mean.by_class, of_mean.by_row
    scale, base, spread = _tables(problem, weight, label_smoothing, None if of_mean is None else of_mean.used)
    # The sum is of the rounded masses: with one class, the gradient must add and subtract the same number.
    with np.errstate(invalid="ignore"):  # masses beyond the range of R are infinities, of either sign
        base_total = 0.0 if base is None else total(base, 1.0) * problem.n_classes / base.size
    row_weight = ONE_ROW if sample_weight is None else sample_weight
    divisor, empty = 1.0 if denominator is None else denominator, False
    if of_mean is not None:
        divisor, empty = of_mean.divisor, of_mean.empty
        z_loss *= of_mean.per_row  # the z-loss is divided by the row weights alone, the rest by class weights too
        if empty:
            row_weight = _ZERO_ROW
    if of_mean is not None and of_mean.inverse is not None:
        with np.errstate(all="ignore"):
            upstream = of_mean.inverse * (1.0 if grad_output is None else grad_output)
    else:
        upstream = ONE_ROW if grad_output is None and divisor == 1.0 else _upstream(grad_output, divisor)
    if problem.transform is not None and problem.transform.scale != 1.0:
        with np.errstate(all="ignore"):
            upstream = upstream * problem.transform.scale
    return Factors(scale, base, base_total, z_loss, row_weight, upstream, divisor, empty, spread)


def _tables(problem: Problem, weight: Any, label_smoothing: float, used: Any) -> tuple[Any, Any, Any]:
    """Return class_scale, base_mass and spread, rounded to R.

    `used` marks the classes whose scale is needed; None is all.
    """
    if weight is None and label_smoothing == 0:
        return ONE_CLASS[problem.compute], None, None
    transform = problem.transform
    by_class = np.ones(1) if weight is None else weight
    with np.errstate(all="ignore"):  # invalid: 0 times a weight that is infinite in R
        by_label = by_class if used is None else np.where(used, by_class, 0.0)
        scale = ((1.0 - label_smoothing) * by_label).astype(problem.compute)
        if not label_smoothing:
            return scale, None, None
        if transform is not None and transform.masks is not None:
            return scale, None, (label_smoothing * by_class).astype(problem.compute)
        classes = None if transform is None else transform.classes
        if classes is not None:
            by_class = np.where(classes, by_class, 0.0)
        n_classes = problem.n_classes if classes is None else max(1, int(classes.sum()))
        return scale, (label_smoothing / n_classes * by_class).astype(problem.compute), None


def _upstream(grad_output: Any, divisor: float) -> Any:
    if grad_output is None:
        return np.array((1.0 / divisor,))
    with np.errstate(all="ignore"):  # an upstream gradient may overflow on the way, which is no fault of the call
        return np.atleast_1d(np.asarray(grad_output, np.float64) / divisor)
