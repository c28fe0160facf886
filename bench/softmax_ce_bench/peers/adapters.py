"""Softmax cross-entropy and the normalizers in each library, written the way its users write them.

An adapter takes logits, shape (N, C) (for PyTorch also (N, C, ...)), of a dtype that its
:class:`~softmax_ce_bench.peers.table.Peer` names; targets, int64 labels or, where the peer knows them, soft ones of
the logits' shape and dtype; a number of threads; and those of softmax_ce's options that the peer knows. The loss is
the mean over the rows unless an option says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench.inputs.workloads import IGNORE_INDEX

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A library prepared for one workload.

    Attributes
    ----------
    calls : mapping
        Operation, as of :data:`softmax_ce_bench.measure.operations.TABLE` -> function without arguments. A library that
        has no gradient without the loss computes both for "backward".
    result : callable
        Returns the loss, and the gradient in the logits' shape as a NumPy array.
    as_array : callable
        Converts a result of a call to a NumPy array.
    per_row : bool
        The calls give the derivatives of each row's loss, and not of the mean.
    """

    calls: Mapping[str, Call]
    result: Callable[[], tuple[float, Any]]
    as_array: Callable[[Any], Any] = np.asarray
    per_row: bool = False


def to_tensor(array: Any) -> Any:
    """Return a copy of an array as a tensor of PyTorch."""
    import torch

    if array.dtype.name == "bfloat16":  # which NumPy has not
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(np.asarray(array))


def from_tensor(tensor: Any, dtype: Any) -> Any:
    """Return a tensor's memory as an array. `dtype` is NumPy's for bfloat16, if it may be that."""
    import torch

    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(dtype) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def torch_cross_entropy(logits: Any, targets: Any, threads: int, **options: Any) -> Prepared:
    """PyTorch: F.cross_entropy with autograd, and torch.softmax, log_softmax and logsumexp."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(threads)
    x, y = to_tensor(logits).requires_grad_(), torch.tensor(targets)
    upstream = options.pop("grad_output", None)
    upstream = None if upstream is None else torch.tensor(upstream).to(x.dtype)
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"]).to(x.dtype)

    def forward() -> Any:
        with torch.no_grad():
            return cross_entropy(x, y, **options)

    def fused() -> Any:
        loss = cross_entropy(x, y, **options)
        return loss, torch.autograd.grad(loss, x, upstream)[0]

    def result() -> tuple[float, Any]:
        loss, grad = fused()
        return loss.double().mean().item(), as_array(grad)

    as_array = partial(from_tensor, dtype=logits.dtype)

    def without_grad(function: Any) -> Call:
        def run() -> Any:
            with torch.no_grad():
                return function(x, dim=1)

        return run

    calls = {"forward": forward, "backward": lambda: fused()[1], "fused": fused}
    calls |= {name: without_grad(getattr(torch, name)) for name in ("softmax", "log_softmax", "logsumexp")}
    return Prepared(calls, result, as_array)


def jax_cross_entropy(logits: Any, targets: Any, threads: int) -> Prepared:
    """JAX: optax's loss under jit and value_and_grad, and jax.nn. Its pool has a thread for each CPU."""
    jax, optax = import_module("jax"), import_module("optax")  # untyped in part
    if logits.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    hard = targets.ndim == 1
    loss_rows = optax.softmax_cross_entropy_with_integer_labels if hard else optax.softmax_cross_entropy
    x, y = jax.device_put(logits), jax.device_put(targets.astype(np.int32) if hard else targets)

    def loss_of(x: Any, y: Any) -> Any:
        return loss_rows(x, y).mean()

    both = jax.jit(jax.value_and_grad(loss_of))

    def result() -> tuple[float, Any]:
        loss, grad = both(x, y)
        return float(loss), np.asarray(grad)

    def ready(function: Any, *arguments: Any) -> Call:
        return lambda: jax.block_until_ready(function(*arguments))

    calls = {
        "forward": ready(jax.jit(loss_of), x, y),
        "backward": ready(jax.jit(jax.grad(loss_of)), x, y),
        "fused": ready(both, x, y),
    }
    calls |= {name: ready(jax.jit(getattr(jax.nn, name)), x) for name in ("softmax", "log_softmax")}
    calls["logsumexp"] = ready(jax.jit(lambda x: jax.nn.logsumexp(x, axis=1)), x)
    return Prepared(calls, result)


def sklearn_multinomial(logits: Any, targets: Any, threads: int) -> Prepared:
    """scikit-learn: the loss of its logistic regression and gradient boosting, with one value per row."""
    from sklearn._loss.loss import HalfMultinomialLoss

    rows, classes = logits.shape
    loss = HalfMultinomialLoss(n_classes=classes)
    y = targets.astype(logits.dtype)

    def result() -> tuple[float, Any]:
        losses, grad = loss.loss_gradient(y, logits, n_threads=threads)
        return float(losses.mean(dtype=np.float64)), grad / rows

    calls = {
        "forward": lambda: loss.loss(y, logits, n_threads=threads),
        "backward": lambda: loss.gradient(y, logits, n_threads=threads),
        "fused": lambda: loss.loss_gradient(y, logits, n_threads=threads),
        # There is no call that gives the loss, too.
        "hessian": lambda: (None, *loss.gradient_hessian(y, logits, n_threads=threads)),
    }
    return Prepared(calls, result, per_row=True)


def scipy_log_softmax(logits: Any, targets: Any, threads: int) -> Prepared:
    """SciPy: special.log_softmax, its exponential for the gradient, and the normalizers of special."""
    from scipy import special

    rows = np.arange(len(logits))

    def forward() -> Any:
        return -special.log_softmax(logits, axis=1)[rows, targets].mean()

    def backward() -> Any:
        grad = special.softmax(logits, axis=1)
        grad[rows, targets] -= 1
        grad /= len(logits)
        return grad

    def fused() -> Any:
        log_p = special.log_softmax(logits, axis=1)
        loss = -log_p[rows, targets].mean()
        grad = np.exp(log_p)
        grad[rows, targets] -= 1
        grad /= len(logits)
        return loss, grad

    calls = {"forward": forward, "backward": backward, "fused": fused}
    for name in ("softmax", "log_softmax", "logsumexp"):
        calls[name] = _along_rows(getattr(special, name), logits)
    return Prepared(calls, lambda: _as_numbers(*fused()))


def _along_rows(function: Any, logits: Any) -> Call:
    return lambda: function(logits, axis=1)


def numpy_shifted(logits: Any, targets: Any, threads: int) -> Prepared:
    """The formula as you would write it in NumPy: the row maximum is subtracted, and each step takes whole arrays."""
    if targets.ndim == 2:
        forward, backward, fused = _soft(logits, targets)
    elif (targets == IGNORE_INDEX).any():
        forward, backward, fused = _ignoring(logits, targets)
    else:
        forward, backward, fused = _hard(logits, targets)

    def softmax() -> Any:
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p

    def log_softmax() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    def logsumexp() -> Any:
        top = logits.max(axis=1, keepdims=True)
        return top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))

    calls = {"forward": forward, "backward": backward, "fused": fused, "hessian": _second_order(logits, targets)}
    calls |= {"softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp}
    return Prepared(calls, lambda: _as_numbers(*fused()))


def _hard(logits: Any, targets: Any) -> tuple[Call, Call, Callable[[], tuple[Any, Any]]]:
    rows = np.arange(len(logits))

    def forward() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return (np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, targets]).mean()

    def backward() -> Any:
        grad = np.exp(logits - logits.max(axis=1, keepdims=True))
        grad /= grad.sum(axis=1, keepdims=True)
        grad[rows, targets] -= 1
        grad /= len(logits)
        return grad

    def fused() -> tuple[Any, Any]:
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - shifted[rows, targets]).mean()
        grad /= total
        grad[rows, targets] -= 1
        grad /= len(logits)
        return loss, grad

    return forward, backward, fused


def _ignoring(logits: Any, targets: Any) -> tuple[Call, Call, Callable[[], tuple[Any, Any]]]:
    rows = np.flatnonzero(targets != IGNORE_INDEX)
    labels = targets[rows]

    def forward() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        return (np.log(np.exp(shifted).sum(axis=1))[rows] - shifted[rows, labels]).mean()

    def fused() -> tuple[Any, Any]:
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        loss = (np.log(total[rows, 0]) - shifted[rows, labels]).mean()
        grad /= total
        grad[rows, labels] -= 1
        grad[targets == IGNORE_INDEX] = 0
        grad /= len(rows)
        return loss, grad

    return forward, lambda: fused()[1], fused


def _soft(logits: Any, targets: Any) -> tuple[Call, Call, Callable[[], tuple[Any, Any]]]:
    def forward() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return -(targets * log_p).sum(axis=1).mean()

    def fused() -> tuple[Any, Any]:
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        loss = -(targets * (shifted - np.log(total))).sum(axis=1).mean()
        grad /= total
        grad -= targets
        grad /= len(logits)
        return loss, grad

    return forward, lambda: fused()[1], fused


def _second_order(logits: Any, targets: Any) -> Call:
    is_soft = targets.ndim == 2
    rows = np.arange(len(logits)) if is_soft else np.flatnonzero(targets != IGNORE_INDEX)
    ignored = np.setdiff1d(np.arange(len(logits)), rows)

    def run() -> tuple[Any, Any, Any]:
        shifted = logits - logits.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        grad /= total
        hess = grad * (1 - grad)
        if is_soft:
            loss = -(targets * (shifted - np.log(total))).sum(axis=1).mean()
            grad -= targets
        else:
            loss = (np.log(total[rows, 0]) - shifted[rows, targets[rows]]).mean()
            grad[rows, targets[rows]] -= 1
        for each in (grad, hess):
            each[ignored] = 0
            each /= len(rows)
        return loss, grad, hess

    return run


def _as_numbers(loss: Any, grad: Any) -> tuple[float, Any]:
    return float(loss), grad
