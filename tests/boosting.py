"""What the tests of the XGBoost and LightGBM objectives share."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce


def digits() -> tuple[Any, Any, Any]:
    """Features, labels, and weights of which some are 0."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.0, 2.0, len(y)).astype(np.float32)
    weight[::7] = 0.0
    return X, y, weight


def expected(scores: Any, soft: Any, weight: Any, sample_weight: Any, smoothing: float) -> tuple[Any, Any]:
    """Gradient and diagonal of the Hessian of the summed loss, in float64, from targets for each class."""
    p = sce.softmax(np.asarray(scores, np.float64), backend="numpy")
    target = weight * ((1 - smoothing) * soft + smoothing / p.shape[1])
    mass = target.sum(axis=1, keepdims=True)
    rows = sample_weight[:, None]
    return rows * (mass * p - target), rows * mass * p * (1 - p)


def case(dtype: Any, order: Any) -> tuple[Any, ...]:
    """Scores, labels, soft targets, class weights and row weights of 300 rows and 7 classes."""
    rng = np.random.default_rng(1)
    scores = np.asarray(3 * rng.standard_normal((300, 7)), dtype, order=order)
    labels = rng.integers(0, 7, 300)
    soft = rng.dirichlet(np.ones(7), 300)
    return scores, labels, soft, rng.uniform(0.5, 2.0, 7), rng.uniform(0.0, 3.0, 300)
