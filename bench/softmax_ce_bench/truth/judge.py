"""Correctness before time: the reference on drawn rows of a workload, and each candidate's verdict against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.contract import Accuracy, BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.truth import oracle, reference
from softmax_ce_bench.truth.errors import Errors, NormalizerErrors, worst_ulp

CHECKED_ELEMENTS = 200_000  # in extended precision, at most: the oracle takes its time
Judgement = tuple[Errors | None, str | None]  # the worst errors, and why a candidate is rejected
# Of a library nothing is declared. What a plain implementation may do: exp and log within 4 ULP, one running sum.
UNDECLARED = BackendInfo("undeclared", "", accuracy={name: Accuracy() for name in ("float32", "float64")})


class Judge:
    """The reference on some rows of a workload.

    Parameters
    ----------
    workload : Workload
    options : dict
        Of the calls; reduction apart, which is "none" here.
    """

    def __init__(self, workload: Workload, options: dict[str, Any]) -> None:
        self.subset = workload.rows(CHECKED_ELEMENTS)
        self._options = options
        self._truth = oracle.evaluate(self.subset.logits, self.subset.targets, **options)
        self.telling_rows = int((self._truth.counts & ~self._truth.broken).sum())

    def backend(self, name: str, threads: int | None, wanted: Iterable[str] = ()) -> Judgement:
        """Return a backend's worst errors, and why it is rejected, if it is.

        Parameters
        ----------
        name : str
        threads : int or None
        wanted : iterable of str
            The operations that are to be judged, beside loss and gradient in one call.
        """
        logits, truth = self.subset.logits, self._truth
        found: dict[str, dict[str, Any]] = {}  # what is computed, by which operation
        try:
            for operation in dict.fromkeys(("fused", *wanted)):
                call = operations.call(
                    sce, operation, logits, self.subset.targets, reduction="none", backend=name, threads=threads,
                    **self._options,
                )  # fmt: skip
                for part, result in operations.TABLE[operation].results(call()).items():
                    found.setdefault(part, {})[operation] = result
        except Exception as error:  # a backend from elsewhere may raise anything; the others still run
            return None, raised(error)
        allowed = oracle.bounds(sce.get_backend(name).info, truth, logits.dtype)
        losses, grads = found.pop(operations.LOSS).values(), found.pop(operations.GRAD).values()
        errors = _errors(
            max(oracle.over_bound(loss, truth.loss, allowed.loss) for loss in losses),
            max(oracle.over_bound(grad, truth.grad, allowed.grad) for grad in grads),
            max(worst_ulp(loss, truth.loss) for loss in losses),
            max(worst_ulp(grad, truth.grad) for grad in grads),
            self._of_normalizers({o: result for own in found.values() for o, result in own.items()}, allowed),
        )
        if errors.over_bound <= 1:
            return errors, None
        are_finite = np.isfinite(truth.grad).all(axis=1)
        for grad in grads:
            spoilt = are_finite & ~np.isfinite(grad.astype(np.float64)).all(axis=1)
            if spoilt.any():
                return (
                    errors,
                    f"NaN or infinite in {spoilt.sum()} of {len(spoilt)} checked rows, where the result is finite",
                )
        return errors, f"its worst error is {errors.over_bound:.3g} times what rounding explains"

    def _of_normalizers(self, found: Mapping[str, Any], allowed: oracle.Bounds) -> dict[str, NormalizerErrors]:
        errors = {}
        for operation, result in found.items():
            truth = oracle.normalizer(self._truth, operation)
            over = oracle.over_bound(result, truth, oracle.normalizer(allowed, operation))
            errors[operation] = NormalizerErrors(over, worst_ulp(result, truth))
        return errors

    def peer(self, loss: float, grad: Any, normalized: Mapping[str, Any] | None = None) -> tuple[Errors, str | None]:
        """Return a peer's worst errors, and why it is rejected, if it is.

        Of a peer's arithmetic nothing is declared, so that it is rejected not by the bound but where it is off by more
        than any sound implementation is.

        Parameters
        ----------
        loss : float
            The mean over the checked rows.
        grad : ndarray, shape (rows, C)
            Of that mean.
        normalized : mapping, optional
            Each normalizer that is to be judged -> its result on the checked rows.
        """
        more = normalized or {}
        truth, real = self._truth, compute_dtype(self.subset.logits.dtype)
        counted = max(1, int(truth.counts.sum()))
        allowed = oracle.bounds(UNDECLARED, truth, self.subset.logits.dtype)
        right_loss, right_grad = truth.loss.sum() / counted, truth.grad / counted
        limits: Any = np.finfo(real)
        # The mean's own rounding, and that of the gradient over the rows; results below the normal numbers are coarser.
        loss_bound = allowed.loss.sum() / counted + float(limits.eps) * np.abs(right_loss)
        grad_bound = allowed.grad / counted + float(limits.eps) * np.abs(right_grad) + float(limits.smallest_subnormal)
        mean = np.asarray(loss, real)
        errors = _errors(
            oracle.over_bound(mean, right_loss, loss_bound),
            oracle.over_bound(grad, right_grad, grad_bound),
            worst_ulp(mean, right_loss),
            worst_ulp(grad, right_grad),
            self._of_normalizers(more, allowed),
        )
        sound = reference.ReferenceResult(
            np.arange(len(grad)), float(right_loss), right_grad.astype(np.float64), 1 / counted
        )
        complaints = [sound.complaint(loss, grad)]
        for operation, result in more.items():
            values = oracle.normalizer(truth, operation).astype(np.float64)
            complaints.append(reference.Normalized(np.arange(len(values)), values).complaint(result))
        return errors, next((complaint for complaint in complaints if complaint), None)


def raised(error: Exception) -> str:
    """Return what a candidate raised, in one line that can be printed."""
    said = "".join(c if c.isprintable() else " " for c in str(error))
    return f"raised {type(error).__name__}: {' '.join(said.split())[:200]}"


def _errors(
    loss_over: float, grad_over: float, loss_ulp: float, grad_ulp: float, normalizers: dict[str, NormalizerErrors]
) -> Errors:
    worst = max(loss_over, grad_over, *(each.over_bound for each in normalizers.values()))
    return Errors(worst, loss_over, grad_over, loss_ulp, grad_ulp, normalizers)
