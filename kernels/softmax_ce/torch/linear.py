"""The loss of a linear layer on tensors, in blocks within a budget of memory, with PyTorch's matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from softmax_ce.keywords import given
from softmax_ce.linear.evaluation import evaluate_linear
from softmax_ce.linear.run import Gradients
from softmax_ce.options import LinearOptions, Options
from softmax_ce.torch.call import DTYPES, as_array, as_tensor


def linear_cross_entropy(
    input: Any, linear_weight: Any, target: Any, *, linear_bias: Any = None, weight: Any = None,
    reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0, options: Any = None,
    z_loss: float = 0.0, softcap: float | None = None, denominator: float | None = None,
    memory: int | str = "256MiB", backend: str | None = None,
) -> Any:  # fmt: skip
    """Return the cross-entropy of a linear layer, in place of ``torch.nn.functional.linear_cross_entropy``.

    Parameters
    ----------
    input : Tensor, shape (D,) or (N, D)
        The layer's inputs.
    linear_weight : Tensor, shape (C, D)
        The layer's weight. PyTorch's own function computes weights of more dimensions.
    target : Tensor
        Labels of shape () or (N,), or probabilities of shape (C,) or (N, C).
    linear_bias : Tensor, shape (C,), optional
        The layer's bias.
    weight : Tensor, shape (C,), optional
        Class weights.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over the rows, weighted by `weight` if the targets are labels; their sum; or one loss for each row.
    ignore_index : int, optional
        Rows with this label do not count. By default -100, for labels.
    label_smoothing : float, default 0.0
        In [0, 1]. The target becomes ``(1 - label_smoothing) * onehot + label_smoothing / C``.
    options : LinearCrossEntropyOptions, optional
        For PyTorch's own function, which then computes the call.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp**2`` to the loss of each row that counts.
    softcap : float, optional
        Replaces each logit x by ``softcap * tanh(x / softcap)``.
    denominator : float, optional
        Divides the sum in place of the mean's own denominator, for gradient accumulation.
    backend : str, optional
        A backend of softmax_ce.
    memory : int or str, default "256MiB"
        The most memory to use beyond arguments and results: see :func:`softmax_ce.linear_cross_entropy`.

    Returns
    -------
    Tensor
        The loss, of the input's dtype.

    Raises
    ------
    NotImplementedError
        An option that PyTorch's function lacks, in a call that only PyTorch's function computes.

    Notes
    -----
    If a gradient will be needed, it is computed together with the loss, so that no logits are kept. With
    ``reduction="none"``, the backward pass computes the logits again. 16-bit tensors are multiplied as they are, and
    gradients are summed in float32.
    """
    extended = {"z_loss": z_loss or None, "softcap": softcap, "denominator": denominator, "backend": backend}
    if options is not None or not _fits(input, linear_weight, target, linear_bias, weight):
        if any(value is not None for value in extended.values()):
            names = ", ".join(name for name, value in extended.items() if value is not None)
            raise NotImplementedError(
                f"PyTorch's linear_cross_entropy has no {names}, and softmax_ce needs dense CPU tensors, an input of "
                "shape (D,) or (N, D), a weight of shape (C, D) and no `options`"
            )
        return functional.linear_cross_entropy(
            input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
            ignore_index=ignore_index, label_smoothing=label_smoothing, options=options,
        )  # fmt: skip
    call = given(
        LinearOptions,
        {
            "weight": None if weight is None else as_array(weight), "reduction": reduction,
            "ignore_index": -100 if ignore_index is None else ignore_index, "label_smoothing": label_smoothing,
            "z_loss": z_loss, "softcap": softcap, "denominator": denominator, "threads": torch.get_num_threads(),
        },
    )  # fmt: skip
    return _LinearCrossEntropy.apply(input, linear_weight, linear_bias, target, call, memory, backend)


def _fits(input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any) -> bool:
    """Return whether the kernels and this module compute a call."""
    tensors = [tensor for tensor in (input, linear_weight, target, linear_bias, weight) if tensor is not None]
    if not all(tensor.is_cpu and tensor.layout is torch.strided for tensor in tensors):
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    same = all(t.dtype is input.dtype for t in (linear_weight, linear_bias, weight) if t is not None)
    return (
        same and input.dtype in DTYPES and linear_weight.dim() == 2 and input.dim() in (1, 2)
        and not (weight is not None and weight.requires_grad) and not target.requires_grad
        and (target.dtype is torch.int64 or target.dtype is input.dtype)
    )  # fmt: skip


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Any, linear_weight: Any, bias: Any, target: Any, options: Options, memory: Any,
        backend: str | None,
    ) -> Any:  # fmt: skip
        needs_grad = any(ctx.needs_input_grad[:3])
        ctx.arguments = (options, memory, backend)
        ctx.save_for_backward(input, linear_weight, bias, target)
        now = needs_grad and options.reduction != "none"
        loss, *grads = _evaluate(input, linear_weight, bias, target, options, memory, backend, now)
        ctx.grads = grads if now else None
        return as_tensor(loss, input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Any) -> Any:
        input, linear_weight, bias, target = ctx.saved_tensors
        options, memory, backend = ctx.arguments
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # for each row's own upstream gradient; or in a second backward pass
            options = options._replace(grad_output=upstream.double().numpy())
            _, *grads = _evaluate(input, linear_weight, bias, target, options, memory, backend, True)
        elif upstream.item() != 1.0:
            grads = [np.multiply(grad, upstream.item(), out=grad) for grad in grads]
        wanted = [None, None, None]
        for k, (grad, tensor) in enumerate(zip(grads, (input, linear_weight, bias), strict=False)):
            if ctx.needs_input_grad[k]:
                wanted[k] = torch.from_numpy(grad).to(tensor.dtype)
        return *wanted, None, None, None, None


def _evaluate(
    input: Any, weight: Any, bias: Any, target: Any, options: Options, memory: Any, backend: str | None,
    want_grad: bool,
) -> Any:  # fmt: skip
    """Return the loss, and the gradients if they are wanted, as arrays."""

    def layer(hidden: Any, matrix: Any, offset: Any, dtype: np.dtype[Any], columns: int) -> _TensorLayer:
        return _TensorLayer(input.detach(), weight.detach(), offset, columns)

    found = evaluate_linear(
        as_array(input), as_array(weight), None if bias is None else as_array(bias), as_array(target), options,
        backend, memory, want_grad, Gradients(), layer,
    )  # fmt: skip
    return found if isinstance(found, tuple) else (found,)


class _TensorLayer:
    """The products of :class:`softmax_ce.linear.products.Layer`, by PyTorch."""

    def __init__(self, input: Any, weight: Any, bias: Any, columns: int) -> None:
        self._input = input if input.dim() == 2 else input[None]
        self._weight, self._bias, self._columns = weight, bias, columns
        self._is_wide = input.dtype in (torch.float32, torch.float64)

    def hidden(self, rows: Any) -> Any:
        """Return rows of the input."""
        return self._input[rows if isinstance(rows, slice) else torch.from_numpy(rows)]

    def logits(self, hidden: Any, first: int, stop: int, out: Any) -> None:
        """Write the logits of the classes [first, stop)."""
        result = torch.from_numpy(out)
        if self._is_wide:
            torch.mm(hidden, self._weight[first:stop].T, out=result)
        else:
            for begin, end in self._blocks(first, stop):
                result[:, begin - first : end - first] = hidden @ self._weight[begin:end].T
        if self._bias is not None:
            out += self._bias[first:stop]

    def add_grad_hidden(self, grad: Any, first: int, stop: int, out: Any, is_first: bool) -> None:
        """Write, or add, the gradient by rows of the input."""
        result, given = torch.from_numpy(out), torch.from_numpy(grad)
        if self._is_wide:
            result.addmm_(given, self._weight[first:stop], beta=0 if is_first else 1)
            return
        for begin, end in self._blocks(first, stop):
            part = given[:, begin - first : end - first].to(self._weight.dtype) @ self._weight[begin:end]
            if is_first and begin == first:
                result.copy_(part)
            else:
                result.add_(part)

    def add_grad_weight(self, grad: Any, hidden: Any, first: int, stop: int, out: Any, is_first: bool) -> None:
        """Write, or add, the gradient by the weight of the classes [first, stop)."""
        result, given = torch.from_numpy(out), torch.from_numpy(grad)
        if self._is_wide:
            result[first:stop].addmm_(given.T, hidden, beta=0 if is_first else 1)
            return
        for begin, end in self._blocks(first, stop):
            part = given[:, begin - first : end - first].to(hidden.dtype).T @ hidden
            if is_first:
                result[begin:end] = part
            else:
                result[begin:end] += part

    def _blocks(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return ranges of classes of which a 16-bit product is converted at a time."""
        return [(begin, min(begin + self._columns, stop)) for begin in range(first, stop, self._columns)]
