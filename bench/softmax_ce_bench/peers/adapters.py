"""Each library's softmax cross-entropy, mean over the rows, as its users write it.

An adapter takes logits (N, C) of float32 or float64, targets ((N,) int64 labels, or soft ones of the logits' shape
and dtype where its :class:`~softmax_ce_bench.peers.table.Peer` says that it knows them) and a number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench.timing import Call


@dataclass(frozen=True, slots=True)
class Prepared:
    """A library on one workload.

    Attributes
    ----------
    forward, fused : callable
        Without arguments: the loss; the loss and its gradient.
    result : callable
        Computes, and gives the loss and the gradient, shape (N, C), as NumPy has them.
    """

    forward: Call
    fused: Call
    result: Callable[[], tuple[float, Any]]


def torch_cross_entropy(logits: Any, targets: Any, threads: int) -> Prepared:
    """PyTorch: F.cross_entropy and autograd."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(threads)
    x = torch.tensor(logits).requires_grad_()
    y = torch.tensor(targets)

    def forward() -> Any:
        with torch.no_grad():
            return cross_entropy(x, y)

    def fused() -> Any:
        loss = cross_entropy(x, y)
        return loss, torch.autograd.grad(loss, x)[0]

    def result() -> tuple[float, Any]:
        loss, grad = fused()
        return loss.item(), grad.numpy()

    return Prepared(forward, fused, result)


def jax_cross_entropy(logits: Any, targets: Any, threads: int) -> Prepared:
    """JAX: optax's loss under jit and value_and_grad. Its pool has as many threads as the process had CPUs."""
    jax, optax = import_module("jax"), import_module("optax")  # untyped in part
    if logits.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    hard = targets.ndim == 1
    loss_rows = optax.softmax_cross_entropy_with_integer_labels if hard else optax.softmax_cross_entropy
    x, y = jax.device_put(logits), jax.device_put(targets.astype(np.int32) if hard else targets)

    def loss_of(x: Any, y: Any) -> Any:
        return loss_rows(x, y).mean()

    loss_alone, both = jax.jit(loss_of), jax.jit(jax.value_and_grad(loss_of))

    def result() -> tuple[float, Any]:
        loss, grad = both(x, y)
        return float(loss), np.asarray(grad)

    return Prepared(lambda: loss_alone(x, y).block_until_ready(), lambda: jax.block_until_ready(both(x, y)), result)


def sklearn_multinomial(logits: Any, targets: Any, threads: int) -> Prepared:
    """scikit-learn: the loss of its logistic regression and gradient boosting, one value a row as they have it."""
    from sklearn._loss.loss import HalfMultinomialLoss

    rows, classes = logits.shape
    loss = HalfMultinomialLoss(n_classes=classes)
    y = targets.astype(logits.dtype)

    def result() -> tuple[float, Any]:
        losses, grad = loss.loss_gradient(y, logits, n_threads=threads)
        return float(losses.mean(dtype=np.float64)), grad / rows

    return Prepared(
        lambda: loss.loss(y, logits, n_threads=threads),
        lambda: loss.loss_gradient(y, logits, n_threads=threads),
        result,
    )


def scipy_log_softmax(logits: Any, targets: Any, threads: int) -> Prepared:
    """SciPy: special.log_softmax, and its exponential for the gradient."""
    from scipy.special import log_softmax

    rows = np.arange(len(logits))

    def forward() -> Any:
        return -log_softmax(logits, axis=1)[rows, targets].mean()

    def fused() -> Any:
        log_p = log_softmax(logits, axis=1)
        loss = -log_p[rows, targets].mean()
        grad = np.exp(log_p)
        grad[rows, targets] -= 1
        grad /= len(logits)
        return loss, grad

    return Prepared(forward, fused, lambda: _as_numbers(*fused()))


def numpy_shifted(logits: Any, targets: Any, threads: int) -> Prepared:
    """NumPy as one writes it: the row maximum pulled out, whole arrays at a time."""
    rows = np.arange(len(logits))

    def forward() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return (np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, targets]).mean()

    def fused() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - shifted[rows, targets]).mean()
        grad /= total
        grad[rows, targets] -= 1
        grad /= len(logits)
        return loss, grad

    return Prepared(forward, fused, lambda: _as_numbers(*fused()))


def _as_numbers(loss: Any, grad: Any) -> tuple[float, Any]:
    return float(loss), grad
