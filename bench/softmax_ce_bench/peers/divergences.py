"""The KL divergence of two arrays of logits, averaged over the rows, with its gradient, in each library.

An adapter takes logits and target logits, both (N, C), and a number of threads. It returns a function without
arguments that gives the mean and its gradient with respect to the logits.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench.peers.adapters import Call


def torch_kl(logits: Any, target_logits: Any, threads: int) -> Call:
    """PyTorch: F.kl_div of two log_softmax with autograd."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    torch.set_num_threads(threads)
    x, z = torch.tensor(logits).requires_grad_(), torch.tensor(target_logits)

    def run() -> Any:
        divergence = kl_div(log_softmax(x, 1), log_softmax(z, 1), reduction="batchmean", log_target=True)
        return divergence.detach(), torch.autograd.grad(divergence, x)[0]

    return run


def jax_kl(logits: Any, target_logits: Any, threads: int) -> Call:
    """JAX: optax's divergence with logarithmic targets, under jit and value_and_grad."""
    jax, losses = import_module("jax"), import_module("optax.losses")  # untyped in part
    x, z = jax.device_put(logits), jax.device_put(target_logits)

    def mean(x: Any, z: Any) -> Any:
        return losses.kl_divergence_with_log_targets(jax.nn.log_softmax(x), jax.nn.log_softmax(z)).mean()

    both = jax.jit(jax.value_and_grad(mean))
    return lambda: jax.block_until_ready(both(x, z))


def numpy_kl(logits: Any, target_logits: Any, threads: int) -> Call:
    """The sum of t (log t - log p) as you would write it in NumPy, where t is not 0."""

    def log_softmax(x: Any) -> Any:
        shifted = x - x.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    def run() -> tuple[Any, Any]:
        log_p, log_t = log_softmax(logits), log_softmax(target_logits)
        t = np.exp(log_t)
        divergence = np.where(t > 0, t * (log_t - log_p), 0).sum(axis=1).mean()
        grad = np.exp(log_p)
        grad -= t
        grad /= len(logits)
        return divergence, grad

    return run
