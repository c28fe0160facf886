"""scikit-learn's multinomial loss, computed by softmax-ce.

scikit-learn calls losses of this kind half losses. Its classes for them are private, but
`HistGradientBoostingClassifier` takes an instance of one as its `loss`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce

try:
    from sklearn._loss import HalfMultinomialLoss as _SklearnLoss
    from sklearn._loss._loss import CyHalfMultinomialLoss
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{__name__} needs scikit-learn: pip install 'softmax-ce[sklearn]'", name=error.name
    ) from error

__all__ = ["HalfMultinomialLoss"]


class HalfMultinomialLoss(_SklearnLoss):  # type: ignore[misc]
    """Softmax cross-entropy as a loss for ``HistGradientBoostingClassifier(loss=...)``.

    Parameters
    ----------
    sample_weight : ndarray, optional
        Not used, as in scikit-learn's class: weights are passed to the methods.
    n_classes : int, default 3
        The number of classes.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.

    Notes
    -----
    scikit-learn's class ``sklearn._loss.HalfMultinomialLoss`` documents the methods. Its results differ in the last
    digits. Here, a label outside [0, n_classes) raises an IndexError, and small losses keep their digits.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import HistGradientBoostingClassifier
    >>> from softmax_ce.sklearn import HalfMultinomialLoss
    >>> X, y = load_iris(return_X_y=True)
    >>> model = HistGradientBoostingClassifier(loss=HalfMultinomialLoss(n_classes=3), max_iter=10).fit(X, y)
    >>> print(model.predict(X[::50]))
    [0 1 2]
    """

    def __init__(self, sample_weight: Any = None, n_classes: int = 3, *, backend: str | None = None) -> None:
        super().__init__(sample_weight=sample_weight, n_classes=n_classes)
        self.closs = _Kernels(backend)


class _Kernels(CyHalfMultinomialLoss):  # type: ignore[misc]
    """The functions that scikit-learn's loss computes with.

    They take labels as floating-point numbers, and buffers of float32 or float64 whatever the dtype of the predictions.
    """

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.backend,)

    def loss(self, y_true: Any, raw_prediction: Any, sample_weight: Any, loss_out: Any, n_threads: int = 1) -> Any:
        direct = loss_out if loss_out.dtype == raw_prediction.dtype else None
        loss = sce.cross_entropy(raw_prediction, _labels(y_true), out=direct, **self._options(sample_weight, n_threads))
        return _stored(loss, loss_out)

    def loss_gradient(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any,
        loss_out: Any,
        gradient_out: Any,
        n_threads: int = 1,
    ) -> tuple[Any, Any]:
        direct = loss_out if loss_out.dtype == raw_prediction.dtype else None
        loss, grad = sce.cross_entropy_with_grad(
            raw_prediction, _labels(y_true), out=direct, grad_out=_direct(gradient_out, raw_prediction),
            **self._options(sample_weight, n_threads),
        )  # fmt: skip
        return _stored(loss, loss_out), _stored(grad, gradient_out)

    def gradient(
        self, y_true: Any, raw_prediction: Any, sample_weight: Any, gradient_out: Any, n_threads: int = 1
    ) -> Any:
        grad = sce.cross_entropy_grad(
            raw_prediction, _labels(y_true), grad_out=_direct(gradient_out, raw_prediction),
            **self._options(sample_weight, n_threads),
        )  # fmt: skip
        return _stored(grad, gradient_out)

    def gradient_hessian(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any,
        gradient_out: Any,
        hessian_out: Any,
        n_threads: int = 1,
    ) -> tuple[Any, Any]:
        _, grad, hess = sce.cross_entropy_with_hessian(
            raw_prediction, _labels(y_true), grad_out=_direct(gradient_out, raw_prediction),
            hess_out=_direct(hessian_out, raw_prediction), **self._options(sample_weight, n_threads),
        )  # fmt: skip
        return _stored(grad, gradient_out), _stored(hess, hessian_out)

    def _options(self, sample_weight: Any, n_threads: int) -> dict[str, Any]:
        return {
            "sample_weight": sample_weight, "reduction": "none", "ignore_index": _NO_LABEL,
            "backend": self.backend, "threads": n_threads,
        }  # fmt: skip


_NO_LABEL = 2**63 - 1  # no floating-point label is this number, so every label must be a class


def _labels(y_true: Any) -> Any:
    return np.asarray(y_true).astype(np.int64)


def _direct(out: Any, raw_prediction: Any) -> Any:
    """Return the buffer if the result can be written there: it has the dtype of the predictions, or float32."""
    return None if raw_prediction.dtype == np.float32 and out.dtype == np.float64 else out


def _stored(result: Any, out: Any) -> Any:
    """Return the buffer with the result in it."""
    if result is not out:
        out[...] = result
    return out
