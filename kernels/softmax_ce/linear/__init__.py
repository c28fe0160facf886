"""The loss of a linear layer, computed in blocks, so that the logits are never in memory as a whole."""

from __future__ import annotations

from typing import Any, Unpack

from numpy.typing import ArrayLike

from softmax_ce.keywords import given
from softmax_ce.linear.evaluation import evaluate_linear
from softmax_ce.linear.run import Gradients
from softmax_ce.options import Array, LinearGradOptions, LinearOptions

__all__ = ["linear_cross_entropy", "linear_cross_entropy_with_grad"]


def linear_cross_entropy(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    memory: int | str = "256MiB",
    **options: Unpack[LinearOptions],
) -> Any:
    """Compute the softmax cross-entropy of a linear layer's outputs without holding all of them.

    It is ``cross_entropy(hidden @ linear_weight.T + linear_bias, targets, ...)``, computed in blocks of rows. If the
    logits of one row exceed the budget, the classes are divided into blocks, too. Rows that do not count are left out
    of the matrix product.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The inputs of the layer. float32 and float64 are computed as they are, float16 and bfloat16 in float32.
    linear_weight : array_like, shape (C, D)
        The layer's weight, of a dtype that is computed in the same precision.
    targets : array_like
        Hard labels, in the shape of `hidden` without the last axis. Or soft labels, shape (..., C).
    linear_bias : array_like, shape (C,), optional
        The layer's bias.
    memory : int or str, default "256MiB"
        The most memory to use beyond arguments and results: a number of bytes, or text such as "1GiB". More memory
        makes fewer and larger matrix products.
    **options
        The options of :func:`softmax_ce.cross_entropy`, except `axis`: `weight` (of the classes), `sample_weight`,
        `ignore_index`, `label_smoothing`, `z_loss`, `reduction`, `denominator`, `on_empty`, `logit_scale`, `softcap`,
        `where`, `return_lse`, `return_correct`, `backend`, `threads`, `out` and `lse_out`.

    Returns
    -------
    loss, or a tuple (loss[, lse][, correct])
        The results of :func:`softmax_ce.cross_entropy`.

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument that :func:`softmax_ce.cross_entropy` would refuse, arrays of the layer that do not fit, or a budget
        that is too small. The message then says how many bytes are needed.

    Notes
    -----
    The bits of the result do not depend on `threads`. They may depend on how many threads NumPy's BLAS uses, and on
    `memory`, which decides the shapes of the matrix products.

    Examples
    --------
    >>> import numpy as np
    >>> import softmax_ce as sce
    >>> hidden, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> print(sce.linear_cross_entropy(hidden, weight, [2]).round(4))
    0.4076
    """
    call = given(LinearOptions, options)
    return evaluate_linear(
        hidden, linear_weight, linear_bias, targets, call, options.get("backend"), memory, False, Gradients()
    )


def linear_cross_entropy_with_grad(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    memory: int | str = "256MiB",
    grad_hidden_out: Array | None = None,
    grad_linear_weight_out: Array | None = None,
    grad_linear_bias_out: Array | None = None,
    **options: Unpack[LinearGradOptions],
) -> Any:
    """Compute the loss of a linear layer's outputs, and its gradients, without holding all of the outputs.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The inputs of the layer. float32 and float64 are computed as they are, float16 and bfloat16 in float32.
    linear_weight : array_like, shape (C, D)
        The layer's weight, of a dtype that is computed in the same precision.
    targets : array_like
        Hard labels, in the shape of `hidden` without the last axis. Or soft labels, shape (..., C).
    linear_bias : array_like, shape (C,), optional
        The layer's bias.
    memory : int or str, default "256MiB"
        The most memory to use beyond arguments and results: a number of bytes, or text such as "1GiB". More memory
        makes fewer and larger matrix products.
    grad_hidden_out, grad_linear_weight_out, grad_linear_bias_out : ndarray, optional
        Buffers for the gradients, in the shapes of their arguments and the dtype of the computation.
    **options
        The options of :func:`linear_cross_entropy`, and `grad_output`, the upstream gradient: a scalar, or with
        ``reduction="none"`` also one number for each row.

    Returns
    -------
    tuple (loss, grad_hidden, grad_linear_weight[, grad_linear_bias][, lse][, correct])
        The gradients have the dtype of the computation: float32 for float16 and bfloat16. The gradient of the bias is
        returned if there is a bias.

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument that :func:`linear_cross_entropy` would refuse, or a buffer that does not fit or shares memory with
        an argument.

    Examples
    --------
    >>> import numpy as np
    >>> import softmax_ce as sce
    >>> hidden, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> loss, grad_hidden, grad_weight = sce.linear_cross_entropy_with_grad(hidden, weight, [2])
    >>> print(grad_hidden.round(4), grad_weight.shape)
    [[-0.2447 -0.09  ]] (3, 2)
    """
    call = given(LinearGradOptions, options)
    buffers = Gradients(grad_hidden_out, grad_linear_weight_out, grad_linear_bias_out)
    return evaluate_linear(
        hidden, linear_weight, linear_bias, targets, call, options.get("backend"), memory, True, buffers
    )
