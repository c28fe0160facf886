"""Options folded to the few factors that kernels know: one formula, stated in softmax_ce.contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.problem import Problem
from softmax_ce.reduction import Total, numpy_total

_FAR_APART = 32  # binary orders of magnitude between weights; the compiled short path leaves such to this module
_BLOCK = 1 << 16  # rows at a time when denominators are summed
ONE_ROW = np.ones(1)
ONE_ROW.flags.writeable = False
_ZERO_ROW = np.zeros(1)
_ZERO_ROW.flags.writeable = False
ONE_CLASS = {np.dtype(real): np.ones(1, real) for real in (np.float32, np.float64)}


@dataclass(slots=True)
class Factors:
    """What a kernel is given beside the arrays: names and meaning as in the contract.

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
        By which the shell divides the summed loss; upstream is divided already.
    empty : bool
        No row counts towards a mean.
    """

    class_scale: Any
    base_mass: Any
    base_total: float
    z_loss: float
    row_weight: Any
    upstream: Any
    denominator: float
    empty: bool


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
    """Checked options to factors. `weight`, `sample_weight` and a vector `grad_output` are flat float64."""
    if reduction == "mean" and denominator is None:
        # A mean does not change with the scale of the weights it divides by; near 1 they keep clear of R's limits.
        with np.errstate(all="ignore"):
            if problem.targets is None and (_is_far_apart(weight) or _is_far_apart(sample_weight)):
                weight, sample_weight = _near_one_where_counted(
                    problem, weight, sample_weight, ignore_index, by_row=label_smoothing == 0 and z_loss == 0
                )
            else:
                sample_weight = _near_one(sample_weight)
                if problem.targets is None:
                    weight = _near_one(weight)
    scale, base = _tables(problem, weight, label_smoothing)
    # Of the rounded masses: with one class, what the gradient adds and takes away must be the same number.
    base_total = 0.0 if base is None else total(base, 1.0) * problem.n_classes / base.size
    row_weight = ONE_ROW if sample_weight is None else sample_weight
    divisor, empty = 1.0, False
    if reduction == "mean":
        if denominator is not None:
            divisor = denominator
        else:
            divisor, rows = _denominators(problem, weight, sample_weight, ignore_index, total)
            empty = divisor == 0.0
            if empty:
                row_weight, divisor = _ZERO_ROW, 1.0
            else:
                z_loss *= divisor / rows  # the z-loss is divided by the rows, the rest by their weights
    upstream = ONE_ROW if grad_output is None and divisor == 1.0 else _upstream(grad_output, divisor)
    return Factors(scale, base, base_total, z_loss, row_weight, upstream, divisor, empty)


def _tables(problem: Problem, weight: Any, label_smoothing: float) -> tuple[Any, Any]:
    """class_scale and base_mass, rounded to R."""
    if weight is None and label_smoothing == 0:
        return ONE_CLASS[problem.compute], None
    by_class = np.ones(1) if weight is None else weight
    with np.errstate(all="ignore"):  # invalid: 0 times a weight that is infinite in R
        scale = ((1.0 - label_smoothing) * by_class).astype(problem.compute)
        if not label_smoothing:
            return scale, None
        return scale, (label_smoothing / problem.n_classes * by_class).astype(problem.compute)


def _near_one(weight: Any) -> Any:
    """Weights over a power of two near the largest: exact."""
    if weight is None or weight.size == 0:
        return weight
    return np.ldexp(weight, -int(np.frexp(weight.max())[1]))


def _is_far_apart(weight: Any) -> bool:
    """Whether the ratio of two weights is so large that the small ones, over the largest, may be lost in R."""
    if weight is None:
        return False
    largest = weight.max(initial=0.0)
    return bool(weight.min(where=weight != 0, initial=math.inf) < math.ldexp(largest, -_FAR_APART))


def _near_one_where_counted(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, by_row: bool
) -> tuple[Any, Any]:
    """Weights of any ratio, scaled by powers of two such that the largest that some counted row has is near 1.

    `by_row`: the class weights become part of the rows', which are float64 and scaled as products. What is left of the
    class weights says whether they are 0. Otherwise both are scaled by themselves.
    """
    y = problem.labels
    counted = np.flatnonzero((y >= 0) & (y < problem.n_classes) & (y != ignore_index))
    by_class = np.ones(problem.n_classes) if weight is None else weight
    rows = np.ones(problem.n_rows) if sample_weight is None else sample_weight
    scaled = np.zeros(problem.n_rows)
    if by_row:
        fraction, power = np.frexp(by_class)
        row_fraction, row_power = np.frexp(rows[counted])
        label = y[counted]
        product = np.where(fraction[label] == 0, row_fraction, fraction[label] * row_fraction)
        powers = np.where(fraction[label] == 0, 0, power[label] + row_power)
        top = powers.max(where=(product != 0) & (fraction[label] != 0), initial=-(1 << 30))
        scaled[counted] = np.ldexp(product, np.where(fraction[label] == 0, 0, powers - top))
        return None if weight is None else np.sign(by_class), scaled
    largest_class = by_class[y[counted]].max(initial=0.0)
    largest_row = rows[counted].max(initial=0.0)
    # Smoothing gives every class mass, so that the largest of all classes has to stay in R as well.
    limits = np.finfo(problem.compute)
    power = min(-math.frexp(largest_class)[1], limits.maxexp - 28 - math.frexp(by_class.max())[1])
    scaled[counted] = np.ldexp(rows[counted], -math.frexp(largest_row)[1])
    return np.ldexp(by_class, power), scaled


def _upstream(grad_output: Any, divisor: float) -> Any:
    if grad_output is None:
        return np.array((1.0 / divisor,))
    with np.errstate(all="ignore"):  # an upstream gradient may leave the range on the way; that is no fault of the call
        return np.atleast_1d(np.asarray(grad_output, np.float64) / divisor)


def _denominators(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, total: Total
) -> tuple[float, float]:
    """Sums over the counted rows, in float64 and in a fixed order: of sample_weight * weight[y], of sample_weight."""
    labels = problem.labels
    if labels is None or (weight is None and not problem.any_ignored):
        rows = float(problem.n_rows) if sample_weight is None else total(sample_weight, 1.0)
        return rows, rows
    with np.errstate(under="ignore"):
        return _sums_of_counted(problem, weight, sample_weight, ignore_index, total)


def _sums_of_counted(
    problem: Problem, weight: Any, sample_weight: Any, ignore_index: int, total: Total
) -> tuple[float, float]:
    labels = problem.labels
    weighted = plain = 0.0
    for start in range(0, problem.n_rows, _BLOCK):
        y = labels[start : start + _BLOCK]
        counted = np.flatnonzero((y >= 0) & (y < problem.n_classes) & (y != ignore_index))
        row = np.ones(counted.size) if sample_weight is None else sample_weight[start + counted]
        plain += total(row, 1.0)
        weighted += total(row if weight is None else row * weight[y[counted]], 1.0)
    return weighted, plain
