"""The gradients in PyTorch's own operations, for whoever differentiates them again.

The kernels compute values alone. Under ``create_graph=True``, the backward pass returns these expressions in their
place, and PyTorch differentiates them, to any order. The formula is in :mod:`softmax_ce.contract`.
"""

from __future__ import annotations

from typing import Any

import torch

from softmax_ce.torch.call import LossCall


def gradients(
    upstream: Any, input: Any, target: Any, weight: Any, call: LossCall, of_input: bool, of_target: bool
) -> tuple[Any, Any]:
    """Return the gradients with respect to the input and to soft labels; None for one that is not wanted."""
    axis = min(1, input.dim() - 1)
    wide = torch.promote_types(input.dtype, torch.float32)
    logits, slope = input.to(wide), None
    if call.softcap is not None:
        logits = logits / call.softcap
        q = torch.exp(-2 * logits.abs())
        logits, slope = call.softcap * torch.tanh(logits), 4 * q / (1 + q) ** 2  # 1 - tanh**2 would cancel
    by_class = None
    if weight is not None:
        by_class = weight.to(wide).view(-1, *[1] * (input.dim() - 1 - axis))
    mass, counted = _targets(logits, target, by_class, call, axis)
    upstream = upstream.to(wide)
    upstream_z = upstream
    if call.reduction == "none":
        upstream = upstream_z = upstream.unsqueeze(axis)
    elif call.reduction == "mean":
        divisor, n_rows = _denominators(target, weight, counted, call)
        upstream, upstream_z = upstream / divisor, upstream / n_rows
    input_grad = target_grad = None
    if of_input:
        p = torch.softmax(logits, axis)
        input_grad = upstream * (mass.sum(axis, keepdim=True) * p - mass)
        if call.z_loss:
            lse = torch.logsumexp(logits, axis, keepdim=True)
            if counted is not None:
                lse = lse.where(counted.unsqueeze(axis), 0)
            input_grad = input_grad + upstream_z * (2 * call.z_loss * lse * p)
        if slope is not None:
            input_grad = input_grad * slope
        input_grad = input_grad.to(input.dtype)
    if of_target:
        target_grad = upstream * (call.label_smoothing - 1) * torch.log_softmax(logits, axis)
        if by_class is not None:
            target_grad = target_grad * by_class
        target_grad = target_grad.to(target.dtype)
    return input_grad, target_grad


def _targets(logits: Any, target: Any, by_class: Any, call: LossCall, axis: int) -> tuple[Any, Any]:
    """Return T of the formula, and which rows count; None is all, as with soft labels."""
    counted = None
    if target.is_floating_point():
        mass = target.to(logits.dtype)
    else:
        counted = target != call.ignore_index
        label = target.long().where(counted, 0)
        mass = torch.zeros_like(logits).scatter(axis, label.unsqueeze(axis), 1)
    mass = (1 - call.label_smoothing) * mass + call.label_smoothing / logits.shape[axis]
    if by_class is not None:
        mass = mass * by_class
    if counted is not None:
        mass = mass * counted.unsqueeze(axis)
    return mass, counted


def _denominators(target: Any, weight: Any, counted: Any, call: LossCall) -> tuple[Any, Any]:
    """Return the divisors of the mean: that of the loss, and that of its z-loss."""
    if call.denominator is not None:
        return call.denominator, call.denominator
    if counted is None:
        n_classes = target.shape[min(1, target.dim() - 1)]
        n_rows = target.numel() // n_classes
        return n_rows, n_rows
    n_rows = counted.sum()
    divisor = n_rows
    if weight is not None:
        divisor = (weight[target.long().where(counted, 0)] * counted).sum()
    # Where nothing counts, every gradient is 0.
    return divisor.where(divisor != 0, 1), n_rows.where(n_rows != 0, 1)
