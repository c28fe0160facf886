"""Softmax cross-entropy as an objective and a metric of XGBoost.

Both work with `xgboost.train`, which calls them with scores and data, and with `xgboost.XGBClassifier`, which calls
them with labels and scores. XGBoost's scores and gradients are float32 arrays of shape (rows, n_classes) in C order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from softmax_ce._boosting import Boosted, Hessian, Kind, Metric, Objective, missing

try:
    from xgboost import DMatrix
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing(__name__, "XGBoost", "xgboost"), name=error.name) from error

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
) -> XGBoostObjective:
    """Return softmax cross-entropy as an objective for XGBoost.

    Parameters
    ----------
    n_classes : int
        The number of classes, XGBoost's ``num_class``.
    hessian : {"library", "diagonal", "upper", "residual"}, default "library"
        The second derivative that leaf values are divided by, where p is a class's probability and y its target:

        - "library": 2p(1 - p) and at least 1e-16, as ``multi:softprob`` has it. With the same ``base_score``, the
          trained model is the same.
        - "diagonal": p(1 - p), the diagonal of the Hessian. Steps are twice as large.
        - "upper": 2p(1 - p), a diagonal that bounds the Hessian from above.
        - "residual": the magnitude of the gradient, as ``|p - y|``.
    label_smoothing : float, default 0.0
        In [0, 1]. The target becomes ``(1 - label_smoothing) * onehot + label_smoothing / n_classes``.
    soft_targets : array_like, shape (rows, n_classes), optional
        A target for each class of each training row, in place of the labels of the data.
    weight : array_like, shape (n_classes,), optional
        Class weights. They multiply the weights of the rows, which XGBoost passes.
    backend : str, optional
        A name from :func:`softmax_ce.backends`. By default, the backend is chosen automatically.
    threads : int, optional
        The largest number of threads to use; by default, one for each CPU that this process may use.

    Returns
    -------
    callable
        Pass it to ``xgboost.train`` as ``obj``, or to ``xgboost.XGBClassifier`` as ``objective``. With ``train``, set
        ``"objective": "multi:softprob"`` in the parameters too, so that the model predicts probabilities.

    Examples
    --------
    >>> import xgboost, softmax_ce.xgboost
    >>> data = xgboost.DMatrix([[0.0], [1.0], [2.0], [3.0]], label=[0, 1, 2, 2])
    >>> params = {"objective": "multi:softprob", "num_class": 3, "min_child_weight": 0}
    >>> model = xgboost.train(params, data, 20, obj=softmax_ce.xgboost.objective(3, label_smoothing=0.1))
    >>> print(model.predict(data).argmax(axis=1))
    [0 1 2 2]
    """
    return XGBoostObjective(n_classes, hessian, label_smoothing, soft_targets, weight, backend, threads)


def metric(
    n_classes: int, kind: Kind = "mlogloss", *, backend: str | None = None, threads: int | None = None
) -> XGBoostMetric:
    """Return a metric for XGBoost that takes the scores of `objective`.

    XGBoost's own metrics work beside `objective` too. They take probabilities and need
    ``"objective": "multi:softprob"`` in the parameters, which `XGBClassifier` sets.

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
        Pass it to ``xgboost.train`` as ``custom_metric`` beside ``obj``, or to ``xgboost.XGBClassifier`` as
        ``eval_metric``. Its name is "softmax_mlogloss" or "softmax_error".
    """
    return XGBoostMetric(n_classes, kind, backend, threads)


class _WithData(Boosted):
    data_type = DMatrix
    how_to_set = (
        "in the parameters of xgboost.train; XGBClassifier sets it to the number of different labels, if these are "
        "more than two"
    )


class XGBoostObjective(_WithData, Objective):
    """An objective for XGBoost, as `objective` returns it."""

    order = "C"
    dtype = np.float32
    floor = 1e-16

    def library_factor(self) -> float:
        return 2.0


class XGBoostMetric(_WithData, Metric):
    """A metric for XGBoost, as `metric` returns it."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the value for labels, scores and weights; or name and value for scores and data."""
        value = self.value(*self.arguments(y_true, y_pred, sample_weight))
        return (self.__name__, value) if isinstance(y_pred, DMatrix) else value
