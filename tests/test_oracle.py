"""The oracle against a second, wider arithmetic, known values, and results that must not pass."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce_bench.conformance import cases
from softmax_ce_bench.truth import oracle

_OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"weight": np.array([0.5, 1.0, 2.0, 0.0, 1.0])},
    {"z_loss": 0.01, "label_smoothing": 0.2, "weight": np.array([0.5, 1.0, 2.0, 0.0, 1.0])},
    {"sample_weight": np.array([1.0, 0.0, 2.0, 0.5]), "grad_output": np.array([1.0, 2.0, -1.0, 0.5])},
]


@pytest.mark.skipif(oracle.WIDEST is oracle.MPMATH, reason="no longdouble wider than float64 on this platform")
@pytest.mark.parametrize("options", _OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("spread", [1.0, 50.0, 700.0])
def test_extended_precision_agrees_with_fifty_digits(options: dict[str, Any], spread: float) -> None:
    rng = np.random.default_rng(1)
    x = spread * rng.standard_normal((4, 5))
    x[3, 1] = -np.inf
    soft = rng.dirichlet(np.ones(5), 4)
    soft[3, 1] = 0
    for targets in (np.array([0, 2, 4, 0]), soft):
        wide = oracle.evaluate(x, targets, **options)
        exact = oracle.evaluate(x, targets, **options, arithmetic=oracle.MPMATH)
        for name in ("loss", "grad", "lse", "softmax"):
            got, right = getattr(wide, name), getattr(exact, name)
            right = np.array([np.longdouble(mpmath.nstr(v, 30)) for v in right.reshape(-1)]).reshape(right.shape)
            finite = np.isfinite(right)
            assert (np.isfinite(got) == finite).all(), name
            scale = np.abs(right[finite]) + 1e-300
            if name == "grad":  # a p - T cancels
                scale += (np.abs(wide.gain)[:, None] * (wide.softmax + wide.target))[finite]
            # 64 units of the 80-bit format, and the spread that exp's argument multiplies its rounding by.
            assert (np.abs(got[finite] - right[finite]) <= 2.0**-63 * (64 + 4 * spread) * scale).all(), name


def test_known_values() -> None:
    truth = oracle.evaluate(np.array([[0.0, -40.0], [1e8, 1e8], [1.0, 2.0]]), np.array([0, 1, 0]))
    assert float(truth.loss[0]) == pytest.approx(4.248354255291589e-18, rel=1e-15)
    assert float(truth.loss[1]) == pytest.approx(math.log(2), rel=1e-16)
    assert float(truth.loss[2]) == pytest.approx(math.log1p(math.e), rel=1e-15)
    assert float(truth.grad[0, 0]) == pytest.approx(-4.248354255291589e-18, rel=1e-15)


def test_over_bound_tells_nan_and_infinity_apart() -> None:
    bound = np.ones(1)
    for result, truth, right in (
        (np.nan, np.nan, True),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.inf, 1.0, False),
        (3.0, np.inf, False),
        (np.inf, np.longdouble(1e300) * np.longdouble(1e10), True),
    ):
        got = oracle.over_bound(np.array([result]), np.array([truth], np.longdouble), bound)
        assert (got <= 1) is right, (result, truth, got)
    assert oracle.over_bound(np.array([1.5]), np.array([1.0]), np.array([0.25])) == 2.0


def test_just_beyond_the_largest_number() -> None:
    """65504 is float16's largest number; what is below 65520 rounds to it, the rest to infinity."""
    for result, truth, bound, right in (
        (65504, 65510, 8, True),
        (-65504, -65519, 16, True),
        (np.inf, 65510, 8, False),
        (np.inf, 65521, 0.5, True),
        (65504, 65521, 0.5, False),
        (np.inf, 65519, 2, True),  # so near that an error within the bound decides
        (-np.inf, 65519, 2, False),
        (65504, 65519, 20, True),
    ):
        with np.errstate(over="ignore"):
            got = oracle.over_bound(np.array([result], np.float16), np.array([truth], float), np.array([bound], float))
        assert (got <= 1) is right, (result, truth, bound, got)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bounds_are_sharp(dtype: str) -> None:
    """Ten units of roundoff more than the bound's own are noticed: the bounds are not vacuous."""
    info = sce.get_backend("numpy").info
    u = float(np.finfo(dtype).eps) / 2
    for case in cases.shapes():
        x = case.logits.astype(dtype)
        classes = x.shape[1]
        if classes == 1:
            continue
        truth = oracle.evaluate(x, case.targets)
        allowed = oracle.bounds(info, truth, dtype)
        size = info.accuracy[dtype].summation(classes) + 4 * np.log(classes) + 40
        assert (allowed.loss <= u * size * (1 + truth.loss.astype(float))).all(), case.name
        assert (allowed.softmax <= u * size * truth.softmax.astype(float) * 2 + 1e-40).all(), case.name
