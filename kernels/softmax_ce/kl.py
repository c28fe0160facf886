"""The KL divergence between the softmaxes of two arrays of logits, and its gradient."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Unpack, overload

from numpy.typing import ArrayLike

from softmax_ce.kl_evaluation import evaluate
from softmax_ce.options import Array, Reduction, Scalar, ScalarReduction


class KlOptions(TypedDict, total=False):
    """The options of a KL divergence, except those that decide what it returns."""

    temperature: float
    sample_weight: ArrayLike | None
    axis: int
    backend: str | None
    threads: int | None


class KlGradOptions(KlOptions, total=False):
    """The options of a KL divergence with its gradient."""

    grad_output: ArrayLike | None
    grad_out: Array | None


@overload
def kl_divergence(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: ScalarReduction = ...,
    out: None = ...,
    **options: Unpack[KlOptions],
) -> Scalar: ...


@overload
def kl_divergence(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: Literal["none"],
    out: Array | None = ...,
    **options: Unpack[KlOptions],
) -> Array: ...


@overload
def kl_divergence(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: Reduction = ...,
    out: Array | None = ...,
    **options: Unpack[KlOptions],
) -> Any: ...
def kl_divergence(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    temperature: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    axis: int = -1,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
) -> Any:
    """Compute the KL divergence of softmax(target_logits) from softmax(logits).

    For each row, it is the sum over the classes of ``t * (log(t) - log(p))``, where ``p = softmax(logits /
    temperature)`` and ``t = softmax(target_logits / temperature)``. It is computed in float64, so that it is accurate
    however small it is: it is never negative, and 0 for identical logits.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities, in nats. The classes lie on `axis`. Integers are taken as float64.
    target_logits : array_like
        The unnormalised log-probabilities of the target distribution, in the shape of `logits` and of any dtype that
        they may have.
    temperature : float, default 1.0
        Divides both logits. Positive. The result is not multiplied by its square.
    sample_weight : array_like, optional
        One weight for each row, in the shape of the "none" result: finite, of either sign. A row of weight 0 does not
        count, whatever its logits are.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the sum of `sample_weight`, or by the number of rows. It is NaN if that is 0.
        PyTorch's ``kl_div`` calls it "batchmean"; its "mean" divides by the number of elements.
    axis : int, default -1
        The class axis.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically. It must compute
        float64.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer for the result: a 0-d array for a scalar.

    Returns
    -------
    ndarray or scalar
        The divergence in the dtype of `logits`, or float32 for 16-bit floats and float64 for integers: a NumPy scalar,
        or an array with ``reduction="none"``. The divergence of a row is NaN if either array has a NaN, a +inf or
        nothing above -inf in that row. A class with ``t == 0`` in float64 contributes 0. A class with t > 0 and a logit
        of -inf makes the divergence +inf.

    Raises
    ------
    ValueError
        Shapes that do not match, an option's value that is not allowed, or a buffer that does not fit.
    TypeError
        A dtype that is not supported, or a masked array.
    BackendUnavailableError
        The backend that was named cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> import softmax_ce as sce
    >>> print(sce.kl_divergence(np.array([[2.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 1.0]])).round(4))
    0.0828
    """
    return evaluate(
        logits, target_logits, temperature, sample_weight, reduction, axis, backend, threads, out, False, None, None
    )[0]


@overload
def kl_divergence_with_grad(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: ScalarReduction = ...,
    out: None = ...,
    **options: Unpack[KlGradOptions],
) -> tuple[Scalar, Array]: ...


@overload
def kl_divergence_with_grad(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: Literal["none"],
    out: Array | None = ...,
    **options: Unpack[KlGradOptions],
) -> tuple[Array, Array]: ...


@overload
def kl_divergence_with_grad(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    reduction: Reduction = ...,
    out: Array | None = ...,
    **options: Unpack[KlGradOptions],
) -> Any: ...
def kl_divergence_with_grad(
    logits: ArrayLike,
    target_logits: ArrayLike,
    *,
    temperature: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    axis: int = -1,
    grad_output: ArrayLike | None = None,
    backend: str | None = None,
    threads: int | None = None,
    out: Array | None = None,
    grad_out: Array | None = None,
) -> Any:
    """Compute the KL divergence of softmax(target_logits) from softmax(logits), and its gradient.

    The gradient is with respect to `logits`. For each row, it is ``(p - t) / temperature``, where
    ``p = softmax(logits / temperature)`` and ``t = softmax(target_logits / temperature)``. Where p and t are close,
    their difference loses no digits.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities, in nats. The classes lie on `axis`. Integers are taken as float64.
    target_logits : array_like
        The unnormalised log-probabilities of the target distribution, in the shape of `logits` and of any dtype that
        they may have. There is no gradient with respect to them.
    temperature : float, default 1.0
        Divides both logits. Positive. The results are not multiplied by its square.
    sample_weight : array_like, optional
        One weight for each row, in the shape of the "none" result: finite, of either sign. A row of weight 0 does not
        count, whatever its logits are.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the sum of `sample_weight`, or by the number of rows. It is NaN if that is 0, and the gradient
        is 0 then.
    axis : int, default -1
        The class axis.
    grad_output : float or array_like, optional
        The upstream gradient: a scalar, or with ``reduction="none"`` also one number for each row.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically. It must compute
        float64.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use. Small work
        runs on one thread whatever the number. The bits of the results do not depend on it.
    out : ndarray, optional
        A buffer for the divergence: a 0-d array for a scalar.
    grad_out : ndarray, optional
        A buffer for the gradient, in the shape and dtype of `logits` (float32 is valid for 16-bit logits).
        ``grad_out=logits`` computes the gradient in place.

    Returns
    -------
    (divergence, grad)
        The divergence has the bits of :func:`kl_divergence`. The gradient has the shape and dtype of `logits` (float64
        for integers). It is NaN in a row whose divergence is NaN, and finite where that is infinite.

    Raises
    ------
    ValueError
        Shapes that do not match, an option's value that is not allowed, or a buffer that does not fit.
    TypeError
        A dtype that is not supported, or a masked array.
    BackendUnavailableError
        The backend that was named cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> import softmax_ce as sce
    >>> kl, grad = sce.kl_divergence_with_grad(np.array([[2.0, 1.0, 0.0]]), np.array([[2.0, 1.0, 1.0]]))
    >>> print(kl.round(4), grad.round(4))
    0.0828 [[ 0.0891  0.0328 -0.1219]]
    """
    return evaluate(
        logits, target_logits, temperature, sample_weight, reduction, axis, backend, threads, out, True, grad_output,
        grad_out,
    )  # fmt: skip
