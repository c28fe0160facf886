"""What is right of each result of an operation, by the names of the table of operations."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.inputs.workloads import as_rows
from softmax_ce_bench.measure.operations import (
    GRAD,
    LINEAR_GRADS,
    LINEAR_LOSS,
    LOSS,
    DerivedInputs,
)
from softmax_ce_bench.truth import divergence, layer, oracle
from softmax_ce_bench.truth.exact import WIDEST, Arithmetic, Array

_OF_DIVERGENCE = {"kl": "loss", "kl_grad": "grad"}  # -> attributes of Divergence; the other results are in Truth
_OF_LAYER = (LINEAR_LOSS, *LINEAR_GRADS)  # results of LayerTruth
LOSSES = (LOSS, "kl", LINEAR_LOSS)  # of which there is a mean
DERIVATIVES = (GRAD, "hess", "kl_grad", *LINEAR_GRADS)


class ExpectedResults:
    """What is right of all results on some logits with reduction "none".

    Divergence and linear layer are evaluated when they are needed.

    Parameters
    ----------
    logits, targets : ndarray
        As for :func:`softmax_ce_bench.truth.oracle.evaluate`.
    derived : DerivedInputs, optional
        Holds the target logits, of any axes, and the layer; by default those that a call makes.
    arithmetic : Arithmetic
    **options
        As for :func:`softmax_ce_bench.truth.oracle.evaluate`.
    """

    def __init__(
        self, logits: Array, targets: Array, derived: DerivedInputs | None = None, arithmetic: Arithmetic = WIDEST,
        **options: Any,
    ) -> None:  # fmt: skip
        self._logits, self._targets, self._arithmetic, self._options = logits, targets, arithmetic, options
        self._derived = DerivedInputs(logits) if derived is None else derived
        self.truth = oracle.evaluate(logits, targets, arithmetic=arithmetic, **options)

    @cached_property
    def divergence(self) -> divergence.Divergence:
        """The divergence from the target logits."""
        z = self._derived.target_logits
        return divergence.evaluate(self._logits, as_rows(z, z.ndim), arithmetic=self._arithmetic)

    @cached_property
    def layer(self) -> layer.LayerTruth:
        """The loss and the gradients of the linear layer."""
        return layer.evaluate(self._derived.layer, self._targets, arithmetic=self._arithmetic, **self._options)

    def result(self, part: str) -> Array:
        """Return what is right of a result."""
        if part in _OF_DIVERGENCE:
            return getattr(self.divergence, _OF_DIVERGENCE[part])
        if part in _OF_LAYER:
            return self.layer.results[part]
        return getattr(self.truth, part)

    def allowed(self, info: BackendInfo) -> Allowed:
        """Return the errors that a backend may have."""
        return Allowed(self, info, self._logits.dtype)

    def of_mean(self, part: str, rows: Array) -> Array:
        """Return the mean of a loss over the rows, what a derivative of it is, and anything else as it is."""
        counted = len(self._logits) if part in _OF_DIVERGENCE else max(1, int(self.truth.counts.sum()))
        if part in LOSSES:
            return np.asarray(rows.sum() / counted)
        return rows / counted if part in DERIVATIVES else rows


class Allowed:
    """The largest error that a right result of a backend may have.

    Parameters
    ----------
    expected : ExpectedResults
    info : BackendInfo
    dtype : dtype
        Of the logits.
    """

    def __init__(self, expected: ExpectedResults, info: BackendInfo, dtype: Any) -> None:
        self._expected, self._info, self._dtype = expected, info, dtype
        self._bounds = oracle.bounds(info, expected.truth, dtype)

    @cached_property
    def _of_divergence(self) -> divergence.DivergenceBounds:
        return divergence.bounds(self._info, self._expected.divergence, self._dtype)

    @cached_property
    def _of_layer(self) -> dict[str, Array]:
        return self._expected.layer.bounds(self._info)

    def error(self, part: str) -> Array:
        """Return the largest error of a result, element by element."""
        if part in _OF_DIVERGENCE:
            return getattr(self._of_divergence, _OF_DIVERGENCE[part])
        if part in _OF_LAYER:
            return self._of_layer[part]
        return getattr(self._bounds, part)

    def error_of_mean(self, part: str) -> Array:
        """Return the largest error of a result of the mean: with the mean's own rounding, and that over the rows."""
        allowed = self._expected.of_mean(part, self.error(part))
        if part not in (*LOSSES, *DERIVATIVES):
            return allowed
        limits: Any = oracle.limits_of(compute_dtype(self._dtype))
        right = np.abs(self._expected.of_mean(part, self._expected.result(part)))
        allowed = allowed + float(limits.eps) * right
        # Results below the normal numbers are coarser.
        return allowed + float(limits.smallest_subnormal) if part in DERIVATIVES else allowed
