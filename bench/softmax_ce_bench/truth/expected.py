"""What is right of each result of an operation, by the names of the table of operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.measure.operations import GRAD, LOSS, make_target_logits
from softmax_ce_bench.truth import divergence, oracle
from softmax_ce_bench.truth.exact import WIDEST, Arithmetic, Array

_OF_DIVERGENCE = {"kl": "loss", "kl_grad": "grad"}  # -> attributes of Divergence; the other results are in Truth
DERIVATIVES = (GRAD, "hess", "kl_grad")


class ExpectedResults:
    """What is right of all results on some logits with reduction "none". The divergence is evaluated when it is needed.

    Parameters
    ----------
    logits, targets : ndarray
        As for :func:`softmax_ce_bench.truth.oracle.evaluate`.
    target_logits : callable, optional
        Returns those of the divergence; by default those that a call makes.
    arithmetic : Arithmetic
    **options
        As for :func:`softmax_ce_bench.truth.oracle.evaluate`.
    """

    def __init__(
        self, logits: Array, targets: Array, target_logits: Callable[[], Array] | None = None,
        arithmetic: Arithmetic = WIDEST, **options: Any,
    ) -> None:  # fmt: skip
        self._logits, self._target_logits, self._arithmetic = logits, target_logits, arithmetic
        self.truth = oracle.evaluate(logits, targets, arithmetic=arithmetic, **options)

    @cached_property
    def divergence(self) -> divergence.Divergence:
        """The divergence from the target logits."""
        z = make_target_logits(self._logits) if self._target_logits is None else self._target_logits()
        return divergence.evaluate(self._logits, z, arithmetic=self._arithmetic)

    def result(self, part: str) -> Array:
        """Return what is right of a result."""
        if part in _OF_DIVERGENCE:
            return getattr(self.divergence, _OF_DIVERGENCE[part])
        return getattr(self.truth, part)

    def allowed(self, info: BackendInfo) -> Allowed:
        """Return the errors that a backend may have."""
        return Allowed(self, info, self._logits.dtype)

    def of_mean(self, part: str, rows: Array) -> Array:
        """Return the mean of a loss over the rows, what a derivative of it is, and anything else as it is."""
        counted = len(self._logits) if part in _OF_DIVERGENCE else max(1, int(self.truth.counts.sum()))
        if part in (LOSS, "kl"):
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

    def error(self, part: str) -> Array:
        """Return the largest error of a result, element by element."""
        if part in _OF_DIVERGENCE:
            return getattr(self._of_divergence, _OF_DIVERGENCE[part])
        return getattr(self._bounds, part)

    def error_of_mean(self, part: str) -> Array:
        """Return the largest error of a result of the mean: with the mean's own rounding, and that over the rows."""
        allowed = self._expected.of_mean(part, self.error(part))
        if part not in (LOSS, "kl", *DERIVATIVES):
            return allowed
        limits: Any = oracle.limits_of(compute_dtype(self._dtype))
        right = np.abs(self._expected.of_mean(part, self._expected.result(part)))
        allowed = allowed + float(limits.eps) * right
        # Results below the normal numbers are coarser.
        return allowed + float(limits.smallest_subnormal) if part in DERIVATIVES else allowed
