"""The parts that the objectives and metrics for XGBoost and LightGBM share.

Both libraries fit a tree for each class to the gradient and to the diagonal of the Hessian of the summed loss. They
call an objective in each round with the scores of all rows, and a metric with the scores of each evaluation set.
"""

from __future__ import annotations

import operator
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

import softmax_ce as sce
from softmax_ce import checks

Hessian: TypeAlias = Literal["library", "diagonal", "upper", "residual"]
Kind: TypeAlias = Literal["mlogloss", "error"]
HESSIANS = ("library", "diagonal", "upper", "residual")
KINDS = ("mlogloss", "error")
_BLOCK = 1 << 19  # entries of a Hessian that is computed in a scratch


def missing(module: str, library: str, extra: str) -> str:
    """Return the message for a library that is not installed."""
    return f"{module} needs {library}: pip install 'softmax-ce[{extra}]'"


class Boosted:
    """The number of classes, and the checks of what a library passes in each round."""

    data_type: ClassVar[type]  # of the data that the library's native interface passes
    how_to_set: ClassVar[str]  # says how to get scores for so many classes

    def __init__(self, n_classes: int, backend: str | None, threads: int | None) -> None:
        try:
            self.n_classes = operator.index(n_classes)
        except TypeError:
            raise TypeError(f"n_classes must be an integer, got {checks.shown(n_classes)}") from None
        if self.n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {self.n_classes}")
        self.backend = backend
        self.threads = checks.check_threads(threads)

    def arguments(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return scores, labels and weights from labels, scores and weights, or from scores and data."""
        scores, labels = y_pred, y_true
        if isinstance(y_pred, self.data_type):
            data: Any = y_pred
            scores, labels, sample_weight = y_true, data.get_label(), data.get_weight()
            if sample_weight is not None and not sample_weight.size:
                sample_weight = None
        return self.check_scores(scores), labels, sample_weight

    def check_scores(self, scores: Any) -> Any:
        """Return the scores as an array, which must be (rows, n_classes)."""
        scores = checks.as_array("scores", scores)
        if scores.ndim != 2 or scores.shape[1] != self.n_classes:
            raise ValueError(
                f"the scores have shape {scores.shape} and not (rows, {self.n_classes}): "
                f"set num_class={self.n_classes} {self.how_to_set}"
            )
        return scores

    def check_labels(self, labels: Any, n_rows: int) -> Any:
        """Return the labels, which libraries keep as floating-point numbers, as integers in [0, n_classes)."""
        labels = checks.as_array("labels", () if labels is None else labels)
        if labels.shape != (n_rows,):
            raise ValueError(f"the data has labels of shape {labels.shape} and not ({n_rows},), one for each row")
        with np.errstate(invalid="ignore"):  # NaN and infinity, which differ from every integer
            integers = labels.astype(np.int64, copy=False)
        if not np.array_equal(integers, labels):
            bad = int((integers != labels).argmax())
            raise ValueError(f"label {labels[bad]} of row {bad} is not an integer; soft labels go into soft_targets")
        # Viewed as unsigned, a negative label is huge.
        if n_rows and np.ascontiguousarray(integers).view(np.uint64).max() >= self.n_classes:
            bad = int(((integers < 0) | (integers >= self.n_classes)).argmax())
            raise IndexError(f"label {integers[bad]} of row {bad} is outside [0, {self.n_classes})")
        return integers


class Objective(Boosted):
    """Gradient and Hessian of the softmax cross-entropy, in the form that a library takes."""

    order: ClassVar[Literal["C", "F"]]  # in which the library reads gradients without a copy
    dtype: ClassVar[Any]  # of the library's scores
    floor: ClassVar[float] = 0.0  # the least value of the Hessian in the library's own objective

    def __init__(
        self,
        n_classes: int,
        hessian: Hessian,
        label_smoothing: float,
        soft_targets: Any,
        weight: Any,
        backend: str | None,
        threads: int | None,
    ) -> None:
        super().__init__(n_classes, backend, threads)
        checks.check_choice("hessian", hessian, HESSIANS)
        self.hessian = hessian
        self.label_smoothing = checks.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        self.weight = None if weight is None else checks.check_weight("weight", weight, (self.n_classes,))
        self.soft_targets = None if soft_targets is None else self._check_soft_targets(soft_targets)

    def __repr__(self) -> str:
        return f"{type(self).__module__}.objective({self.n_classes}, hessian={self.hessian!r})"

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return gradient and Hessian for labels, scores and weights, or for scores and data."""
        return self.gradients(*self.arguments(y_true, y_pred, sample_weight))

    def library_factor(self) -> float:
        """Return the factor of p(1 - p) in the library's own objective."""
        raise NotImplementedError

    def gradients(self, scores: Any, labels: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return the gradient and the Hessian of the summed loss, both (rows, n_classes) float32.

        Parameters
        ----------
        scores : ndarray, shape (rows, n_classes)
        labels : array_like, shape (rows,)
            Not read if the objective has soft targets.
        sample_weight : array_like, shape (rows,), or None
        """
        targets = self.soft_targets
        if targets is None:
            targets = self.check_labels(labels, len(scores))
        elif len(targets) != len(scores):
            raise ValueError(
                f"soft_targets have {len(targets)} rows and the data has {len(scores)}: cross-validation and subsets "
                "need an objective of their own"
            )
        grad = np.empty(scores.shape, np.float32, order=self.order)
        options: Any = {
            "weight": self.weight, "label_smoothing": self.label_smoothing, "reduction": "sum",
            "backend": self.backend, "threads": self.threads,
        }  # fmt: skip
        if self.hessian == "residual":
            sce.cross_entropy_grad(scores, targets, sample_weight=sample_weight, grad_out=grad, **options)
            return grad, np.abs(grad)
        factor = {"library": self.library_factor(), "diagonal": 1.0, "upper": 2.0}[self.hessian]
        hess = np.empty_like(grad)
        if factor in (1.0, 2.0):  # the product is exact
            sce.cross_entropy_with_hessian(
                scores, targets, sample_weight=sample_weight, grad_out=grad, hess_out=hess, **options
            )
            if factor != 1.0:
                with np.errstate(all="ignore"):
                    np.multiply(hess, factor, out=hess)
        else:
            self._in_blocks(scores, targets, sample_weight, factor, grad, hess, options)
        if self.hessian == "library" and self.floor:
            np.maximum(hess, self.floor, out=hess)
        return grad, hess

    def _in_blocks(
        self, scores: Any, targets: Any, sample_weight: Any, factor: float, grad: Any, hess: Any, options: Any
    ) -> None:
        """Compute gradient and Hessian, with the factor applied before the Hessian is rounded to float32.

        A second rounding would let a library choose another one of two nearly equal splits than with its own objective.
        """
        n_rows = len(scores)
        step = max(1, _BLOCK // self.n_classes)
        scratch = np.empty((min(step, n_rows), self.n_classes), self.dtype, order=self.order)
        for start in range(0, n_rows, step):
            rows = slice(start, start + step)
            wide = scratch[: len(scores[rows])]
            weights = None if sample_weight is None else sample_weight[rows]
            sce.cross_entropy_with_hessian(
                scores[rows], targets[rows], sample_weight=weights, grad_out=grad[rows], hess_out=wide, **options
            )
            with np.errstate(all="ignore"):  # a Hessian below the range of float32
                np.multiply(wide, factor, out=hess[rows], casting="same_kind")

    def _check_soft_targets(self, soft_targets: Any) -> Any:
        """Return a copy, in the memory order of the scores."""
        array = checks.as_array("soft_targets", soft_targets)
        if array.ndim != 2 or array.shape[1] != self.n_classes:
            raise ValueError(f"soft_targets must have shape (rows, {self.n_classes}), got {array.shape}")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"soft_targets must be real numbers, got dtype {array.dtype}")
        return array.astype(self.dtype, order=self.order)


class Metric(Boosted):
    """The mean loss, or the share of rows whose label does not have the highest score."""

    def __init__(self, n_classes: int, kind: Kind, backend: str | None, threads: int | None) -> None:
        super().__init__(n_classes, backend, threads)
        checks.check_choice("kind", kind, KINDS)
        self.kind = kind
        # The scikit-learn interface of XGBoost reads a metric's name from here. The built-in metrics have other names.
        self.__name__ = f"softmax_{kind}"

    def __repr__(self) -> str:
        return f"{type(self).__module__}.metric({self.n_classes}, {self.kind!r})"

    def value(self, scores: Any, labels: Any, sample_weight: Any) -> float:
        """Return the metric of checked scores: a mean, weighted by `sample_weight` if that is not None."""
        labels = self.check_labels(labels, len(scores))
        if self.kind == "error":
            of_rows = scores.argmax(axis=1) != labels
        else:
            of_rows = sce.cross_entropy(scores, labels, reduction="none", backend=self.backend, threads=self.threads)
        # The mean is taken in float64, so that early stopping sees small differences.
        return float(np.average(of_rows.astype(np.float64), weights=sample_weight))
