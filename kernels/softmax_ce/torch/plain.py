"""Plain calls: labels, contiguous tensors and no options. They have the fewest steps between PyTorch and the kernel.

A step on few logits takes as long as the Python code around the kernel. So no arrays are made of the tensors, but the
kernel gets their addresses; and the gradient is a tensor of PyTorch's, because the memory of an array takes 6 us more
to free. The kernel runs on PyTorch's own threads, which are awake, or even spin, after each parallel operation of
PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch.autograd import forward_ad

from softmax_ce import forks
from softmax_ce.choice import auto
from softmax_ce.contract import Backend
from softmax_ce.torch import buffers, eager
from softmax_ce.torch.call import DTYPES, LossCall, as_array, gradient_memory

_LARGE = buffers.LARGE // 8  # elements
_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
_HALVES = (torch.float16, torch.bfloat16)

# Bound once: a step on few logits takes some thirty of such calls.
_is_grad_enabled = torch.is_grad_enabled
_has_transforms = torch._C._are_functorch_transforms_active
_count_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_float_at = ctypes.c_float.from_address


def _parallel_for() -> int:
    """Return the address of the function that runs a task on PyTorch's threads, or 0."""
    try:
        function = ctypes.CDLL(torch._C.__file__).torch_parallel_for  # of PyTorch's stable ABI
    except (OSError, AttributeError, TypeError):  # TypeError: a stand-in for PyTorch, while documentation is built
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Threads:
    """Where PyTorch's threads are found. A forked child has none of them: OpenMP would wait for them forever."""

    parallel_for = _parallel_for()

    @classmethod
    def forget(cls) -> None:
        cls.parallel_for = 0


forks.in_child(_Threads.forget)


def attempt(input: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    """Return the loss, or None for a call that is not plain. The arguments are tensors of no subclass."""
    name = _NAMES.get(input.dtype)
    if name is None:
        return None
    try:
        if not (
            target.dtype is torch.int64 and input.is_contiguous() and target.is_contiguous() and input.is_cpu
            and target.is_cpu and not input.is_neg() and not target.is_neg()
            and not _has_transforms() and not _count_modes() and forward_ad._current_level < 0
            and _tracing_state() is None
        ):  # fmt: skip
            return None
        addresses = input.data_ptr(), target.data_ptr()
    except RuntimeError:  # a tensor without memory of its own: it is sparse, or has left a transform
        return None
    if 0 in addresses or type(reduction) is not str or type(ignore_index) is not int:
        return None  # a tensor of zeros may have no memory either
    needs_grad = _is_grad_enabled() and input.requires_grad
    size, threads, parallel_for = input.numel(), torch.get_num_threads(), _Threads.parallel_for
    chosen = auto.fixed or _chosen(input, needs_grad, threads)
    if chosen is None or chosen.short is None or chosen.short.addressed is None:
        return None
    if threads > 1 and not parallel_for:
        if size >= chosen.info.serial_elements:
            return None
        threads = 1
    grad = None
    if needs_grad:
        grad = torch.empty_like(input) if size < _LARGE else gradient_memory(input)
    shape = target.shape if reduction == "none" else ()
    is_half = input.dtype in _HALVES
    loss = torch.empty(shape, dtype=torch.float32, device="cpu") if is_half else input.new_empty(shape)
    if not chosen.short.addressed(
        addresses[0], input.shape, name, addresses[1], target.shape, ignore_index, reduction, loss.data_ptr(),
        0 if grad is None else grad.data_ptr(), threads, parallel_for,
    ):  # fmt: skip
        return None
    if is_half and not torch.is_autocast_enabled("cpu"):
        loss = loss.to(input.dtype)
    if grad is None:
        return loss
    return _apply(input, target, _options(ignore_index, reduction, loss.dtype), [loss], [grad])


def _chosen(input: Any, needs_grad: bool, threads: int) -> Backend | None:
    """Return the backend that a profile chooses, or that of every call if this is the first one."""
    size, n_classes = input.numel(), input.shape[1] if input.dim() > 1 else 0
    if size == 0 or n_classes == 0:
        return None
    return auto.choose(None, True, needs_grad, as_array(input).dtype, size // n_classes, n_classes, threads)


@functools.lru_cache(maxsize=64)
def _options(ignore_index: int, reduction: str, loss_dtype: Any) -> LossCall:
    return LossCall(ignore_index, reduction, 0.0, 0.0, None, None, None, loss_dtype)


class _PlainCrossEntropy(torch.autograd.Function):
    """The node of a plain call. Loss and gradient have been computed before it is made."""

    @staticmethod
    def forward(ctx: Any, input: Any, target: Any, call: LossCall, loss: list[Any], grad: list[Any]) -> Any:
        ctx.save_for_backward(input, target)
        ctx.call = call
        ctx.grad = grad
        return loss[0]

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        if ctx.grad and not _is_grad_enabled() and _is_one(upstream):
            try:
                return ctx.grad.pop(), None, None, None, None
            except IndexError:  # another thread took it
                pass
        input_grad, _ = eager.gradients(ctx, upstream, True, False)
        return input_grad, None, None, None, None


_apply = eager.apply_of(_PlainCrossEntropy)


def _is_one(upstream: Any) -> bool:
    """Return whether an upstream gradient is surely the number 1, in float32."""
    if not (
        type(upstream) is torch.Tensor and upstream.dtype is torch.float32 and upstream.dim() == 0 and upstream.is_cpu
        and upstream.layout is torch.strided and not eager.is_traced(upstream) and not upstream.is_neg()
    ):  # fmt: skip
        return False
    address = upstream.data_ptr()  # 0: a tensor of zeros that has no memory
    return address != 0 and _float_at(address).value == 1.0
