"""The loss and its gradient as operators of PyTorch, for `torch.compile`, `torch.export` and dispatch modes.

Both are opaque to a compiler. The loss is computed in the forward pass and the gradient in the backward pass, with the
upstream gradient: between them, only the logits are kept.
"""

from __future__ import annotations

from typing import Any

import torch

from softmax_ce.torch import call as kernels
from softmax_ce.torch import formula
from softmax_ce.torch.call import LossCall

_OPTIONS = (
    "int ignore_index, str reduction, float label_smoothing, float z_loss, float? softcap, float? denominator, "
    "str? backend, ScalarType loss_dtype"
)
_LOSS = f"(Tensor input, Tensor target, Tensor? weight, {_OPTIONS}) -> Tensor"
_GRADIENT = f"(Tensor upstream, Tensor input, Tensor target, Tensor? weight, {_OPTIONS}) -> Tensor"


def compute(input: Any, target: Any, weight: Any, call: LossCall) -> Any:
    """Return the loss. A denominator may be a tensor, whose value a compiler does not know."""
    denominator = call.denominator
    if not isinstance(denominator, torch.Tensor):
        return cross_entropy(input, target, weight, *call)
    if call.reduction != "mean":
        raise ValueError(f'denominator goes with reduction="mean" only, got reduction={call.reduction!r}')
    return cross_entropy(input, target, weight, *call._replace(reduction="sum", denominator=None)) / denominator


def _loss(input: Any, target: Any, weight: Any, *options: Any) -> Any:
    return kernels.loss_alone(input, target, weight, LossCall(*options))


def _gradient(upstream: Any, input: Any, target: Any, weight: Any, *options: Any) -> Any:
    grad = kernels.gradient(upstream, input, target, weight, LossCall(*options))
    strides = torch.empty_like(input, device="meta").stride()
    if grad.stride() == strides:
        return grad
    # The operator's fake promises these strides, and another rule made the gradient's: the input overlaps itself.
    return torch.empty_like(input).copy_(grad)


cross_entropy = torch.library.custom_op("softmax_ce::cross_entropy", _loss, mutates_args=(), schema=_LOSS)
cross_entropy_grad = torch.library.custom_op(
    "softmax_ce::cross_entropy_grad", _gradient, mutates_args=(), schema=_GRADIENT
)


@cross_entropy.register_fake
def _(input: Any, target: Any, weight: Any, *options: Any) -> Any:
    call = LossCall(*options)
    shape: Any = ()
    if call.reduction == "none":
        shape = target.shape
        if target.is_floating_point():
            shape = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
    return input.new_empty(shape, dtype=call.loss_dtype)


@cross_entropy_grad.register_fake
def _(upstream: Any, input: Any, target: Any, weight: Any, *options: Any) -> Any:
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.call = LossCall(*inputs[3:])


def _backward(ctx: Any, upstream: Any) -> Any:
    input, target, weight = ctx.saved_tensors
    of_input, of_target = ctx.needs_input_grad[:2]
    input_grad = target_grad = None
    if torch.is_grad_enabled():
        input_grad, target_grad = formula.gradients(upstream, input, target, weight, ctx.call, of_input, of_target)
    else:
        if of_input:
            input_grad = cross_entropy_grad(upstream, input, target, weight, *ctx.call)
        if of_target:
            _, target_grad = formula.gradients(upstream, input, target, weight, ctx.call, False, True)
    return input_grad, target_grad, *[None] * (1 + len(ctx.call))


cross_entropy.register_autograd(_backward, setup_context=_setup_context)
