"""Softmax cross-entropy as an objective and a metric of LightGBM.

Both work with `lightgbm.train`, which calls them with scores and data, and with `lightgbm.LGBMClassifier`, which calls
them with labels and scores. LightGBM's scores are float64 arrays of shape (rows, n_classes) in Fortran order: all
scores of a class lie together. Gradients are float32 arrays in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from softmax_ce._boosting import Boosted, Hessian, Kind, Metric, Objective, missing

try:
    from lightgbm import Dataset
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing(__name__, "LightGBM", "lightgbm"), name=error.name) from error

__all__ = ["metric", "objective"]


def objective(
    n_classes: int,
    hessian: Hessian = "library",
    label_smoothing: float = 0.0,
    soft_targets: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
) -> LightGBMObjective:
    """Return softmax cross-entropy as an objective for LightGBM.

    Parameters
    ----------
    n_classes : int
        The number of classes, LightGBM's ``num_class``.
    hessian : {"library", "diagonal", "upper", "residual"}, default "library"
        The second derivative that leaf values are divided by, where p is a class's probability and y its target:

        - "library": ``n_classes / (n_classes - 1) * p(1 - p)``, as LightGBM's ``multiclass`` has it. With
          ``boost_from_average=False`` there, the trained model is the same.
        - "diagonal": p(1 - p), the diagonal of the Hessian.
        - "upper": 2p(1 - p), a diagonal that bounds the Hessian from above.
        - "residual": the magnitude of the gradient, as ``|p - y|``.
    label_smoothing : float, default 0.0
        In [0, 1]. The target becomes ``(1 - label_smoothing) * onehot + label_smoothing / n_classes``.
    soft_targets : array_like, shape (rows, n_classes), optional
        A target for each class of each training row, in place of the labels of the data.
    weight : array_like, shape (n_classes,), optional
        Class weights. They multiply the weights of the rows, which LightGBM passes.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use.

    Returns
    -------
    callable
        Pass it to ``lightgbm.train`` in the parameters, or to ``lightgbm.LGBMClassifier``, as ``objective``. With a
        custom objective, LightGBM predicts scores and not probabilities: use :func:`softmax_ce.softmax`.

    Examples
    --------
    >>> import lightgbm, numpy, softmax_ce.lightgbm
    >>> X, y = numpy.arange(60.0).reshape(60, 1), numpy.arange(60) // 20
    >>> params = {"objective": softmax_ce.lightgbm.objective(3, label_smoothing=0.1), "num_class": 3, "verbose": -1}
    >>> model = lightgbm.train(params, lightgbm.Dataset(X, y), 20)
    >>> print(model.predict(X[::12]).argmax(axis=1))
    [0 0 1 1 2]
    """
    return LightGBMObjective(n_classes, hessian, label_smoothing, soft_targets, weight, backend, threads)


def metric(
    n_classes: int, kind: Kind = "mlogloss", *, backend: str | None = None, threads: int | None = None
) -> LightGBMMetric:
    """Return a metric for LightGBM that takes the scores of `objective`.

    LightGBM's own metric ``multi_logloss`` takes probabilities. With a custom objective it is computed from scores, so
    its values are wrong. `LGBMClassifier` adds it unless it is created with ``metric="None"``, and early stopping would
    follow it.

    Parameters
    ----------
    n_classes : int
        The number of classes.
    kind : {"mlogloss", "error"}, default "mlogloss"
        The mean cross-entropy, or the share of rows whose label does not have the highest score. Both are weighted by
        the weights of the rows. The first of several equal scores counts as the highest.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use.

    Returns
    -------
    callable
        Pass it to ``lightgbm.train`` as ``feval``, or to the ``fit`` of ``lightgbm.LGBMClassifier`` as
        ``eval_metric``. Its name is "softmax_mlogloss" or "softmax_error".
    """
    return LightGBMMetric(n_classes, kind, backend, threads)


class _WithData(Boosted):
    data_type = Dataset
    how_to_set = (
        "in the parameters of lightgbm.train; LGBMClassifier sets it to the number of different labels, if these are "
        "more than two; LightGBM before 4.0 is not supported"
    )


class LightGBMObjective(_WithData, Objective):
    """An objective for LightGBM, as `objective` returns it."""

    order = "F"
    dtype = np.float64

    def library_factor(self) -> float:
        return self.n_classes / (self.n_classes - 1)


class LightGBMMetric(_WithData, Metric):
    """A metric for LightGBM, as `metric` returns it."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
        """Return name, value and False (lower is better) for labels, scores and weights, or for scores and data."""
        return self.__name__, self.value(*self.arguments(y_true, y_pred, sample_weight)), False
