"""What the faulty processes compute: calls large enough for several threads, whose results are known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce

ROWS, CLASSES = 64, 5000


def problem(rows: int = ROWS, classes: int = CLASSES, dtype: Any = np.float32) -> tuple[Any, Any]:
    """Logits and labels."""
    rng = np.random.default_rng(7)
    return (3 * rng.standard_normal((rows, classes))).astype(dtype), rng.integers(0, classes, rows)


def truth(x: Any, y: Any) -> tuple[Any, Any]:
    """Row losses and their gradients in float64, by the formula and none of the backends."""
    wide = x.astype(np.float64)
    gap = wide - wide.max(axis=1, keepdims=True)
    e = np.exp(gap)
    s = e.sum(axis=1, keepdims=True)
    at = np.arange(len(y)), y
    grad = e / s
    grad[at] -= 1
    return np.log(s[:, 0]) - gap[at], grad


def check(backend: str | None = None, threads: int | None = 4, **shape: Any) -> None:
    """One call, held against the truth."""
    x, y = problem(**shape)
    agree(sce.cross_entropy_with_grad(x, y, reduction="none", backend=backend, threads=threads), truth(x, y))


def agree(result: tuple[Any, Any], right: tuple[Any, Any], tolerance: float = 1e-5) -> None:
    """Loss and gradient as they should be, to float32's accuracy."""
    np.testing.assert_allclose(result[0], right[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result[1], right[1], rtol=tolerance, atol=tolerance)
