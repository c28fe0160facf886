"""The worst errors of a result, over what rounding explains and in units in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from softmax_ce.documents import INFINITE, Limits
from softmax_ce_bench.measure.operations import GRAD, LINEAR_GRADS, LOSS, OTHERS, TABLE
from softmax_ce_bench.truth.oracle import limits_of

_Error = Annotated[float, INFINITE]


@dataclass(frozen=True, slots=True)
class OperationErrors:
    """The worst errors of what an operation computes beside the loss and its gradient, on the checked rows.

    Attributes
    ----------
    over_bound : float
        Worst error of an entry over its bound: at most 1 is right for a backend.
    ulp : float
        Worst error of an entry, in units in the last place of its dtype at the true value. For the gradients of a
        linear layer, whose entries are sums that cancel: at the largest true value of the gradient.
    """

    over_bound: _Error
    ulp: _Error


@dataclass(frozen=True, slots=True)
class Errors:
    """The worst errors on the checked rows, against a reference in extended precision.

    Attributes
    ----------
    over_bound : float
        The largest of the next two and of those of the other operations.
    loss_over_bound : float
        Worst error of the loss over its proven bound: at most 1 is right for a backend. Backends: of each row's loss.
        Peers: of the mean over the checked rows. The bound of a peer, of which nothing is declared, is that of a kernel
        whose exp and log are within 4 ULP and which sums one by one; a peer beyond it is less accurate, and rejected
        only if it is off by more than 1e-4.
    grad_over_bound : float
        Worst error of an entry of the gradient over its bound.
    loss_ulp : float
        Worst error of the loss, in units in the last place of its dtype at the true value.
    grad_ulp : float
        Worst error of an entry of the gradient, in units in the last place of its dtype at the true value. An
        entry with probability e**-d may be off by d units, since the logit's difference from the maximum is rounded.
    operations : dict
        Operation -> the worst errors of what it computes beside the loss and its gradient: those of settings.operations
        that the candidate has, but for the three losses.
    """

    over_bound: _Error
    loss_over_bound: _Error
    grad_over_bound: _Error
    loss_ulp: _Error
    grad_ulp: _Error
    operations: dict[Annotated[str, Limits(enum=OTHERS)], OperationErrors] = field(default_factory=dict)

    def over_bound_of(self, operation: str) -> float:
        """Return the worst error over its bound, of what an operation computes; infinity if it was not checked."""
        known = {LOSS: self.loss_over_bound, GRAD: self.grad_over_bound}
        own = self.operations[operation].over_bound if operation in self.operations else math.inf
        return max(known.get(part, own) for part in TABLE[operation].computes)

    def ulp_of(self, operation: str) -> tuple[float, ...]:
        """Return the worst error in units in the last place of loss and gradient, and of what else is computed."""
        known = {LOSS: self.loss_ulp, GRAD: self.grad_ulp}
        own = tuple(each.ulp for name, each in self.operations.items() if name == operation)
        return (*(known[part] for part in TABLE[operation].computes if part in known), *own)


def worst_ulp_of(part: str, result: Any, truth: Any) -> float:
    """Return the worst error of a result, by its name, in units in the last place."""
    return worst_ulp(result, truth, at_largest=part in LINEAR_GRADS)


def worst_ulp(result: Any, truth: Any, *, at_largest: bool = False) -> float:
    """Return the worst error in units in the last place of the result's dtype at the true value.

    Infinity where a NaN or an infinity is not where it must be.

    Parameters
    ----------
    result : array_like
    truth : array_like of longdouble, of the same shape
    at_largest : bool
        Count in units at the largest true value.

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
        size = np.abs(right[usual])
        size = np.full_like(size, size.max(initial=0.0)) if at_largest else size
        _, exponent = np.frexp(size)  # |x| in [2^(e-1), 2^e)
        unit = np.where(size == 0, least, np.maximum(np.ldexp(float(limits.eps), exponent - 1), least))
        return float((error / unit).max(initial=0.0))
