"""Softmax regression on scikit-learn's handwritten digits, by plain gradient descent with one backend's gradient.

Why two backends must draw the same loss curve, and how closely
---------------------------------------------------------------
The mean loss f(W) of logits X W is convex, and its gradient is Lipschitz with a constant L of at most
the largest eigenvalue of X'X / 2N, since the softmax Jacobian diag(p) - pp' has norm 1/2 at most. For a
step of at most 2/L the map W -> W - step * grad f(W) then moves no two points apart (Baillon and Haddad
1977). So rounding errors do not grow: after k steps, the computed weights are within

    d_k = sum of the k steps' own errors  (Frobenius norm)

of exact arithmetic, and |f(W_k) - f(exact W_k)| <= |grad f| d_k + L/2 d_k^2. A step's own error is what the
two matrix products, the backend's gradient and the update round, each bounded a priori; a product of inner
length n is within n u |A||B| for any order of summation. Two backends differ by at most the sum of their
two bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import softmax_ce as sce
from softmax_ce.contract import Accuracy

STEPS = 400
PASS_ACCURACY = 0.93
_TRAINED = 0.75  # of the digits; the others are held out
_STEP = 1.9  # times 1/L: below 2, where the argument above ends


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """The data: pixels in [0, 1] with a column of ones, shuffled by a fixed seed.

    Attributes
    ----------
    pixels : ndarray, shape (1797, 65)
    labels : ndarray of int64, shape (1797,)
    trained : int
        The first so many rows are fitted; the rest is held out.
    """

    pixels: NDArray[np.float64]
    labels: NDArray[np.int64]
    trained: int


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The fit with one backend.

    Attributes
    ----------
    backend : str
    losses : ndarray, shape (steps,)
        The training loss before each step, as the backend gave it.
    bounds : ndarray, shape (steps,)
        How far each loss may be from exact arithmetic.
    accuracy : float
        The fraction of held-out digits recognised.
    logits : ndarray, shape (1797, 10)
        The logits of all digits in the order of :func:`load`.
    """

    backend: str
    losses: NDArray[np.float64]
    bounds: NDArray[np.float64]
    accuracy: float
    logits: NDArray[Any]

    def difference(self, other: Fit) -> float:
        """Return the largest relative difference of the two loss curves."""
        return float(np.max(np.abs(self.losses - other.losses) / other.losses))

    def over_bound(self, other: Fit) -> float:
        """Return the largest difference of the two loss curves over what rounding may explain; at most 1 if correct."""
        worst = float(np.max(np.abs(self.losses - other.losses) / (self.bounds + other.bounds)))
        return worst if math.isfinite(worst) else math.inf


@lru_cache(maxsize=1)
def load() -> Digits:
    """Return the 1797 digits that come with scikit-learn. Nothing is downloaded."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    with_ones = np.column_stack([pixels / 16, np.ones(len(labels))])[order]
    return Digits(with_ones, labels[order].astype(np.int64), int(_TRAINED * len(labels)))


def fit(
    backend: str,
    *,
    dtype: str = "float64",
    threads: int | None = None,
    steps: int = STEPS,
    on_step: Callable[[int], None] | None = None,
) -> Fit:
    """Fit softmax regression by full-batch gradient descent from zero weights.

    Parameters
    ----------
    backend : str
        The backend that computes the loss and the gradient.
    dtype : {"float64", "float32"}
        The dtype of all arrays.
    threads : int, optional
        Handed to the backend.
    steps : int
        The number of steps of gradient descent.
    on_step : callable, optional
        Called with the number of steps done.

    Returns
    -------
    Fit
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    # The products are small: a second BLAS thread gains nothing, and on a busy machine was seen to cost a hundredfold.
    with threadpool_limits(1, user_api="blas"):
        return _descend(backend, dtype, threads, steps, on_step)


def _descend(backend: str, dtype: str, threads: int | None, steps: int, on_step: Callable[[int], None] | None) -> Fit:
    data = load()
    pixels = data.pixels.astype(dtype)
    x, y = np.ascontiguousarray(pixels[: data.trained]), data.labels[: data.trained]
    weights = np.zeros((x.shape[1], 10), dtype)
    drift = _Drift(x, weights.shape[1], sce.get_backend(backend).info.accuracy[dtype])
    step = x.dtype.type(_STEP / drift.lipschitz)
    losses, bounds = np.empty(steps), np.empty(steps)
    for k in range(steps):
        logits = x @ weights
        losses[k], grad = sce.cross_entropy_with_grad(logits, y, backend=backend, threads=threads)
        slope = x.T @ grad
        bounds[k] = drift.loss_bound(float(losses[k]), logits, grad, slope, weights)
        weights = weights - step * slope
        drift.add_step(float(step), grad, slope, weights)
        if on_step is not None:
            on_step(k + 1)
    held_out = np.argmax(pixels[data.trained :] @ weights, axis=1)
    accuracy = float(np.mean(held_out == data.labels[data.trained :]))
    return Fit(backend, losses, bounds, accuracy, pixels @ weights)


class _Drift:
    """A bound on how far rounding has carried a fit from exact arithmetic: the sums of the module's docstring."""

    def __init__(self, x: NDArray[Any], classes: int, accuracy: Accuracy) -> None:
        self._abs_x = np.abs(x).astype(np.float64)
        self._rows, self._features = x.shape
        self._classes = classes
        self._unit = float(np.finfo(x.dtype).eps) / 2
        self._accuracy = accuracy
        eigenvalue = float(np.linalg.eigvalsh(x.T.astype(np.float64) @ x / len(x))[-1])
        self.lipschitz = eigenvalue / 2
        self._x_norm = math.sqrt(eigenvalue * self._rows)
        self._logits_error = 0.0  # Frobenius norm, of the last logits
        self._distance = 0.0

    def loss_bound(
        self, loss: float, logits: NDArray[Any], grad: NDArray[Any], slope: NDArray[Any], weights: NDArray[Any]
    ) -> float:
        """Return the bound of |computed loss - loss of exact arithmetic| before the step."""
        u, accuracy, classes = self._unit, self._accuracy, self._classes
        self._logits_error = self._features * u * _norm(self._abs_x @ np.abs(weights))
        through_logits = _norm(grad) * self._logits_error + self._logits_error**2 / (4 * self._rows)
        through_weights = _norm(slope) * self._distance + self.lipschitz / 2 * self._distance**2
        # The kernel's loss bound, and the mean's rounding. An unshifted log-sum-exp rounds like the logits are large.
        relative = 2 * accuracy.exp_ulp + 2 * accuracy.log_ulp * math.log(classes) + accuracy.summation(classes)
        own = u * (3 * loss + relative + 2 * accuracy.log_ulp * float(np.abs(logits).max()))
        return through_logits + through_weights + own

    def add_step(self, step: float, grad: NDArray[Any], slope: NDArray[Any], weights: NDArray[Any]) -> None:
        """Add the rounding errors of this step; `weights` are those after it."""
        u, accuracy, classes = self._unit, self._accuracy, self._classes
        # Any gradient entry's error times N, worst case over the logits: d e^-d <= 0.37, D <= ln C.
        entry = u * (0.37 + 2 * math.log(classes) + 4 * accuracy.exp_ulp + 2 * accuracy.summation(classes) + 3)
        grad_error = entry * math.sqrt(classes / self._rows) + self._logits_error / (2 * self._rows)
        slope_error = self._x_norm * grad_error + self._rows * u * _norm(self._abs_x.T @ np.abs(grad))
        self._distance += step * slope_error + u * (_norm(weights) + 2 * step * _norm(slope))


def _norm(matrix: NDArray[Any]) -> float:
    """Return the Frobenius norm in float64."""
    return float(np.linalg.norm(matrix.astype(np.float64, copy=False)))
