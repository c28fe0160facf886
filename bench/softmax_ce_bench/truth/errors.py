"""The worst errors of a result, over what rounding explains and in units in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softmax_ce_bench.measure.operations import LOSSES


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
        """The worst error over its bound, of what an operation computes."""
        if operation not in LOSSES:
            return self.normalizers[operation].over_bound if operation in self.normalizers else math.inf
        both = max(self.loss_over_bound, self.grad_over_bound)
        return {"forward": self.loss_over_bound, "backward": self.grad_over_bound}.get(operation, both)

    def ulp_of(self, operation: str) -> tuple[float, ...]:
        """The worst errors in units in the last place: of the loss and of the gradient, of those it computes."""
        if operation not in LOSSES:
            return (self.normalizers[operation].ulp,) if operation in self.normalizers else ()
        both = self.loss_ulp, self.grad_ulp
        return {"forward": both[:1], "backward": both[1:]}.get(operation, both)


def worst_ulp(result: Any, truth: Any) -> float:
    """The worst error in units in the last place of the result's dtype at the true value.

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
    limits = _limits(result.dtype)
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


def _limits(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo  # untyped
    return finfo(dtype)
