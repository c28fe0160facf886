"""The options of one call, and the kernels' results for tensors as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

import softmax_ce as sce
from softmax_ce.dtypes import is_bfloat16
from softmax_ce.torch import buffers

BFLOAT16: np.dtype[Any] | None
try:
    from ml_dtypes import bfloat16
except ImportError:
    BFLOAT16 = None
else:
    BFLOAT16 = np.dtype(bfloat16)  # torch.Tensor.numpy and torch.from_numpy do not know it: it passes as int16

DTYPES = frozenset((torch.float32, torch.float64, torch.float16, *([torch.bfloat16] if BFLOAT16 else [])))
LABELS = frozenset((torch.int64, torch.uint8))  # as PyTorch's own function


class LossCall(NamedTuple):
    """The options of one call, as numbers, words and a dtype."""

    ignore_index: int
    reduction: str
    label_smoothing: float
    z_loss: float
    softcap: float | None
    denominator: Any  # float or None, or a tensor until the call is made
    backend: str | None
    loss_dtype: Any

    def given(self, weight: Any) -> dict[str, Any]:
        """Return the arguments for softmax_ce's functions."""
        given: dict[str, Any] = {
            "ignore_index": self.ignore_index, "reduction": self.reduction, "label_smoothing": self.label_smoothing,
            "z_loss": self.z_loss, "denominator": self.denominator, "backend": self.backend,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        if weight is not None:
            given["weight"] = rows(weight)
        if self.softcap is not None:
            given["softcap"] = self.softcap
        return given


def loss_alone(input: Any, target: Any, weight: Any, call: LossCall) -> Any:
    """Return the loss."""
    return as_tensor(sce.cross_entropy(rows(input), rows(target), **call.given(weight)), call.loss_dtype)


def loss_and_gradient(input: Any, target: Any, weight: Any, call: LossCall) -> tuple[Any, Any]:
    """Return the loss and its gradient, from one fused call."""
    x = rows(input)
    memory, out = _memory(x)
    loss, grad = sce.cross_entropy_with_grad(x, rows(target), grad_out=out, **call.given(weight))
    return as_tensor(loss, call.loss_dtype), _gradient_tensor(grad if memory is None else memory)


def gradient(upstream: Any, input: Any, target: Any, weight: Any, call: LossCall) -> Any:
    """Return the gradient of the loss, times the upstream gradient; None is 1."""
    x = rows(input)
    memory, out = _memory(x)
    if upstream is not None:
        upstream = upstream.to(torch.promote_types(upstream.dtype, torch.float32)).contiguous().numpy()
    grad = sce.cross_entropy_grad(x, rows(target), grad_output=upstream, grad_out=out, **call.given(weight))
    return _gradient_tensor(grad if memory is None else memory)


def as_array(tensor: Any) -> Any:
    """Return the memory of a tensor as an array."""
    if tensor.dtype is torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy(force=True)  # what is forced is to leave autograd's graph


def rows(tensor: Any) -> Any:
    """Return the memory of a tensor as an array, with the classes of logits and soft labels on the last axis."""
    array = as_array(tensor)
    if array.ndim <= 2 or tensor.dtype in LABELS:
        return array
    return array.transpose(0, *range(2, array.ndim), 1)


def _memory(x: Any) -> tuple[Any, Any]:
    """Return memory for a gradient in the order of the logits' memory, in a dtype of PyTorch's, and in the kernels'.

    The first is None for memory that is not kept, and both are None where the kernels' own does.
    """
    if x.nbytes >= buffers.LARGE:
        memory = buffers.empty_like(x, np.dtype(np.int16) if is_bfloat16(x.dtype) else x.dtype)
        return memory, memory.view(x.dtype)
    return None, None if x.flags.c_contiguous else np.empty_like(x)


def gradient_memory(input: Any) -> Any:
    """Return an uninitialised tensor for the gradient of contiguous logits."""
    if input.numel() * input.element_size() < buffers.LARGE:
        return torch.empty_like(input, requires_grad=False)
    array = (input.detach().view(torch.int16) if input.dtype is torch.bfloat16 else input.detach()).numpy()
    grad = torch.from_numpy(buffers.empty_like(array, array.dtype))
    return grad.view(torch.bfloat16) if input.dtype is torch.bfloat16 else grad


def _gradient_tensor(grad: Any) -> Any:
    """Return the tensor of a gradient, with the classes on PyTorch's axis."""
    tensor = from_array(grad)
    return tensor if grad.ndim <= 2 else tensor.movedim(-1, 1)


def from_array(array: Any) -> Any:
    """Return the tensor of an array's memory. An array of int16 holds bfloat16."""
    if is_bfloat16(array.dtype):
        array = array.view(np.int16)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.int16 else tensor


def as_tensor(loss: Any, dtype: Any) -> Any:
    """Return a loss as a tensor of this dtype."""
    tensor = torch.from_numpy(np.asarray(loss))
    return tensor if tensor.dtype is dtype else tensor.to(dtype)
