"""The oracle against a second, wider arithmetic, known values, and results that must not pass."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce_bench.conformance import cases
from softmax_ce_bench.truth import divergence, oracle

mp = mpmath.MPContext()
mp.dps = 50

_OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"weight": np.array([0.5, 1.0, 2.0, 0.0, 1.0])},
    {"z_loss": 0.01, "label_smoothing": 0.2, "weight": np.array([0.5, 1.0, 2.0, 0.0, 1.0])},
    {"sample_weight": np.array([1.0, 0.0, 2.0, 0.5]), "grad_output": np.array([1.0, 2.0, -1.0, 0.5])},
    {"logit_scale": 0.3, "softcap": 30.0, "z_loss": 0.01},
    {"logit_scale": 1.7, "where": np.array([True, False, True, True, True]), "label_smoothing": 0.2, "z_loss": 0.01},
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
        for name in ("loss", "grad", "hess", "lse", "softmax"):
            if name == "hess" and "softcap" in options:
                continue
            got, right = getattr(wide, name), getattr(exact, name)
            right = np.array([np.longdouble(mpmath.nstr(v, 30)) for v in right.reshape(-1)]).reshape(right.shape)
            finite = np.isfinite(right)
            assert (np.isfinite(got) == finite).all(), name
            scale = np.abs(right[finite]) + 1e-300
            if name == "grad":  # a p - T cancels
                scale += (np.abs(wide.gain)[:, None] * (wide.softmax + wide.target) * wide.slope)[finite]
            if name == "hess":  # a + 2 z lse may
                scale += (np.abs(wide.gain)[:, None] * wide.softmax * wide.scale**2 * (1 + np.abs(wide.lse)[:, None]))[
                    finite
                ]
            # 64 units of the 80-bit format, and the spread that exp's argument multiplies its rounding by.
            assert (np.abs(got[finite] - right[finite]) <= 2.0**-63 * (64 + 4 * spread) * scale).all(), name


def test_known_values() -> None:
    truth = oracle.evaluate(np.array([[0.0, -40.0], [1e8, 1e8], [1.0, 2.0]]), np.array([0, 1, 0]))
    assert float(truth.loss[0]) == pytest.approx(4.248354255291589e-18, rel=1e-15)
    assert float(truth.loss[1]) == pytest.approx(math.log(2), rel=1e-16)
    assert float(truth.loss[2]) == pytest.approx(math.log1p(math.e), rel=1e-15)
    assert float(truth.grad[0, 0]) == pytest.approx(-4.248354255291589e-18, rel=1e-15)


def test_hessian_by_hand() -> None:
    truth = oracle.evaluate(np.array([[math.log(3), 0.0], [0.0, -40.0], [0.0, 0.0]]), np.array([0, 0, 1]), z_loss=0.5)
    curve = [(1 + math.log(4)) * 3 / 16 + 9 / 16, (1 + math.log(4)) * 3 / 16 + 1 / 16]
    np.testing.assert_allclose(truth.hess[0].astype(float), curve, rtol=1e-15)
    small = 4.248354255291589e-18
    assert float(oracle.evaluate(np.array([[0.0, -40.0]]), np.array([0])).hess[0, 0]) == pytest.approx(small, rel=1e-15)
    half = [(1 + math.log(2)) / 4 + 1 / 4] * 2
    np.testing.assert_allclose(truth.hess[2].astype(float), half, rtol=1e-15)


def test_correct_rows_by_hand() -> None:
    x = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    truth = oracle.evaluate(x, np.array([0, 1, 1, -100, 2]))
    assert truth.correct.tolist() == [True, False, True, False, False]
    truth = oracle.evaluate(x, np.array([0, 1, 1, -100, 2]), where=np.array([False, True, True]))
    assert truth.correct.tolist() == [False, True, True, False, True]


def test_transforms_by_hand() -> None:
    x = np.array([[2.0, -1.0, np.inf, np.nan]])
    where = np.array([True, True, True, False])
    truth = oracle.evaluate(x, np.array([0]), softcap=3.0, logit_scale=0.5, where=where, label_smoothing=0.3)
    y = np.array([3 * math.tanh(1 / 3), 3 * math.tanh(-1 / 6), 3])
    p = np.exp(y) / np.exp(y).sum()
    target = np.array([0.7 + 0.1, 0.1, 0.1])
    np.testing.assert_allclose(truth.softmax[0].astype(float), [*p, 0], rtol=1e-14)
    assert float(truth.loss[0]) == pytest.approx((target * -np.log(p)).sum(), rel=1e-14)
    slope = [0.5 / math.cosh(1 / 3) ** 2, 0.5 / math.cosh(1 / 6) ** 2, 0]
    np.testing.assert_allclose(truth.grad[0].astype(float), [*((p - target) * slope), 0], rtol=1e-13)
    near_the_cap = oracle.evaluate(np.array([[40.0, 0.0]]), np.array([1]), softcap=1.0)
    assert float(near_the_cap.slope[0, 0]) == pytest.approx(4 * math.exp(-80), rel=1e-14)  # 1 - tanh**2 is 0


@pytest.mark.parametrize("noise", [1e-8, 1e-3, 1.0, 50.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_agrees_with_fifty_digits(noise: float, temperature: float) -> None:
    """The reference's sum of positive terms against sum t (log t - log p), as it is defined."""
    rng = np.random.default_rng(2)
    x = 3 * rng.standard_normal((4, 6))
    z = x + noise * rng.standard_normal((4, 6)) + 1e3
    x[3, 1] = z[3, 1] = -np.inf
    z[2, 4] = -np.inf
    weight = np.array([1.0, -2.0, 0.5, 1.0])
    got = divergence.evaluate(x, z, temperature=temperature, sample_weight=weight)
    for i in range(4):
        a, b = ([mp.mpf(float(v)) / temperature for v in part[i]] for part in (x, z))
        lse_a, lse_b = (mp.log(sum(mp.exp(v) for v in part)) for part in (a, b))
        terms = [mp.exp(v - lse_b) * ((v - lse_b) - (w - lse_a)) for v, w in zip(b, a, strict=True) if v > -mp.inf]
        slopes = [(mp.exp(w - lse_a) - mp.exp(v - lse_b)) / temperature for v, w in zip(b, a, strict=True)]
        assert float(got.loss[i]) == pytest.approx(float(weight[i] * sum(terms)), rel=1e-13)
        expected = [float(weight[i] * slope) for slope in slopes]
        np.testing.assert_allclose(
            got.grad[i].astype(float), expected, rtol=1e-12, atol=1e-15 * max(map(abs, expected))
        )


def test_the_divergence_s_bounds_are_sharp() -> None:
    """150 units of roundoff for ordinary float64, and four for float32."""
    info = sce.get_backend("numpy").info
    rng = np.random.default_rng(3)
    for noise in (1e-6, 1e-2, 1.0):
        x = rng.standard_normal((5, 20))
        truth = divergence.evaluate(x, x + noise * rng.standard_normal(x.shape))
        bound = divergence.bounds(info, truth, "float64")
        assert (bound.loss <= 150 * 2.0**-53 * truth.loss + 1e-25).all()
        assert (divergence.bounds(info, truth, "float32").loss <= 4.1 * 2.0**-24 * truth.loss + 1e-40).all()


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
