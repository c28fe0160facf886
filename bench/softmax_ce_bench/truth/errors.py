"""The worst errors of a result, over what rounding explains and in units in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softmax_ce_bench.measure.operations import GRAD, LOSS, TABLE
from softmax_ce_bench.truth.oracle import limits_of


@dataclass(frozen=True, slots=True)
class NormalizerErrors:
    """The worst errors of a normalizer on the checked rows."""

    over_bound: float
    ulp: float


@dataclass(frozen=True, slots=True)
class Errors:
    """The worst errors on the checked rows."""

    over_bound: float
    loss_over_bound: float
    grad_over_bound: float
    loss_ulp: float
    grad_ulp: float
    normalizers: dict[str, NormalizerErrors] = field(default_factory=dict)

    def over_bound_of(self, operation: str) -> float:
        """Return the worst error over its bound, of what an operation computes; infinity if it was not checked."""
        known = {LOSS: self.loss_over_bound, GRAD: self.grad_over_bound}
        own = {operation: each.over_bound for operation, each in self.normalizers.items()}
        return max(known.get(part, own.get(operation, math.inf)) for part in TABLE[operation].computes)

    def ulp_of(self, operation: str) -> tuple[float, ...]:
        """Return the worst error in units in the last place of each thing that an operation computes."""
        known = {LOSS: (self.loss_ulp,), GRAD: (self.grad_ulp,)}
        own = tuple(each.ulp for name, each in self.normalizers.items() if name == operation)
        return tuple(unit for part in TABLE[operation].computes for unit in known.get(part, own))


def worst_ulp(result: Any, truth: Any) -> float:
    """Return the worst error in units in the last place of the result's dtype at the true value.

    Infinity where a NaN or an infinity is not where it must be.

    Parameters
    ----------
    result : array_like
    truth : array_like of longdouble, of the same shape

    Returns
    -------
    float
    """
    result, truth = np.asarray(result), np.asarray(truth)
    limits = limits_of(result.dtype)
    with np.errstate(all="ignore"):
        right, got = truth.astype(np.float64), result.astype(np.float64)
        usual = np.isfinite(right) & (np.abs(right) <= float(limits.max))
        if not np.isfinite(got[usual]).all() or (np.isnan(right) & ~np.isnan(got)).any():
            return np.inf
        error = np.abs((result.astype(np.float64) - truth)[usual].astype(np.float64))
        least = float(limits.smallest_subnormal)
        _, exponent = np.frexp(np.abs(right[usual]))  # |x| in [2^(e-1), 2^e)
        unit = np.where(right[usual] == 0, least, np.maximum(np.ldexp(float(limits.eps), exponent - 1), least))
        return float((error / unit).max(initial=0.0))
