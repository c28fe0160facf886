"""The cross-entropy of a linear layer, averaged over the rows, with its gradients, in each library.

An adapter takes the inputs (N, D), the weight (C, D) and the bias (C,) of a layer, the targets, and a number of
threads. It returns two functions without arguments by their operations: "linear_forward" gives the mean, and "linear"
the mean and its gradients by inputs, weight and bias.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench.peers.adapters import Call

LINEAR = ("linear_forward", "linear")


def torch_linear(hidden: Any, weight: Any, bias: Any, targets: Any, threads: int) -> dict[str, Call]:
    """PyTorch: F.linear and F.cross_entropy with autograd."""
    from torch.nn import functional

    def loss(x: Any, w: Any, b: Any, y: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, w, b), y)

    return _by_torch(loss, hidden, weight, bias, targets, threads)


def torch_fused(hidden: Any, weight: Any, bias: Any, targets: Any, threads: int) -> dict[str, Call]:
    """PyTorch: F.linear_cross_entropy with autograd."""
    functional: Any = import_module("torch.nn.functional")  # the function is younger than the stubs

    def loss(x: Any, w: Any, b: Any, y: Any) -> Any:
        return functional.linear_cross_entropy(x, w, y, linear_bias=b)

    return _by_torch(loss, hidden, weight, bias, targets, threads)


def _by_torch(
    loss: Callable[..., Any], hidden: Any, weight: Any, bias: Any, targets: Any, threads: int
) -> dict[str, Call]:
    import torch

    torch.set_num_threads(threads)
    arrays = [torch.tensor(array).requires_grad_() for array in (hidden, weight, bias)]
    y = torch.tensor(targets)

    def forward() -> Any:
        with torch.no_grad():
            return loss(*arrays, y)

    def both() -> Any:
        found = loss(*arrays, y)
        return found.detach(), *torch.autograd.grad(found, arrays)

    return {"linear_forward": forward, "linear": both}


def jax_linear(hidden: Any, weight: Any, bias: Any, targets: Any, threads: int) -> dict[str, Call]:
    """JAX: the product and optax's loss under jit and value_and_grad."""
    jax, optax = import_module("jax"), import_module("optax")  # untyped in part
    is_hard = targets.ndim == 1
    loss_rows = optax.softmax_cross_entropy_with_integer_labels if is_hard else optax.softmax_cross_entropy
    arrays = [jax.device_put(array) for array in (hidden, weight, bias)]
    y = jax.device_put(targets.astype(np.int32) if is_hard else targets)

    def mean(x: Any, w: Any, b: Any, y: Any) -> Any:
        return loss_rows(x @ w.T + b, y).mean()

    alone, both = jax.jit(mean), jax.jit(jax.value_and_grad(mean, (0, 1, 2)))

    def with_gradients() -> Any:
        loss, grads = both(*arrays, y)
        return jax.block_until_ready((loss, *grads))

    return {"linear_forward": lambda: jax.block_until_ready(alone(*arrays, y)), "linear": with_gradients}


def numpy_linear(hidden: Any, weight: Any, bias: Any, targets: Any, threads: int) -> dict[str, Call]:
    """The max-shifted formula between the layer's products, as you would write it in NumPy: all logits at once."""
    from softmax_ce_bench.peers.adapters import numpy_shifted

    def parts() -> Any:
        return numpy_shifted(hidden @ weight.T + bias, targets, threads).calls

    def both() -> Any:
        loss, grad = parts()["fused"]()
        return loss, grad @ weight, grad.T @ hidden, grad.sum(axis=0)

    return {"linear_forward": lambda: parts()["forward"](), "linear": both}
