"""Calls as they run without a compiler: the kernels read the tensors' memory, and autograd gets one node."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from softmax_ce.torch import formula
from softmax_ce.torch.call import LossCall, gradient, loss_alone, loss_and_gradient


def compute(input: Any, target: Any, weight: Any, call: LossCall) -> Any:
    """Return the loss. If it will be differentiated, its gradient is computed with it, and autograd gets to know it."""
    if not torch.is_grad_enabled() or not (input.requires_grad or target.requires_grad):
        return loss_alone(input, target, weight, call)
    if not input.requires_grad:
        return _apply(input, target, weight, call, [loss_alone(input, target, weight, call)], [])
    loss, grad = loss_and_gradient(input, target, weight, call)
    return _apply(input, target, weight, call, [loss], [grad])


class _CrossEntropy(torch.autograd.Function):
    """The node of autograd's graph. Loss and gradient have been computed before it is made."""

    @staticmethod
    def forward(
        ctx: Any, input: Any, target: Any, weight: Any, call: LossCall, loss: list[Any], grad: list[Any]
    ) -> Any:
        if weight is None:
            ctx.save_for_backward(input, target)
        else:
            ctx.save_for_backward(input, target, weight)
        ctx.call = call
        ctx.grad = grad  # until the first backward pass takes it out
        return loss[0]  # an argument that is a tensor would be returned as a view of itself

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        return *gradients(ctx, upstream, *ctx.needs_input_grad[:2]), None, None, None, None


def apply_of(function: Any) -> Any:
    """Return ``function.apply`` without its steps for transforms, none of which is active here. They take 6 us."""
    base: Any = torch.autograd.Function
    is_class = isinstance(base, type)  # else a stand-in for PyTorch, while documentation is built
    return super(base, function).apply if is_class else None


_apply = apply_of(_CrossEntropy)


def gradients(ctx: Any, upstream: Any, of_input: bool, of_target: bool) -> tuple[Any, Any]:
    """Return the gradients with respect to the input and to soft labels; None for one that is not wanted."""
    if torch.is_grad_enabled() or is_traced(upstream):
        return formula.gradients(upstream, *_saved(ctx), ctx.call, of_input, of_target)
    input_grad = _input_gradient(ctx, upstream) if of_input else None
    target_grad = None
    if of_target:
        _, target_grad = formula.gradients(upstream, *_saved(ctx), ctx.call, False, True)
    return input_grad, target_grad


def _input_gradient(ctx: Any, upstream: Any) -> Any:
    """Return the gradient with respect to the input.

    The gradient that was computed with the loss is handed out, not copied, so autograd may keep it as `.grad`, and it
    can be scaled in place. Another backward pass through the same graph computes it again, with the same bits.
    """
    try:
        grad = ctx.grad.pop()
    except IndexError:
        grad = None
    is_one = _is_one(upstream)
    if grad is None or (grad.dtype is torch.float16 and not is_one):
        saved = _saved(ctx)
        if saved[0].dtype is torch.float16:  # it might underflow before a scaled loss lifts it
            return gradient(upstream, *saved, ctx.call)
        grad = gradient(None, *saved, ctx.call)
    if is_one:
        return grad
    return grad.mul_(upstream if upstream.dim() == 0 or grad.dim() == 1 else upstream.unsqueeze(1))


def _is_one(upstream: Any) -> bool:
    """Return whether every upstream gradient is known to be 1. The gradient of a sum is one number, expanded."""
    if upstream.dim() == 0:
        return upstream.item() == 1.0
    return upstream.numel() > 0 and not any(upstream.stride()) and upstream.flatten()[0].item() == 1.0


def _saved(ctx: Any) -> tuple[Any, Any, Any]:
    input, target, *weight = ctx.saved_tensors
    return input, target, weight[0] if weight else None


def is_traced(upstream: Any) -> bool:
    """Return whether this may be more than plain memory.

    It is under vmap (`is_grads_batched`), while a backward pass is compiled, and where it may have a tangent.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(upstream)
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
    )
