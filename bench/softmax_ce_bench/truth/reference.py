"""Right or wrong on a workload as large as it is timed: its mean loss, and a few rows of the gradient.

Why beside :mod:`softmax_ce_bench.truth.oracle`: that one proves the error of every element, in extended precision and
with a dozen arrays of the logits' size, which is out of the question for hundreds of megabytes; and its bounds are made
for the declared arithmetic of our backends, not for libraries of which nothing is declared. Here the gradient's rows
come from the oracle, the loss over all rows is summed in float64 block by block, and the tolerance is wide enough for
any sound float32 implementation. A wrong formula is far beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce_bench.inputs.workloads import IGNORE_INDEX
from softmax_ce_bench.measure.operations import GRAD, LOSS, TABLE, make_layer, make_target_logits
from softmax_ce_bench.truth import divergence, layer, oracle
from softmax_ce_bench.truth.expected import DERIVATIVES, ExpectedResults

ROWS = 8  # of the gradient that are compared
_BLOCK = 1 << 18  # elements at a time in float64: the block and its exponentials stay in cache
# Of the loss, relative, and of a probability, absolute. Subtracting a log-sum-exp of some 100 from a logit in
# float32 leaves an error of 1e-5 in the exponent; 16-bit results are judged by their own roundoff.
TOLERANCE = 1e-4
SIXTEEN_BIT_STEPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # from 1 to the next number: losses are rounded to it
_DOUBLE = oracle.Arithmetic(lambda a: np.asarray(a).astype(np.float64), np.exp, np.expm1, np.log1p)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceResult:
    """What is right.

    Attributes
    ----------
    rows : ndarray
        Which rows of the gradient there are here.
    loss : float
        The mean.
    grad : ndarray, shape (len(rows), C)
        Of the mean.
    hess : ndarray, shape (len(rows), C), or None
        Likewise; None where it is not known.
    unit : float
        What an error of the gradient is measured in: one over the mean's divisor, in absolute value.
    cancelled : float
        The sum of the weights' absolute values over that of the weights: by so much rows weigh more than their mean.
    """

    rows: Any
    loss: float
    grad: Any
    unit: float
    cancelled: float = 1.0
    hess: Any = None

    def complaint(self, loss: float | None, grad: Any, loss_error: float = 0.0, hess: Any = None) -> str | None:
        """Why a result is wrong, or None.

        Parameters
        ----------
        loss : float or None
            The mean; None is not judged.
        grad : ndarray or None
            The rows of the gradient named by `rows`.
        hess : ndarray or None
            The same rows of the Hessian.
        loss_error : float
            Relative error that the loss may have beyond `TOLERANCE`: of a library that rounds it to 16 bits.
        """
        allowed = (TOLERANCE + loss_error) * max(self.cancelled, abs(self.loss))
        if loss is not None and not _close(float(loss), self.loss, allowed).all():
            return f"its loss is {float(loss):.6g}, right is {self.loss:.6g}"
        for found, right, what in ((grad, self.grad, "gradient"), (hess, self.hess, "Hessian")):
            if found is not None and (complaint := self._of_rows(found, right, what)):
                return complaint
        return None

    def _of_rows(self, rows: Any, right: Any, what: str) -> str | None:
        allowed = TOLERANCE * self.unit
        if rows.dtype.itemsize == 2:
            kind = oracle.limits_of(rows.dtype)
            allowed += float(kind.eps) * self.unit + float(kind.smallest_subnormal)
        found = rows.astype(np.float64)
        wrong = ~_close(found, right, allowed)
        if wrong.any():
            k, j = np.argwhere(wrong)[0]
            return f"its {what} at row {self.rows[k]}, class {j} is {found[k, j]:.6g}, right is {right[k, j]:.6g}"
        return None


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePart:
    """What is right of a result that is neither the loss nor its gradient.

    Attributes
    ----------
    rows : ndarray
        Which rows of the result there are here.
    values : ndarray
        Theirs; 0-d for a mean over the rows.
    unit : float
        What an error of a derivative of the mean is measured in: one over the number of rows.
    """

    rows: Any
    values: Any
    unit: float = 1.0

    def complaint(self, found: Any) -> str | None:
        """Why those rows of a result are wrong, or None."""
        found = np.asarray(found)
        allowed: Any = np.fmax(self.unit, np.where(np.isfinite(self.values), np.abs(self.values), self.unit))
        rounding = float(oracle.limits_of(found.dtype).eps) if found.dtype.itemsize == 2 else 0.0
        allowed = allowed * (TOLERANCE + rounding)
        wrong = ~_close(found.astype(np.float64), self.values, allowed)
        if not wrong.any():
            return None
        at = tuple(np.argwhere(wrong)[0]) if wrong.ndim else ()
        place = f" at row {self.rows[at[0]]}" + "".join(f", class {j}" for j in at[1:]) if at else ""
        return f"its result{place} is {float(found[at]):.6g}, right is {self.values[at]:.6g}"


def of_part(expected: ExpectedResults, part: str) -> ReferencePart:
    """The reference for a result of the mean over all rows that are expected."""
    values = expected.of_mean(part, expected.result(part)).astype(np.float64)
    unit = 1 / expected.truth.counts.size if part in DERIVATIVES else 1.0
    return ReferencePart(np.arange(values.shape[0] if values.ndim else 0), values, unit)


def others(logits: Any, targets: Any, operation: str) -> dict[str, ReferencePart]:
    """The reference for what an operation computes beside the loss and its gradient, with reduction "mean".

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    targets : ndarray, shape (N,) or (N, C)
        No label is ignored.
    operation : str

    Returns
    -------
    dict
        Result -> what is right of some of its rows.
    """
    n_rows = len(logits)
    if TABLE[operation].takes_layer:
        return _of_layer(layer.of_mean(make_layer(logits), targets), TABLE[operation].computes, n_rows)
    chosen = _chosen(n_rows)
    expected = ExpectedResults(logits[chosen], targets[chosen], arithmetic=_DOUBLE)
    found = {}
    for part in TABLE[operation].computes:
        if part == "kl":
            target_logits = make_target_logits(logits)
            found[part] = ReferencePart((), np.asarray(_mean_divergence(logits, target_logits)))
        elif part == "kl_grad":
            some = divergence.evaluate(logits[chosen], make_target_logits(logits)[chosen], arithmetic=_DOUBLE)
            found[part] = ReferencePart(chosen, some.grad.astype(np.float64) / n_rows, 1 / n_rows)
        elif part not in (LOSS, GRAD):
            unit = 1 / n_rows if part in DERIVATIVES else 1.0
            found[part] = ReferencePart(chosen, expected.result(part).astype(np.float64) * unit, unit)
    return found


def _of_layer(right: Mapping[str, Any], parts: Sequence[str], n_rows: int) -> dict[str, ReferencePart]:
    found = {}
    for part in parts:
        rows = _chosen(len(right[part])) if right[part].ndim else ()
        values = right[part][rows] if right[part].ndim else right[part]
        found[part] = ReferencePart(rows, values, 1 / n_rows if part in DERIVATIVES else 1.0)
    return found


def first_complaint(parts: Mapping[str, ReferencePart], found: Mapping[str, Any]) -> str | None:
    """Why results are wrong, each given on the rows of its part, or None."""
    return next((said for part, right in parts.items() if (said := right.complaint(found[part]))), None)


def _mean_divergence(logits: Any, target_logits: Any) -> float:
    step = max(1, _BLOCK // logits.shape[1])
    total = 0.0
    for start in range(0, len(logits), step):
        block = slice(start, start + step)
        total += divergence.evaluate(logits[block], target_logits[block], arithmetic=_DOUBLE).loss.sum()
    return total / len(logits)


def evaluate(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    grad_output: Any = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    where: Any = None,
) -> ReferenceResult:
    """The reference: the mean loss, and the gradient and the Hessian of that or of what the reduction gives.

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    targets : ndarray, shape (N,) or (N, C)
        Labels, or soft ones.
    weight : ndarray, shape (C,), optional
    ignore_index : int
    label_smoothing, z_loss : float
    reduction : {"mean", "none"}
    grad_output : ndarray, shape (N,), optional
        As for :func:`softmax_ce.cross_entropy_with_grad`; the last with reduction "none".
    logit_scale, softcap, where
        As there.

    Returns
    -------
    ReferenceResult
    """
    n_rows, classes = logits.shape
    of_class = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    counted = np.arange(n_rows) if targets.ndim == 2 else np.flatnonzero(targets != ignore_index)
    weights = np.ones(len(counted)) if targets.ndim == 2 else of_class[targets[counted]]
    divisor = math.fsum(weights.tolist())  # exact, where weights of either sign cancel
    cancelled = float(np.abs(weights).sum()) / abs(divisor) if divisor else 1.0
    total = squares = 0.0
    step = max(1, _BLOCK // classes)
    with np.errstate(all="ignore"):
        for start in range(0, len(counted), step):
            rows = counted[start : start + step]
            part = np.broadcast_to(True if where is None else where, logits.shape)[rows]
            x = _transformed(logits[rows].astype(np.float64), logit_scale, softcap, part)
            cost, lse = _costs(x, targets[rows], of_class, label_smoothing, part)
            total += cost.sum()
            squares += (lse * lse).sum() if z_loss else 0.0
        # Of the losses that "none" gives, a caller takes the plain mean.
        of_mean = reduction == "mean"
        loss = total / (divisor if of_mean else n_rows)
        loss += z_loss * squares / (len(counted) if of_mean else n_rows) if z_loss else 0.0
        chosen = _chosen(n_rows)
        unit, upstream = 1 / abs(divisor), 1 / divisor
        if not of_mean:
            upstream = 1.0 if grad_output is None else np.asarray(grad_output, np.float64)[chosen]
            unit = float(np.abs(upstream).max())
        rows_truth = oracle.evaluate(
            logits[chosen],
            targets[chosen],
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            # The mean divides that term by the rows.
            z_loss=z_loss * divisor / max(len(counted), 1) if of_mean else z_loss,
            grad_output=upstream,
            logit_scale=logit_scale,
            softcap=softcap,
            where=None if where is None else np.broadcast_to(where, logits.shape)[chosen],
            arithmetic=_DOUBLE,
        )
    hess = None if softcap is not None else rows_truth.hess
    return ReferenceResult(chosen, loss, rows_truth.grad, unit, cancelled if of_mean else 1.0, hess)


def _chosen(n_rows: int) -> Any:
    """The rows that are compared: from the first to the last."""
    return np.unique(np.linspace(0, n_rows - 1, ROWS).astype(np.int64))


def _transformed(x: Any, scale: float, softcap: float | None, part: Any) -> Any:
    """The logits scaled, capped, and -inf where they are left out."""
    x = x * scale if softcap is None else softcap * np.tanh(x * (scale / softcap))
    return np.where(part, x, -np.inf)


def _costs(x: Any, targets: Any, weight: Any, smoothing: float, part: Any) -> tuple[Any, Any]:
    """Each row's sum of target times (lse - x), and its log-sum-exp."""
    top = x.max(axis=1)
    lse = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    share = np.where(part, weight / np.maximum(part.sum(axis=1, keepdims=True), 1), 0)
    if targets.ndim == 2:
        mass = weight * (1 - smoothing) * targets + smoothing * share
        return np.where(mass != 0, mass * (lse[:, None] - x), 0).sum(axis=1), lse
    cost = (1 - smoothing) * weight[targets] * (lse - x[np.arange(len(x)), targets])
    if smoothing:
        cost += smoothing * np.where(share != 0, share * (lse[:, None] - x), 0).sum(axis=1)
    return cost, lse


def _close(found: Any, right: Any, allowed: Any) -> Any:
    """Elementwise; a NaN or an infinity is close to the same alone."""
    return np.isclose(found, right, rtol=0, atol=allowed, equal_nan=True)
