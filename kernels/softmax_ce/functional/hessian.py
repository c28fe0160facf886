"""The loss, its gradient and the diagonal of its Hessian in one call."""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

from numpy.typing import ArrayLike

from softmax_ce.evaluation import evaluate_with_hessian
from softmax_ce.options import Array, HessianOptions, OnEmpty, Options, Reduction, Scalar, ScalarReduction


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: ScalarReduction = ...,
    return_lse: Literal[False] = ...,
    return_correct: Literal[False] = ...,
    out: None = ...,
    lse_out: None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Scalar, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_lse: Literal[False] = ...,
    return_correct: Literal[False] = ...,
    out: Array | None = ...,
    lse_out: None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Array, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: ScalarReduction = ...,
    return_lse: Literal[True],
    return_correct: Literal[False] = ...,
    out: None = ...,
    lse_out: Array | None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Scalar, Array, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_lse: Literal[True],
    return_correct: Literal[False] = ...,
    out: Array | None = ...,
    lse_out: Array | None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Array, Array, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: ScalarReduction = ...,
    return_lse: Literal[False] = ...,
    return_correct: Literal[True],
    out: None = ...,
    lse_out: None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Scalar, Array, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_lse: Literal[False] = ...,
    return_correct: Literal[True],
    out: Array | None = ...,
    lse_out: None = ...,
    **options: Unpack[HessianOptions],
) -> tuple[Array, Array, Array, Array]: ...


@overload
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Reduction = ...,
    return_lse: bool = ...,
    return_correct: bool = ...,
    out: Array | None = ...,
    lse_out: Array | None = ...,
    **options: Unpack[HessianOptions],
) -> Any: ...
def cross_entropy_with_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    denominator: float | None = None,
    on_empty: OnEmpty = "nan",
    axis: int = -1,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    where: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
    return_lse: bool = False,
    return_correct: bool = False,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
    grad_out: Array | None = None,
    hess_out: Array | None = None,
    lse_out: Array | None = None,
) -> Any:
    """Compute the loss, its gradient and the diagonal of its Hessian with respect to the logits.

    The Hessian of a row is ``r * ((a + 2 * z_loss * lse) * p * (1 - p) + 2 * z_loss * p**2)``, where p is the softmax,
    r the row's weight times the upstream gradient, and a the sum of the row's targets: 1 without class weights. It is
    computed without cancellation for p near 1.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities, in nats. The classes lie on `axis`. float32 and float64 are computed as
        they are, float16 and bfloat16 in float32, and integers in float64.
    targets : array_like
        Hard labels: integers, in the logits' shape without the class axis. Or soft labels: real numbers, in the
        logits' shape, computed in the logits' precision.
    weight : array_like, shape (C,), optional
        Class weights: finite, of either sign.
    sample_weight : array_like, optional
        One weight for each row, in the shape of the "none" loss: finite, of either sign. It multiplies the row's
        loss, so a label at a logit of -inf has the loss -inf under a negative weight.
    ignore_index : int, default -100
        Rows with this label do not count. It may lie in [0, C) or outside.
    label_smoothing : float, default 0.0
        In [0, 1]. The target becomes ``(1 - label_smoothing) * onehot + label_smoothing / C``.
    z_loss : float, default 0.0
        Adds ``z_loss * logsumexp**2`` to the loss of each row that counts.
    reduction : {"mean", "sum", "none"}, default "mean"
        With hard labels, "mean" divides by the sum of ``sample_weight * weight[label]`` over the rows that count;
        with soft labels, by the sum of `sample_weight`, as PyTorch does. The z-loss is divided by the sum of
        `sample_weight`. If the weights sum to exactly 0, no row counts.
    denominator : float, optional
        Divides the sum in place of the mean's own denominator, for gradient accumulation. Positive; for
        ``reduction="mean"`` only.
    on_empty : {"nan", "zero", "raise"}, default "nan"
        What "mean" gives if no row counts: all are ignored, or their weights sum to 0.
    axis : int, default -1
        The class axis.
    logit_scale : float, default 1.0
        Multiplies the logits: the inverse of a temperature. Positive. The gradient and the Hessian are with respect to
        the logits as given.
    softcap : float, optional
        Must be None: the Hessian is not available with a cap.
    where : array_like of bool, optional
        The classes that take part, in the shape (C,) or that of the logits. A class that is left out counts as a logit
        of -inf, whatever its logit is; its gradient and Hessian are 0, and label smoothing is spread over the other
        classes. If a label is left out, the loss is infinite.
    grad_output : float or array_like, optional
        The upstream gradient: a scalar, or with ``reduction="none"`` also one number for each row.
    return_lse : bool, default False
        Also return the log-sum-exp of each row: that of the logits after `logit_scale`, `softcap` and `where`.
    return_correct : bool, default False
        Also return, as the last result, whether each row's label is its first maximum, as ``numpy.argmax`` finds it.
        It is False for an ignored label and for a row with a NaN. For hard labels only.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically:
        :func:`softmax_ce.explain` says which and why.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer for the loss: a 0-d array for a scalar loss.
    grad_out : ndarray, optional
        A buffer for the gradient, in the logits' shape and dtype (float32 is valid for every dtype).
        ``grad_out=logits`` computes the gradient in place.
    hess_out : ndarray, optional
        A buffer for the Hessian, in the logits' shape and dtype (float32 is valid for every dtype).
    lse_out : ndarray, optional
        A buffer for the log-sum-exp, in the shape of the "none" loss. If given, the log-sum-exp is also returned.

    Returns
    -------
    (loss, grad, hess[, lse][, correct])
        The loss and the optional results are those of :func:`cross_entropy`. The gradient and the Hessian have the
        logits' shape and dtype (float64 for integer logits).

    Raises
    ------
    ValueError
        Shapes that do not match, an option's value that is not allowed, or a buffer that does not fit.
    TypeError
        A dtype that is not supported, or a masked array.
    IndexError
        A label outside [0, C) that is not ignored. No output has been written.
    BackendUnavailableError
        The backend that was named cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> import softmax_ce as sce
    >>> loss, grad, hess = sce.cross_entropy_with_hessian(np.array([[2.0, 1.0, 0.0]]), [0])
    >>> print(loss.round(4), grad.round(4), hess.round(4))
    0.4076 [[-0.3348  0.2447  0.09  ]] [[0.2227 0.1848 0.0819]]
    """
    options = Options(
        weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction, denominator, on_empty, axis,
        grad_output, return_lse, threads, out, grad_out, lse_out, logit_scale, softcap, where, return_correct,
    )  # fmt: skip
    return evaluate_with_hessian(logits, targets, backend, options, hess_out)
