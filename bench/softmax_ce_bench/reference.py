"""Right or wrong on a workload as large as it is timed: its mean loss, and a few rows of the gradient.

Why beside :mod:`softmax_ce_bench.oracle`: that one proves the error of every element, in extended precision and with a
dozen arrays of the logits' size, which is out of the question for hundreds of megabytes; and its bounds are made for
the declared arithmetic of our backends, not for libraries of which nothing is declared. Here the gradient's rows come
from the oracle, the loss over all rows is summed in float64 block by block, and the tolerance is wide enough for any
sound float32 implementation. A wrong formula is far beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench import oracle
from softmax_ce_bench.workloads import IGNORE_INDEX

ROWS = 8  # of the gradient that are compared
_BLOCK = 1 << 18  # elements at a time in float64: the block and its exponentials stay in cache
# Of the loss, relative, and of a probability, absolute. Subtracting a log-sum-exp of some 100 from a logit in
# float32 leaves an error of 1e-5 in the exponent; 16-bit results are judged by their own roundoff.
TOLERANCE = 1e-4
_DOUBLE = oracle.Arithmetic(lambda a: np.asarray(a).astype(np.float64), np.exp, np.log1p)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is right.

    Attributes
    ----------
    rows : ndarray
        Which rows of the gradient there are here.
    loss : float
        The mean.
    grad : ndarray, shape (len(rows), C)
        Of the mean.
    unit : float
        What an error of the gradient is measured in: one over the mean's divisor.
    """

    rows: Any
    loss: float
    grad: Any
    unit: float

    def complaint(self, loss: float | None, grad: Any) -> str | None:
        """Why a result is wrong, or None.

        Parameters
        ----------
        loss : float or None
            The mean; None is not judged.
        grad : ndarray or None
            The rows of the gradient named by `rows`.
        """
        if loss is not None and not _close(float(loss), self.loss, TOLERANCE * max(1.0, abs(self.loss))).all():
            return f"its loss is {float(loss):.6g}, right is {self.loss:.6g}"
        if grad is None:
            return None
        allowed = TOLERANCE * self.unit
        if grad.dtype.itemsize == 2:
            kind = import_module("ml_dtypes").finfo(grad.dtype)  # untyped
            allowed += float(kind.eps) * self.unit + float(kind.smallest_subnormal)
        found = grad.astype(np.float64)
        wrong = ~_close(found, self.grad, allowed)
        if wrong.any():
            k, j = np.argwhere(wrong)[0]
            return f"its gradient at row {self.rows[k]}, class {j} is {found[k, j]:.6g}, right is {self.grad[k, j]:.6g}"
        return None


def evaluate(
    logits: Any, targets: Any, *, weight: Any = None, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Truth:
    """The reference for reduction "mean".

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    targets : ndarray, shape (N,) or (N, C)
        Labels, -100 where a row is to be ignored; or soft ones.
    weight : ndarray, shape (C,), optional
    label_smoothing, z_loss : float
        As for :func:`softmax_ce.cross_entropy`.

    Returns
    -------
    Truth
    """
    n_rows, classes = logits.shape
    of_class = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    counted = np.arange(n_rows) if targets.ndim == 2 else np.flatnonzero(targets != IGNORE_INDEX)
    divisor = float(len(counted) if targets.ndim == 2 else of_class[targets[counted]].sum())
    total = squares = 0.0
    step = max(1, _BLOCK // classes)
    with np.errstate(all="ignore"):
        for start in range(0, len(counted), step):
            rows = counted[start : start + step]
            cost, lse = _costs(logits[rows].astype(np.float64), targets[rows], of_class, label_smoothing)
            total += cost.sum()
            squares += (lse * lse).sum() if z_loss else 0.0
        loss = total / divisor + (z_loss * squares / len(counted) if z_loss else 0.0)
        chosen = np.unique(np.linspace(0, n_rows - 1, ROWS).astype(np.int64))
        rows_truth = oracle.evaluate(
            logits[chosen],
            targets[chosen],
            weight=weight,
            label_smoothing=label_smoothing,
            z_loss=z_loss * divisor / max(len(counted), 1),  # the mean divides that term by the rows
            grad_output=1 / divisor,
            arithmetic=_DOUBLE,
        )
    return Truth(chosen, loss, rows_truth.grad, 1 / divisor)


def _costs(x: Any, targets: Any, weight: Any, smoothing: float) -> tuple[Any, Any]:
    """Each row's sum of target times (lse - x), and its log-sum-exp."""
    top = x.max(axis=1)
    lse = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    share = weight / x.shape[1]
    if targets.ndim == 2:
        mass = weight * (1 - smoothing) * targets + smoothing * share
        return np.where(mass != 0, mass * (lse[:, None] - x), 0).sum(axis=1), lse
    cost = (1 - smoothing) * weight[targets] * (lse - x[np.arange(len(x)), targets])
    if smoothing:
        cost += smoothing * np.where(share != 0, share * (lse[:, None] - x), 0).sum(axis=1)
    return cost, lse


def _close(found: Any, right: Any, allowed: float) -> Any:
    """Elementwise; a NaN or an infinity is close to the same alone."""
    return np.isclose(found, right, rtol=0, atol=allowed, equal_nan=True)
