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
from softmax_ce_bench.truth.errors import Errors, OperationErrors, worst_ulp, worst_ulp_of
from softmax_ce_bench.truth.expected import Allowed, ExpectedResults

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
        subset = self.subset
        self._derived = operations.DerivedInputs(subset.logits, features=subset.features, **subset.axis)
        self._expected = ExpectedResults(
            subset.as_rows(subset.logits),
            subset.as_rows(subset.targets),
            self._derived,
            **options,
        )
        truth = self._expected.truth
        self.telling_rows = int((truth.counts & ~truth.broken).sum())

    def backend(self, name: str, threads: int | None, wanted: Iterable[str] = ()) -> Judgement:
        """Return a backend's worst errors, and why it is rejected, if it is.

        Parameters
        ----------
        name : str
        threads : int or None
        wanted : iterable of str
            The operations that are to be judged, beside loss and gradient in one call.
        """
        logits, truth = self.subset.logits, self._expected.truth
        found: dict[str, dict[str, Any]] = {}  # what is computed, by which operation
        try:
            for operation in dict.fromkeys(("fused", *wanted)):
                options: dict[str, Any] = {**self.subset.axis, **self._options}
                call = operations.call(
                    sce, operation, logits, self.subset.targets, derived=self._derived, reduction="none", backend=name,
                    threads=threads, **options,
                )  # fmt: skip
                for part, result in operations.TABLE[operation].results(call()).items():
                    found.setdefault(part, {})[operation] = self._as_rows(part, result)
        except Exception as error:  # a backend from elsewhere may raise anything; the others still run
            return None, raised(error)
        allowed = self._expected.allowed(sce.get_backend(name).info)
        losses, grads = found.pop(operations.LOSS).values(), found.pop(operations.GRAD).values()
        errors = _errors(
            max(oracle.over_bound(loss, truth.loss, allowed.error(operations.LOSS)) for loss in losses),
            max(oracle.over_bound(grad, truth.grad, allowed.error(operations.GRAD)) for grad in grads),
            max(worst_ulp(loss, truth.loss) for loss in losses),
            max(worst_ulp(grad, truth.grad) for grad in grads),
            self._of_operations(_by_operation(found), allowed),
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

    def _as_rows(self, part: str, result: Any) -> Any:
        """Return a result with a row for each position; the gradients of a layer have rows of their own."""
        if part not in operations.LINEAR_GRADS:
            return self.subset.as_rows(result)
        return result.reshape(-1, result.shape[-1]) if result.ndim > 1 else result

    def _of_operations(
        self, found: Mapping[str, Mapping[str, Any]], allowed: Allowed, *, of_mean: bool = False
    ) -> dict[str, OperationErrors]:
        errors = {}
        for operation, results in found.items():
            over, ulp = [], []
            for part, result in results.items():
                truth, bound = self._expected.result(part), allowed.error_of_mean if of_mean else allowed.error
                truth = self._expected.of_mean(part, truth) if of_mean else truth
                over.append(oracle.over_bound(result, truth, bound(part)))
                ulp.append(worst_ulp_of(part, result, truth))
            errors[operation] = OperationErrors(max(over), max(ulp))
        return errors

    def peer(
        self, loss: float, grad: Any, others: Mapping[str, Mapping[str, Any]] | None = None
    ) -> tuple[Errors, str | None]:
        """Return a peer's worst errors, and why it is rejected, if it is.

        Of a peer's arithmetic nothing is declared, so that it is rejected not by the bound but where it is off by more
        than any sound implementation is.

        Parameters
        ----------
        loss : float
            The mean over the checked rows.
        grad : ndarray, shape (rows, C)
            Of that mean.
        others : mapping, optional
            Each operation that is to be judged, but for the losses -> its results on the checked rows by name, of the
            mean.
        """
        more, expected = others or {}, self._expected
        allowed = expected.allowed(UNDECLARED)
        right_loss, right_grad = (
            expected.of_mean(part, expected.result(part)) for part in (operations.LOSS, operations.GRAD)
        )
        mean = np.asarray(loss, compute_dtype(self.subset.logits.dtype))
        errors = _errors(
            oracle.over_bound(mean, right_loss, allowed.error_of_mean(operations.LOSS)),
            oracle.over_bound(grad, right_grad, allowed.error_of_mean(operations.GRAD)),
            worst_ulp(mean, right_loss),
            worst_ulp(grad, right_grad),
            self._of_operations(more, allowed, of_mean=True),
        )
        counted = max(1, int(expected.truth.counts.sum()))
        sound = reference.ReferenceResult(
            np.arange(len(grad)), float(right_loss), right_grad.astype(np.float64), 1 / counted
        )
        complaints = [sound.complaint(loss, grad)]
        for results in more.values():
            complaints += [reference.of_part(expected, part).complaint(result) for part, result in results.items()]
        return errors, next((complaint for complaint in complaints if complaint), None)


def raised(error: Exception) -> str:
    """Return what a candidate raised, in one line that can be printed."""
    said = "".join(c if c.isprintable() else " " for c in str(error))
    return f"raised {type(error).__name__}: {' '.join(said.split())[:200]}"


def _by_operation(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each operation computes, of what is computed by which operation."""
    turned: dict[str, dict[str, Any]] = {}
    for part, results in found.items():
        for operation, result in results.items():
            turned.setdefault(operation, {})[part] = result
    return turned


def _errors(
    loss_over: float, grad_over: float, loss_ulp: float, grad_ulp: float, others: dict[str, OperationErrors]
) -> Errors:
    worst = max(loss_over, grad_over, *(each.over_bound for each in others.values()))
    return Errors(worst, loss_over, grad_over, loss_ulp, grad_ulp, others)
