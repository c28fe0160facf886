"""The Numba backend's Hessian: its values, its bits, and what it leaves alone."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from softmax_ce import threads
from softmax_ce.contract import HessianKernels

mpmath = pytest.importorskip("mpmath")

DTYPES = ("float32", "float64")
Z_LOSS = 0.01


@pytest.fixture(scope="module")
def hessian() -> HessianKernels:
    available("numba")
    kernels = sce.get_backend("numba").hessian
    assert kernels is not None
    return kernels


def logits_of(rows: int, classes: int, dtype: str, scale: float = 4.0) -> Any:
    """Ordinary rows, one in which a class takes nearly all, one with ties, and one with -inf."""
    x = (scale * np.random.default_rng(classes).standard_normal((rows, classes))).astype(dtype)
    x[1, classes // 2] = x[1].max() + 25
    x[2, : (classes + 1) // 2] = x[2].max()
    x[3, :: max(2, classes // 3)] = -np.inf
    return x


def exact(x: Any, total: Any, z_loss: float, gain: Any) -> Any:
    """The diagonal in 60 digits. `total` and `gain` have an entry a row."""
    result = np.zeros(x.shape, object)
    with mpmath.workdps(60):
        for i, row in enumerate(x.tolist()):
            e = [mpmath.exp(mpmath.mpf(v) - max(row)) if v > -np.inf else mpmath.mpf(0) for v in row]
            s = mpmath.fsum(e)
            pull = mpmath.mpf(float(total[i])) + 2 * mpmath.mpf(z_loss) * (max(row) + mpmath.log(s))
            for j, v in enumerate(e):
                p, others = v / s, (s - v) / s
                result[i, j] = mpmath.mpf(float(gain[i])) * (pull * p * others + 2 * mpmath.mpf(z_loss) * p**2)
    return result


def bounds(x: Any, dtype: str, right: Any) -> Any:
    """NUMERICS's bound for p * (1 - p), in the format's units; A is the largest that the backend declares."""
    u, smallest = float(np.finfo(dtype).eps) / 2, float(np.finfo(dtype).smallest_subnormal)
    accuracy = sce.get_backend("numba").info.accuracy[dtype]
    d = np.where(np.isinf(x), 0, x.max(axis=1, keepdims=True).astype(np.float64) - x)
    p = np.exp(-d) * ~np.isinf(x)
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * d).sum(axis=1, keepdims=True)
    relative = u * (d + 2 * mean + 6 * accuracy.exp_ulp + 2 * accuracy.summation(x.shape[1]) + 6)
    return relative * np.abs(right.astype(np.float64)) + 2 * smallest


def hard_arguments(x: Any, labels: Any, z_loss: float = 0.0, **given: Any) -> tuple[Any, ...]:
    """The inputs of `hard`; the outputs follow."""
    one, row = np.ones(1, x.dtype), np.ones(1)
    return (
        x, labels, -100, given.get("mass", one), given.get("base"), given.get("base_total", 0.0), z_loss,
        given.get("weight", row), given.get("upstream", row),
    )  # fmt: skip


def outputs_for(x: Any) -> tuple[Any, ...]:
    """Loss, gradient, Hessian, row_max and log_sum, filled with a number that no result has."""
    return tuple(np.full(shape, 7, x.dtype) for shape in (len(x), x.shape, x.shape, len(x), len(x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 33, 160, 257, 2100])
def test_values(hessian: HessianKernels, classes: int, dtype: str) -> None:
    x = logits_of(5, classes, dtype)
    hess = outputs_for(x)[2]
    hessian.hard(*hard_arguments(x, np.arange(5) % classes), None, None, hess, None, None, 0, 5)
    right = exact(x, np.ones(5), 0.0, np.ones(5))
    error = np.abs(hess.astype(object) - right).astype(np.float64)
    assert (error <= bounds(x, dtype, right)).all()
    assert (hess[np.isinf(x)] == 0).all()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 300])
def test_values_with_options(hessian: HessianKernels, classes: int, dtype: str, soft: bool) -> None:
    """Class masses and a base of either sign, row weights, upstream gradients and a z-loss."""
    rng, x = np.random.default_rng(classes), logits_of(5, classes, dtype)
    mass, base = (rng.uniform(-1, 2, classes).astype(dtype) for _ in range(2))
    weight, upstream = rng.uniform(-2, 2, 5), rng.uniform(-2, 2, 5)
    hess = outputs_for(x)[2]
    if soft:
        targets = rng.random(x.shape).astype(dtype)
        total = (targets.astype(np.float64) * mass + base).sum(axis=1)
        hessian.soft(x, targets, mass, base, Z_LOSS, weight, upstream, None, None, hess, None, None, 0, 5)
    else:
        labels = rng.integers(0, classes, 5)
        base_total = float(base.astype(np.float64).sum())
        total = mass[labels].astype(np.float64) + base_total
        given = {"mass": mass, "base": base, "base_total": base_total, "weight": weight, "upstream": upstream}
        hessian.hard(*hard_arguments(x, labels, Z_LOSS, **given), None, None, hess, None, None, 0, 5)
    right = exact(x, total, Z_LOSS, weight * upstream).astype(np.float64)
    # Terms of both signs: each is right to a few units of the largest.
    size = np.abs(weight * upstream) * (np.abs(total) + 2 * Z_LOSS * 50 + classes)
    assert (np.abs(hess - right) <= 50 * np.finfo(dtype).eps * size[:, None]).all()
    assert np.abs(right).max() > 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [7, 300, 4099])
def test_no_bit_depends_on_cuts_threads_or_what_else_is_wanted(
    hessian: HessianKernels, classes: int, dtype: str
) -> None:
    rows = 37
    x, labels = logits_of(rows, classes, dtype), np.random.default_rng(0).integers(-1, classes, rows)
    x[5, 0], x[6] = np.nan, -np.inf
    arguments = hard_arguments(x, labels, Z_LOSS)
    whole = outputs_for(x)
    hessian.hard(*arguments, *whole, 0, rows)
    plain, hard = outputs_for(x), cast("Any", sce.get_backend("numba").hard)
    hard(*arguments, *plain[:2], *plain[3:], 0, rows)
    for k in (0, 1, 3, 4):
        np.testing.assert_array_equal(whole[k], plain[k])  # the bits of the kernel without a Hessian
    cut = outputs_for(x)
    for start, stop in itertools.pairwise((0, 1, 4, 5, 20, 36, 37)):
        hessian.hard(*arguments, *cut, start, stop)
    shared = outputs_for(x)
    threads.run(lambda start, stop: hessian.hard(*arguments, *shared, start, stop), rows, 1 << 20, 3)
    alone = outputs_for(x)
    hessian.hard(*arguments, None, None, alone[2], None, None, 0, rows)
    own = x.copy()
    hessian.hard(own, *arguments[1:], whole[0], own, alone[1], None, None, 0, rows)  # the gradient in place
    for other in (cut[2], shared[2], alone[2], alone[1]):
        np.testing.assert_array_equal(other, whole[2])
    np.testing.assert_array_equal(own, whole[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [300, 1013, 4099])
def test_no_bit_depends_on_streaming(hessian: HessianKernels, classes: int, dtype: str) -> None:
    from softmax_ce._backends import numba_jit

    rows = 6
    x, weight = logits_of(rows, classes, dtype), np.array([1.0, 2, 0, 1, 1, 3])
    x[4, 5] = np.nan
    kernel, results = numba_jit._hard_hessian[x.itemsize], set()
    arguments = hard_arguments(x, np.arange(rows), weight=weight)
    for stream, offset in itertools.product((0, 1 << 40), (0, 5)):
        memory = np.zeros((2, x.size + 16), dtype)
        grad, hess = (part[offset : offset + x.size].reshape(x.shape) for part in memory)
        kernel(*arguments, None, grad, hess, None, None, 0, rows, stream)
        assert not memory[:, :offset].any()
        assert not memory[:, offset + x.size :].any()
        assert not hess[2].any()
        assert np.isnan(hess[4]).all()
        results.add((grad.tobytes(), hess.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 300])
def test_rows_without_a_distribution_and_rows_that_do_not_count(
    hessian: HessianKernels, classes: int, dtype: str
) -> None:
    x = np.zeros((6, classes), dtype)
    x[0, 1], x[1, 1], x[2], x[3, 1] = np.nan, np.inf, -np.inf, np.nan
    labels, weight = np.array([0, 0, 0, -1, 0, 0]), np.array([1.0, 1, 1, 1, 0, 1])
    loss, grad, hess, row_max, log_sum = outputs_for(x)
    hessian.hard(*hard_arguments(x, labels, weight=weight), loss, grad, hess, row_max, log_sum, 0, 6)
    assert np.isnan(hess[:3]).all()
    assert (hess[3:5] == 0).all()
    np.testing.assert_allclose(hess[5], (classes - 1) / classes**2, rtol=4e-6)
    nothing = outputs_for(x)[2]
    hessian.hard(*hard_arguments(x, labels, weight=weight), None, None, nothing, None, None, 0, 6)
    np.testing.assert_array_equal(nothing, hess)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 300])
def test_factors_beyond_the_format_and_below_it(hessian: HessianKernels, classes: int, dtype: str) -> None:
    """A factor that overflows where the Hessian does not; and one that is subnormal, as the Hessian is."""
    info = np.finfo(dtype)
    x = np.zeros((2, classes), dtype)
    x[:, 0] = 20
    p = np.exp(-20.0) / (1 + (classes - 1) * np.exp(-20.0))
    others = (classes - 1) * p
    right = np.array([(1 - others) * others] + [p * (1 - p)] * (classes - 1))
    large = min(float(info.max) * 100, 1e300)
    for upstream in (np.array([large, 1.0]), np.array([1.0, 1e4 * float(info.smallest_subnormal)])):
        hess = outputs_for(x)[2]
        hessian.hard(*hard_arguments(x, np.zeros(2, int), upstream=upstream), None, None, hess, None, None, 0, 2)
        expected = upstream[:, None] * right
        unit = 50 * info.eps * np.abs(expected) + 2 * float(info.smallest_subnormal)
        assert (np.abs(hess - expected) <= unit).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_has_the_curvature_of_its_z_loss(hessian: HessianKernels, dtype: str) -> None:
    x = np.array([[3.0], [-2.0]], dtype)
    hess = outputs_for(x)[2]
    hessian.hard(*hard_arguments(x, np.zeros(2, int), 0.25), None, None, hess, None, None, 0, 2)
    assert hess.tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_without_a_hessian_the_other_kernels_run(
    hessian: HessianKernels, soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softmax_ce._backends import numba_jit

    x = logits_of(4, 5, "float32")
    one, row = np.ones(1, x.dtype), np.ones(1)
    loss, grad, *_ = outputs_for(x)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(numba_jit, "soft" if soft else "hard", lambda *given: calls.append(given))
    if soft:
        given: tuple[Any, ...] = (x, np.abs(x), one, None, 0.0, row, row)
        hessian.soft(*given, loss, grad, None, None, None, 0, 4)
    else:
        given = hard_arguments(x, np.zeros(4, int))
        hessian.hard(*given, loss, grad, None, None, None, 0, 4)
    (called,) = calls
    assert all(a is b for a, b in zip(called, (*given, loss, grad, None, None, 0, 4), strict=True))


def test_the_public_function_uses_the_kernels(hessian: HessianKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    from softmax_ce import hessian as composed

    monkeypatch.setattr(composed, "compose", lambda *given: pytest.fail("composed in place of computed"))
    x = logits_of(5, 10, "float64")
    _, _, hess = sce.cross_entropy_with_hessian(x, np.arange(5), backend="numba", reduction="sum")
    own = outputs_for(x)[2]
    hessian.hard(*hard_arguments(x, np.arange(5)), None, None, own, None, None, 0, 5)
    np.testing.assert_array_equal(hess, own)
