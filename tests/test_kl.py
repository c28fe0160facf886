"""The KL divergence of two arrays of logits, against mpmath, and its edges, buffers and errors."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import registry
from softmax_ce.contract import BackendInfo
from softmax_ce.threads import sharing_from
from softmax_ce_bench.inputs.workloads import dtype_of

MP = mpmath.MPContext()
MP.dps = 60
DTYPES = ("float32", "float64", "float16", "bfloat16")


def exact(x: Any, z: Any, temperature: float = 1.0) -> tuple[Any, list[Any]]:
    """One row's divergence and p - t over T; a class at -inf in both is left out."""
    pairs = [(MP.mpf(float(a)) / temperature, MP.mpf(float(b)) / temperature) for a, b in zip(x, z, strict=True)]
    lse_x, lse_z = (MP.log(sum(MP.exp(pair[k]) for pair in pairs)) for k in (0, 1))
    kl = sum(MP.exp(b - lse_z) * ((b - lse_z) - (a - lse_x)) for a, b in pairs if b > -MP.inf)
    return kl, [(MP.exp(a - lse_x) - MP.exp(b - lse_z)) / temperature for a, b in pairs]


def units(got: Any, right: Any, dtype: Any) -> float:
    """The relative error in units of roundoff. 0 must be 0."""
    if right == 0:
        return 0.0 if got == 0 else math.inf
    return float(abs(MP.mpf(float(got)) - right) / abs(right)) / (float(np.finfo(dtype).eps) / 2)


def near(noise: float, dtype: Any, rows: int = 4, classes: int = 30, offset: float = 0.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(int(1 / noise))
    x = 3 * rng.standard_normal((rows, classes))
    return (x + offset).astype(dtype), (x + noise * rng.standard_normal(x.shape)).astype(dtype)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
@pytest.mark.parametrize("noise", [1e-13, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_right_to_a_few_units(backend: str, dtype: Any, noise: float, temperature: float) -> None:
    """1e-6 gives divergences of 1e-12."""
    for offset in (0.0, 0.0 if backend == "naive" else 1e4):
        x, z = near(noise, dtype, offset=offset)
        kl, grad = sce.kl_divergence_with_grad(x, z, temperature=temperature, reduction="none", backend=backend)
        assert kl.dtype == grad.dtype == dtype
        for i in range(len(x)):
            right, slope = exact(x[i], z[i], temperature)
            assert units(kl[i], right, dtype) <= (4 if dtype == np.float32 else 12)
            scale = max(map(abs, slope))
            for got, true in zip(grad[i], slope, strict=True):
                assert abs(MP.mpf(float(got)) - true) <= 40 * float(np.finfo(dtype).eps) * (abs(true) + scale * 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_identical_logits_give_exactly_0(backend: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = (4 * rng.standard_normal((5, 40))).astype(dtype_of(dtype))
    x[2, 5:30] = -np.inf
    for temperature in (1.0, 3.0):
        kl, grad = sce.kl_divergence_with_grad(x, x.copy(), temperature=temperature, reduction="none", backend=backend)
        assert kl.tolist() == [0.0] * 5
        assert (grad.astype(float) == 0).all()


def test_a_shift_of_all_logits_is_nothing(backend: str) -> None:
    if backend == "naive":
        pytest.skip("overflows")
    x = np.round(np.random.default_rng(4).standard_normal((3, 20)) * 64) / 64
    for shift in (1024.0, -(2.0**30)):
        assert sce.kl_divergence(x + shift, x, reduction="none", backend=backend).tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target_dtype", [*DTYPES, "int16"])
def test_the_result_follows_the_logits(backend: str, dtype: str, target_dtype: str) -> None:
    """Both are read exactly, each in its own dtype."""
    rng = np.random.default_rng(5)
    x = (2 * rng.standard_normal((3, 9))).astype(dtype_of(dtype))
    z = np.asarray(2 * rng.standard_normal((3, 9)))
    z = z.astype(np.int16) if target_dtype == "int16" else z.astype(dtype_of(target_dtype))
    kl, grad = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    assert kl.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert grad.dtype == x.dtype
    coarse = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 1e-7 if dtype == "float32" else 1e-15)
    for i in range(3):
        right, slope = exact(x[i], z[i])
        assert units(kl[i], right, kl.dtype) <= 12
        np.testing.assert_allclose(
            grad[i].astype(float), [float(v) for v in slope], rtol=20 * coarse, atol=1e-7 * coarse
        )
    assert type(sce.kl_divergence(np.arange(3), z[0, :3], backend=backend)) is np.float64


def test_finite_differences(backend: str) -> None:
    rng = np.random.default_rng(6)
    x, z, v = rng.standard_normal((3, 4, 7))
    weight, upstream = rng.uniform(-2, 2, 4), 3.0
    options: dict[str, Any] = {"temperature": 1.7, "sample_weight": weight, "reduction": "sum", "backend": backend}
    _, grad = sce.kl_divergence_with_grad(x, z, grad_output=upstream, **options)
    h = 1e-5
    rise = sce.kl_divergence(x + h * v, z, **options) - sce.kl_divergence(x - h * v, z, **options)
    assert upstream * rise / (2 * h) == pytest.approx((grad * v).sum(), rel=1e-8)


def test_reductions_and_weights(backend: str) -> None:
    rng = np.random.default_rng(7)
    x, z = rng.standard_normal((2, 6, 5))
    rows, grads = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    reduction: Any
    for weight in (None, rng.uniform(0, 2, 6), rng.uniform(-1, 2, 6)):
        w = np.ones(6) if weight is None else weight
        given: dict[str, Any] = {"sample_weight": weight, "backend": backend}
        np.testing.assert_allclose(sce.kl_divergence(x, z, reduction="none", **given), w * rows, rtol=1e-14)
        for reduction, divisor in (("sum", 1.0), ("mean", w.sum())):
            kl, grad = sce.kl_divergence_with_grad(x, z, reduction=reduction, **given)
            assert isinstance(kl, np.float64)
            assert kl == pytest.approx((w * rows).sum() / divisor, rel=1e-13)
            np.testing.assert_allclose(grad, grads * (w / divisor)[:, None], rtol=1e-13)
            assert sce.kl_divergence(x, z, reduction=reduction, **given) == kl
    upstream = rng.standard_normal(6)
    _, grad = sce.kl_divergence_with_grad(x, z, reduction="none", grad_output=upstream, backend=backend)
    np.testing.assert_allclose(grad, grads * upstream[:, None], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("far", [False, True])
def test_edges(backend: str, dtype: str, far: bool) -> None:
    """Rows without a distribution are NaN, their neighbours untouched, whichever argument they are in."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((6, 5)).astype(dtype)
    z = x + (rng.standard_normal(x.shape) if far else 1e-4 * rng.standard_normal(x.shape)).astype(dtype)
    right, slope = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    for side in (0, 1):
        for row in (np.array([np.nan, 0, 1, 2, 3]), np.array([np.inf, 0, 1, 2, 3]), np.full(5, -np.inf)):
            pair = [x.copy(), z.copy()]
            pair[side][2] = row
            kl, grad = sce.kl_divergence_with_grad(*pair, reduction="none", backend=backend)
            assert np.isnan(kl[2])
            assert np.isnan(grad[2]).all()
            keep = np.arange(6) != 2
            np.testing.assert_array_equal(kl[keep], right[keep])
            np.testing.assert_array_equal(grad[keep], slope[keep])
            off = {"sample_weight": keep.astype(float), "backend": backend}
            kl, grad = sce.kl_divergence_with_grad(*pair, **off)
            assert np.isfinite(kl)
            assert (grad[2] == 0).all()
    x[:, 1] = z[:, 1] = -np.inf  # out of both
    kl, grad = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    parts = [np.delete(part, 1, axis=1) for part in (x, z)]
    np.testing.assert_allclose(kl, sce.kl_divergence(*parts, reduction="none", backend=backend), rtol=1e-6)
    assert (grad[:, 1] == 0).all()
    x[:, 2] = -np.inf  # out of the logits alone
    masked = z.copy()
    masked[3:, 2] = -1e4  # masked as well: t is 0
    kl, grad = sce.kl_divergence_with_grad(x, masked, reduction="none", backend=backend)
    assert (kl[:3] == np.inf).all()
    assert np.isfinite(kl[3:]).all()
    assert np.isfinite(grad).all()
    assert (grad[:3, 2] < 0).all()
    masked[3:, 2] = -np.inf
    also = sce.kl_divergence_with_grad(x, masked, reduction="none", backend=backend)
    np.testing.assert_array_equal(also[0][3:], kl[3:])
    np.testing.assert_array_equal(also[1][3:], grad[3:])
    z[:, 2] = -np.inf
    z[:, 3] = -np.inf  # out of the target alone
    kl, grad = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    for i in range(6):
        truth, expected = exact(x[i], z[i])
        assert units(kl[i], truth, dtype) <= 12
        np.testing.assert_allclose(grad[i], [float(v) for v in expected], rtol=1e-5, atol=1e-6)


def test_nothing_counts(backend: str) -> None:
    x = np.ones((2, 3), np.float32)
    x[0] = np.nan
    for weight in (np.zeros(2), np.array([1.0, -1.0])):
        kl, grad = sce.kl_divergence_with_grad(x, x, sample_weight=weight, backend=backend)
        assert np.isnan(kl)
        assert (grad == 0).all()
    none = np.zeros((0, 3), np.float32)
    assert np.isnan(sce.kl_divergence(none, none, backend=backend))
    assert sce.kl_divergence(none, none, reduction="sum", backend=backend) == 0
    assert sce.kl_divergence(none, none, reduction="none", backend=backend).shape == (0,)
    assert sce.kl_divergence([3.0], [-2.0], backend=backend) == 0  # one class


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_numbers(backend: str, dtype: str) -> None:
    if backend == "naive":
        pytest.skip("overflows")
    big = float(np.finfo(dtype).max)
    x = np.array([[big, -big, 0], [big / 8, 0, 1], [1e30, 2e30, 0], [1e-39, 0, 2e-39]], dtype)
    z = np.array([[big, -big, 1], [0, 0, 1], [2e30, 1e30, 0], [0, 1e-39, -1e-39]], dtype)
    with np.errstate(all="raise"):
        kl, grad = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
    assert kl[0] == 0
    for i in (1, 2, 3):
        right, slope = exact(x[i], z[i])
        floor = float(np.finfo(dtype).smallest_subnormal)
        assert abs(MP.mpf(float(kl[i])) - right) <= right * 1e-6 + floor
        scale = float(max(map(abs, slope)))  # the entries sum to 0, and one may be as good as 0
        np.testing.assert_allclose(grad[i], [float(v) for v in slope], rtol=1e-6, atol=3 * floor + 1e-15 * scale)
    assert (kl >= 0).all()
    opposite = np.array([[big, -big]], dtype)
    assert sce.kl_divergence(opposite, opposite[:, ::-1], reduction="sum", backend=backend) == np.inf
    assert sce.kl_divergence(opposite, opposite[:, ::-1], temperature=4, backend=backend) == pytest.approx(big / 2)


def test_bits_do_not_depend_on_threads_cuts_or_strides(backend: str) -> None:
    rng = np.random.default_rng(9)
    for dtype in (np.float32, np.float64, np.float16):
        x: Any = (3 * rng.standard_normal((60, 700))).astype(dtype)
        noise = np.where(np.arange(60) % 3 == 0, 1e-4, 1.0)[:, None]
        z = (x + noise * rng.standard_normal(x.shape)).astype(dtype)
        x[5, 3] = z[5, 3] = -np.inf
        right = sce.kl_divergence_with_grad(x, z, reduction="none", temperature=1.5, backend=backend)
        assert (
            right[0].tobytes() == sce.kl_divergence(x, z, reduction="none", temperature=1.5, backend=backend).tobytes()
        )
        wide_x, wide_z = np.repeat(x, 2, axis=1), np.asfortranarray(z)
        with sharing_from(1):
            for a, b, axis, threads in (
                (x, z, -1, 3), (wide_x[:, ::2], wide_z, 1, 2), (x.T.copy(), z.T, 0, 3),
                (x.reshape(4, 15, 700).swapaxes(1, 2), z.reshape(4, 15, 700).swapaxes(1, 2).copy(), 1, 2),
            ):  # fmt: skip
                kl, grad = sce.kl_divergence_with_grad(
                    a, b, axis=axis, threads=threads, reduction="none", temperature=1.5, backend=backend
                )
                assert kl.tobytes() == right[0].tobytes()
                assert np.moveaxis(grad, axis, -1).tobytes() == right[1].tobytes()
        for rows in (slice(7, 8), slice(20, 31)):
            kl, grad = sce.kl_divergence_with_grad(x[rows], z[rows], reduction="none", temperature=1.5, backend=backend)
            assert kl.tobytes() == right[0][rows].tobytes()
            assert grad.tobytes() == right[1][rows].tobytes()


def test_buffers(backend: str) -> None:
    for dtype in ("float32", "float64", "float16", ">f4"):
        x, z = (part.astype(dtype) for part in near(0.5, np.float64, 5, 11))
        native = x.dtype.newbyteorder("=")
        real = np.float64 if dtype == "float64" else np.float32
        right = sce.kl_divergence_with_grad(x, z, reduction="none", backend=backend)
        out, grad_out = np.zeros(5, real), np.zeros((5, 22), native)[:, ::2]
        kl, grad = sce.kl_divergence_with_grad(x, z, reduction="none", out=out, grad_out=grad_out, backend=backend)
        assert kl is out
        assert grad is grad_out
        np.testing.assert_array_equal(out, right[0])
        np.testing.assert_array_equal(grad_out, right[1])
        scalar = np.zeros((), real)
        assert sce.kl_divergence(x, z, out=scalar, backend=backend) is scalar
        assert scalar == sce.kl_divergence(x, z, backend=backend)
        if dtype == "float16":
            wide = np.zeros((5, 11), np.float32)
            sce.kl_divergence_with_grad(x, z, reduction="none", grad_out=wide, backend=backend)
            np.testing.assert_array_equal(wide.astype(np.float16), right[1])
        if x.dtype.isnative:
            for mine in (0, 1):
                pair = [x.copy(), z.copy()]
                sce.kl_divergence_with_grad(*pair, reduction="none", grad_out=pair[mine], backend=backend)
                np.testing.assert_array_equal(pair[mine], right[1])


X = np.zeros((3, 5), np.float32)
ROOM = np.zeros(40, np.float32)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((X, X[:, :4]), ValueError, r"target_logits must have the logits' shape \(3, 5\), got \(3, 4\)"),
        ((X, np.float32(1)), ValueError, "target_logits must have at least one axis"),
        ((X, X.astype(complex)), TypeError, "target_logits of dtype complex128 are not supported"),
        ((X, np.ma.zeros((3, 5))), TypeError, "target_logits must not be a masked array"),
        ((np.zeros((3, 0)), np.zeros((3, 0))), ValueError, "no classes"),
        ((X, X, {"temperature": 0.0}), ValueError, "temperature must be finite and above 0, got 0.0"),
        ((X, X, {"temperature": math.inf}), ValueError, "temperature must be finite and above 0, got inf"),
        ((X, X, {"temperature": "1"}), TypeError, "temperature must be a real number"),
        ((X, X, {"reduction": "batchmean"}), ValueError, "reduction='batchmean' is not known; allowed: 'mean'"),
        ((X, X, {"sample_weight": np.ones(4)}), ValueError, r"sample_weight must have shape \(3,\), got \(4,\)"),
        ((X, X, {"sample_weight": [1, np.nan, 1]}), ValueError, "sample_weight must be finite; entry 1 is nan"),
        ((X, X, {"axis": 2}), ValueError, "axis 2 is out of range"),
        ((X, X, {"threads": 0}), ValueError, "threads must be None or at least 1"),
        ((X, X, {"out": np.zeros(3, np.float32)}), ValueError, r"out must have shape \(\), got \(3,\)"),
        ((X, X, {"out": np.zeros(())}), ValueError, "out must have dtype float32, got float64"),
        ((X, X, {"grad_out": np.zeros((3, 5))}), ValueError, "grad_out must have dtype float32, got float64"),
        ((X, X, {"grad_output": np.ones(3)}), ValueError, r"grad_output must have shape \(\), got \(3,\)"),
        (
            (ROOM[:15].reshape(3, 5), X, {"grad_out": ROOM[5:20].reshape(3, 5)}),
            ValueError, "grad_out overlaps logits in part",
        ),
        (
            (X, ROOM[:15].reshape(3, 5), {"grad_out": ROOM[5:20].reshape(3, 5)}),
            ValueError, "grad_out overlaps target_logits in part",
        ),
        (
            (X, X + 1, {"grad_out": ROOM[5:20].reshape(3, 5), "out": ROOM[4:7], "reduction": "none"}),
            ValueError, "grad_out overlaps out",
        ),
        ((X, X, {"backend": "none"}), ValueError, "none"),
    ],
)  # fmt: skip
def test_errors(given: tuple[Any, ...], error: type[Exception], said: str) -> None:
    *arrays, options = given if isinstance(given[-1], dict) else (*given, {})
    with pytest.raises(error, match=said):
        sce.kl_divergence_with_grad(*arrays, **options)
    if not {"grad_out", "grad_output"} & set(options):
        with pytest.raises(error, match=said):
            sce.kl_divergence(*arrays, **options)


def test_a_backend_without_float64_is_refused() -> None:
    def kernel(*_: Any) -> None: ...

    info = BackendInfo("single", "single", dtypes=("float32",))
    registry.register(SimpleNamespace(BACKEND=info, hard=kernel, soft=kernel))
    try:
        with pytest.raises(ValueError, match="computed in float64, but backend 'single' computes float32 only"):
            sce.kl_divergence(X, X, backend="single")
    finally:
        registry.unregister("single")
