"""The loss of a linear layer and its gradients in higher precision, and the errors that right ones may have.

Products of float32 numbers are summed in float64, and those of float64 numbers in the oracle's own arithmetic. A
product of K numbers each is within K units of roundoff of the product of their absolute values, in whatever order BLAS
sums. That error of the logits goes into the bounds of the loss and of its gradient as the rounding of transformed
logits does, and these go on through the products of the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.measure.operations import LINEAR_GRADS, LINEAR_LOSS, LinearLayer
from softmax_ce_bench.truth import oracle
from softmax_ce_bench.truth.exact import WIDEST, Arithmetic, Array, Truth

_BLOCK = 1 << 22  # logits at a time, where only the mean is wanted
_SLACK = 4  # roundings of an entry beside those of the sum: upstream gradient, conversion, partial sums


@dataclass(frozen=True, slots=True)
class LayerTruth:
    """What is right with reduction "none", where the gradients are those of the sum over the rows.

    Attributes
    ----------
    layer : LinearLayer
        In the arithmetic of the reference; the inputs as rows.
    truth : Truth
        Of the logits.
    results : dict
        Name -> what is right.
    dtype : dtype
        In which the layer is computed.
    """

    layer: LinearLayer
    truth: Truth
    results: dict[str, Array]
    dtype: Any

    def bounds(self, info: BackendInfo) -> dict[str, Array]:
        """Return the largest error of each right result of a backend, by name."""
        limits: Any = np.finfo(self.dtype)
        unit, tiny = float(limits.eps) / 2, float(limits.smallest_subnormal)
        own = oracle.bounds(info, self.truth, self.dtype)
        hidden, weight, _ = (np.abs(np.asarray(each)).astype(np.float64) for each in self.layer)
        grad = np.abs(self.truth.grad).astype(np.float64)
        error = own.grad.astype(np.float64)
        n_rows, n_classes = grad.shape
        of_hidden = error + unit * (n_classes + _SLACK) * grad
        of_weight = error + unit * (n_rows + _SLACK) * grad
        floor = (n_rows + n_classes) * tiny
        found = (of_hidden @ weight, of_weight.T @ hidden, of_weight.sum(axis=0))
        return {LINEAR_LOSS: own.loss} | {n: each + floor for n, each in zip(LINEAR_GRADS, found, strict=True)}


def evaluate(layer: LinearLayer, targets: Array, *, arithmetic: Arithmetic = WIDEST, **options: Any) -> LayerTruth:
    """Return the reference for a layer.

    Parameters
    ----------
    layer : LinearLayer
    targets : ndarray, shape (N,) or (N, C)
    arithmetic : Arithmetic
    **options
        As for :func:`softmax_ce_bench.truth.oracle.evaluate`.
    """
    dtype = compute_dtype(layer.hidden.dtype)
    features = layer.linear_weight.shape[1]
    wide: Any = _double if dtype == np.float32 else arithmetic.array
    exact = LinearLayer(*(wide(each) for each in (layer.hidden.reshape(-1, features), *layer[1:])))
    hidden, weight, bias = exact
    truth = oracle.evaluate(_double(hidden @ weight.T + bias), targets, arithmetic=arithmetic, **options)
    size = np.abs(_double(hidden)) @ np.abs(_double(weight)).T + np.abs(_double(bias))
    truth.moved = truth.moved + (features + 2) * size  # with the reference's own rounding to float64
    grad = truth.grad if wide is not _double else _double(truth.grad)
    found = (truth.loss, grad @ weight, grad.T @ hidden, grad.sum(axis=0))
    return LayerTruth(exact, truth, dict(zip((LINEAR_LOSS, *LINEAR_GRADS), found, strict=True)), dtype)


def of_mean(layer: LinearLayer, targets: Array) -> dict[str, Array]:
    """Return the mean loss and its gradients in float64, however many rows there are.

    Parameters
    ----------
    layer : LinearLayer
    targets : ndarray, shape (N,) or (N, C)
        No label is ignored.
    """
    hidden, weight, bias = (_double(each) for each in layer)
    n_rows, n_classes = len(hidden), len(weight)
    total, grad_hidden = 0.0, np.empty_like(hidden)
    grad_weight, grad_bias = np.zeros_like(weight), np.zeros_like(bias)
    step = max(1, _BLOCK // n_classes)
    for start in range(0, n_rows, step):
        x, y = hidden[start : start + step], targets[start : start + step]
        shifted = x @ weight.T + bias
        shifted -= shifted.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total_of_row = grad.sum(axis=1, keepdims=True)
        shifted -= np.log(total_of_row)
        grad /= total_of_row
        at_label = np.arange(len(x)), y
        total -= shifted[at_label].sum() if y.ndim == 1 else (y * shifted).sum()
        if y.ndim == 1:
            grad[at_label] -= 1
        else:
            grad -= y
        grad_hidden[start : start + step] = grad @ weight
        grad_weight += grad.T @ x
        grad_bias += grad.sum(axis=0)
    found = (np.asarray(total), grad_hidden, grad_weight, grad_bias)
    return {part: each / n_rows for part, each in zip((LINEAR_LOSS, *LINEAR_GRADS), found, strict=True)}


def _double(array: Array) -> Array:
    return np.asarray(array).astype(np.float64)
