"""The public function, and which calls the kernels compute."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn import functional

from softmax_ce.torch import eager, operator, plain
from softmax_ce.torch.call import DTYPES, LABELS, LossCall

# The elements below which PyTorch computes calls with labels and without smoothing. For plain calls, the kernels and
# their node of Python then take as long as PyTorch's two operations. Other calls take some 40 us more, or 130 us where
# softmax_ce's short calls do not apply. On two threads, the kernels save 0.6 ns or more an element. With smoothing, or
# with soft labels, PyTorch's own step takes longer, too.
SMALL = 1 << 12
SMALL_BY_ARRAYS = 1 << 16
SMALL_IN_FULL = 1 << 18

_TENSORS = (torch.Tensor, torch.nn.Parameter)  # no subclass, which may give the operations a meaning of its own
_NUMBERS = {"none": 0, "mean": 1, "sum": 2}
_HALVES = (torch.float16, torch.bfloat16)
_pytorchs = torch._C._nn.cross_entropy_loss  # what torch.nn.functional.cross_entropy calls
_is_exporting = torch.compiler.is_exporting


def cross_entropy(
    input: Any, target: Any, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
    reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0, *, z_loss: float = 0.0,
    softcap: float | None = None, denominator: Any = None, backend: str | None = None,
) -> Any:  # fmt: skip
    """Return the cross-entropy between logits and labels, in place of ``torch.nn.functional.cross_entropy``.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        Logits.
    target : Tensor
        Labels of shape (), (N,) or (N, d1, ...), or probabilities of the input's shape, which may require a gradient.
    weight : Tensor, shape (C,), optional
        Class weights.
    size_average, reduce : bool, optional
        Deprecated, as in PyTorch: use `reduction`.
    ignore_index : int, default -100
        Rows with this label do not count.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over the rows, weighted by `weight` if the targets are labels; their sum; or one loss for each row.
    label_smoothing : float, default 0.0
        In [0, 1]. The target becomes ``(1 - label_smoothing) * onehot + label_smoothing / C``.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp**2`` to the loss of each row that counts.
    softcap : float, optional
        Replaces each logit x by ``softcap * tanh(x / softcap)``.
    denominator : float or Tensor with one element, optional
        Divides the sum in place of the mean's own denominator, for gradient accumulation.
    backend : str, optional
        A backend of softmax_ce. If it is named, its kernels compute small calls, too.

    Returns
    -------
    Tensor
        The loss, of the dtype that PyTorch's function gives: the input's, or float32 for 16-bit input under autocast.

    Raises
    ------
    NotImplementedError
        An option that PyTorch's function lacks, in a call that only PyTorch's function computes.

    Notes
    -----
    The kernels compute calls on dense CPU tensors of float32, float64, bfloat16 and float16. They use at most
    ``torch.get_num_threads()`` threads, and their results do not depend on the number. PyTorch's function computes all
    other calls, and reports wrong arguments: see ``softmax_ce.torch``.

    Examples
    --------
    >>> import torch
    >>> from softmax_ce.torch import cross_entropy
    >>> logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0]), z_loss=1e-4)
    >>> loss.backward()
    >>> print(round(loss.item(), 4), logits.grad)
    0.4082 tensor([[-0.3345,  0.2448,  0.0901]])
    """
    if (
        label_smoothing == 0 and z_loss == 0 and softcap is None and denominator is None and backend is None
        and size_average is None and reduce is None and reduction in _NUMBERS
    ):  # fmt: skip
        # For small calls, these are the only steps. A frame of their own would cost 1 % of a step.
        if input.numel() < SMALL and not target.is_floating_point() and not _is_exporting():
            return _pytorchs(input, target, weight, _NUMBERS[reduction], ignore_index, 0.0)
        loss = _without_options(input, target, weight, ignore_index, reduction)
        if loss is not None:
            return loss
    if size_average is not None or reduce is not None:
        reduction = _reduction(size_average, reduce)
    extended = z_loss != 0 or softcap is not None or denominator is not None or backend is not None
    call = LossCall(ignore_index, reduction, label_smoothing, z_loss, softcap, denominator, backend, _loss_dtype(input))
    # Arguments that PyTorch refuses are left to its function, or, with an option that it lacks, to the kernels.
    if _fits(input, target, weight, call.loss_dtype) and (extended or _is_valid(input, target, weight, call)):
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
            return operator.compute(input, target, weight, call)
        if _has_values(input, target, weight):
            if denominator is not None:
                call = call._replace(denominator=float(denominator))
            return eager.compute(input, target, weight, call)
    if extended:
        _refuse(input, z_loss=z_loss, softcap=softcap, denominator=denominator, backend=backend)
    return functional.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


def _reduction(size_average: bool | None, reduce: bool | None) -> str:
    """Return the reduction that the deprecated arguments name."""
    reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(f"size_average and reduce are deprecated; give reduction={reduction!r}", stacklevel=3)
    return reduction


def _without_options(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> Any:
    """Return the loss of a plain call, or of a small one. Return None for any other."""
    is_compiling = torch.compiler.is_compiling()
    if weight is None and type(input) in _TENSORS and type(target) in _TENSORS and not is_compiling:
        loss = plain.attempt(input, target, ignore_index, reduction)
        if loss is not None:
            return loss
    # An exported program is for tensors of other sizes, too.
    size = input.numel()
    if size >= SMALL_IN_FULL or target.is_floating_point() or _is_exporting():
        return None
    # What a compiler calls is an operator in Python, which takes some 500 us a step.
    if size < SMALL_BY_ARRAYS or input.dim() != 2 or input.dtype in _HALVES or is_compiling:
        return _pytorchs(input, target, weight, _NUMBERS[reduction], ignore_index, 0.0)
    return None


def _loss_dtype(input: Any) -> Any:
    if input.dtype in _HALVES and torch.is_autocast_enabled("cpu"):
        return torch.float32
    return input.dtype


def _fits(input: Any, target: Any, weight: Any, loss_dtype: Any) -> bool:
    """Return whether these are tensors that the kernels can read, with labels for every row or class."""
    dtype, kind = input.dtype, target.dtype
    if dtype not in DTYPES or not (input.is_cpu and target.is_cpu):
        return False
    if input.layout is not torch.strided or target.layout is not torch.strided:
        return False
    if kind in LABELS:
        fits = target.dim() + 1 == input.dim()
    else:
        fits = target.dim() == input.dim() > 0 and (kind is dtype or kind is loss_dtype)
    return fits and (weight is None or _is_weight(weight, dtype, loss_dtype))


def _is_weight(weight: Any, *dtypes: Any) -> bool:
    return weight.is_cpu and weight.layout is torch.strided and weight.dtype in dtypes and not weight.requires_grad


def _is_valid(input: Any, target: Any, weight: Any, call: LossCall) -> bool:
    """Return whether shapes and options are those of a valid call."""
    if target.dtype in LABELS:
        fits = target.shape == input.shape[:1] + input.shape[2:] if input.dim() > 1 else True
    else:
        fits = target.shape == input.shape and call.ignore_index < 0
    if weight is not None and weight.shape != input.shape[1:2] and input.dim() > 1:
        return False
    return fits and call.reduction in _NUMBERS and 0 <= call.label_smoothing <= 1


def _has_values(input: Any, target: Any, weight: Any) -> bool:
    """Return whether the tensors are plain memory: not traced, transformed or with forward-mode derivatives."""
    return (
        type(input) in _TENSORS
        and type(target) in _TENSORS
        and (weight is None or type(weight) in _TENSORS)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
    )


def _refuse(input: Any, **options: Any) -> None:
    """Raise the error for options that PyTorch's function lacks."""
    names = ", ".join(name for name, value in options.items() if value)
    needs = "dense CPU tensors of float32, float64, float16 or bfloat16, with labels and weights that fit"
    if input.dtype is torch.bfloat16 and torch.bfloat16 not in DTYPES:
        needs = "the package ml_dtypes for bfloat16 (pip install 'softmax-ce[torch]')"
    raise NotImplementedError(
        f"PyTorch's cross_entropy has no {names}, and softmax_ce's kernels need {needs}, outside of torch.func "
        f"transforms and forward-mode derivatives; got {input.dtype} on {input.device}"
    )
