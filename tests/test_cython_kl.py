"""The Cython backend's kernel for the KL divergence, called without the shell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from softmax_ce_bench.truth import divergence

ONE = np.ones(1)
NARROW, MIXED, WIDE = ("float32", "float32"), ("float64", "float32"), ("float64", "float64")


def kernel() -> Any:
    return sce.get_backend(available("cython")).kl


def kl(x: Any, z: Any, real: Any = None, *, temperature: float = 1.0, weight: Any = ONE, upstream: Any = ONE) -> Any:
    """Return divergences and gradients of type `real`, by default that of x."""
    real = x.dtype if real is None else real
    loss, grad = np.full(len(x), 7, real), np.full(x.shape, 7, real)
    kernel()(x, z, temperature, weight, upstream, loss, grad, 0, len(x))
    return loss, grad


def pair(dtype: str, rows: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Rows far apart, close, equal, with masks, with wide logits, and beside an offset."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.standard_normal((rows, classes))
    noise = np.ones(rows)
    noise[1::6], noise[2::6] = 1e-4, 0
    x[4::6] *= 100
    x[5::6] += 1e3
    z = x + noise[:, None] * rng.standard_normal(x.shape)
    x[3::6, : classes // 2] = z[3::6, : classes // 2] = -np.inf
    return x.astype(dtype), z.astype(dtype)


@pytest.mark.parametrize("types", [NARROW, MIXED, WIDE])
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10, 17, 64, 65, 100, 2051, 4100])
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_within_the_bound(types: tuple[str, str], classes: int, temperature: float) -> None:
    rows = 23 if classes < 1000 else 6
    x, z = pair(types[0], rows, classes, seed=classes)
    rng = np.random.default_rng(1)
    weight, upstream = rng.uniform(-2, 2, rows), rng.uniform(0.5, 2, rows)
    loss, grad = kl(x, z, types[1], temperature=temperature, weight=weight, upstream=upstream)
    given: dict[str, Any] = {"sample_weight": weight, "grad_output": upstream, "temperature": temperature}
    truth = divergence.evaluate(x, z, **given)
    bound = divergence.bounds(sce.get_backend("cython").info, truth, types[1])
    assert (np.abs(loss - truth.loss) <= bound.loss).all()
    assert (np.abs(grad - truth.grad) <= bound.grad).all()
    assert (np.sign(loss) * np.sign(weight) >= 0).all()
    assert not loss[2::6].any()
    assert not grad[2::6].any()


@pytest.mark.parametrize("types", [NARROW, MIXED, WIDE])
@pytest.mark.parametrize("classes", [3, 10, 100, 2500])
def test_a_row_depends_on_itself_alone(types: tuple[str, str], classes: int) -> None:
    x, z = pair(types[0], 21, classes)
    loss, grad = kl(x, z, types[1])
    for i in range(21):
        own = kl(x[i : i + 1], z[i : i + 1], types[1])
        np.testing.assert_array_equal(own[0], loss[i : i + 1])
        np.testing.assert_array_equal(own[1], grad[i : i + 1])
    alone, part = np.full(21, 7, types[1]), np.full(x.shape, 7, types[1])
    kernel()(x, z, 1.0, ONE, ONE, alone, None, 0, 21)
    np.testing.assert_array_equal(alone, loss)
    kernel()(x, z, 1.0, ONE, ONE, alone, part, 5, 14)
    np.testing.assert_array_equal(part[5:14], grad[5:14])
    assert (part[:5] == 7).all()
    assert (part[14:] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [10, 100])
def test_in_place_over_either_argument(dtype: str, classes: int) -> None:
    x, z = pair(dtype, 13, classes)
    right = kl(x, z)
    for mine in (0, 1):
        arrays, loss = [x.copy(), z.copy()], np.empty(13, dtype)
        kernel()(*arrays, 1.0, ONE, ONE, loss, arrays[mine], 0, 13)
        np.testing.assert_array_equal(loss, right[0])
        np.testing.assert_array_equal(arrays[mine], right[1])


@pytest.mark.parametrize("classes", [10, 72])
def test_masked_classes_change_no_bit(classes: int) -> None:
    """Rows with masks take another way through the exponentials."""
    x, z = pair("float32", 12, classes)
    x[3::6], z[3::6] = x[::6] + 1, z[::6] - 1
    loss, grad = kl(x, z)
    for low in (-np.inf, -3e38):
        masked = [np.concatenate([part, np.full((12, 3), low, np.float32)], axis=1) for part in (x, z)]
        found = kl(*masked)
        np.testing.assert_array_equal(found[0], loss)
        np.testing.assert_array_equal(found[1][:, :classes], grad)
        assert not found[1][:, classes:].any()


@pytest.mark.parametrize("classes", [10, 72])
@pytest.mark.parametrize("low", [-np.inf, -3e38, -2e4, -2740.0])
def test_classes_out_of_the_target_alone(classes: int, low: float) -> None:
    x, z = np.random.default_rng(4).standard_normal((2, 9, classes)).astype(np.float32)
    z[::2, 1] = low
    loss, grad = kl(x, z)
    truth = divergence.evaluate(x, z)
    bound = divergence.bounds(sce.get_backend("cython").info, truth, np.float32)
    assert (np.abs(loss - truth.loss) <= bound.loss).all()
    assert (np.abs(grad - truth.grad) <= bound.grad).all()


@pytest.mark.parametrize("types", [NARROW, MIXED, WIDE])
@pytest.mark.parametrize("classes", [5, 9, 80, 83])
def test_rows_without_a_distribution(types: tuple[str, str], classes: int) -> None:
    x, z = pair(types[0], 9, classes)
    x[3], z[3] = 0, 1
    right = kl(x, z, types[1])
    payload = np.full(1, 0x7FC01235, np.uint32).view(np.float32)[0].astype(types[0])
    if types[0] == "float64":
        payload = np.full(1, 0x7FF8000000000123, np.uint64).view(np.float64)[0]
    for at in (0, 3, classes - 1):
        for poison in (np.nan, payload, -payload, np.inf):
            for side in (0, 1):
                arrays = [x.copy(), z.copy()]
                arrays[side][4, at] = poison
                loss, grad = kl(arrays[0], arrays[1], types[1])
                assert np.isnan(loss[4])
                assert np.isnan(grad[4]).all()
                keep = np.arange(9) != 4
                np.testing.assert_array_equal(loss[keep], right[0][keep])
                np.testing.assert_array_equal(grad[keep], right[1][keep])
                loss, grad = kl(arrays[0], arrays[1], types[1], weight=keep.astype(float))
                assert loss[4] == 0
                assert not grad[4].any()


@pytest.mark.parametrize("types", [NARROW, MIXED, WIDE])
@pytest.mark.parametrize("classes", [5, 80])
def test_a_mask_of_the_logits_alone(types: tuple[str, str], classes: int) -> None:
    """The divergence is infinite unless the target probability is 0 in float64, at exp(-745.14)."""
    x, z = np.zeros((4, classes), types[0]), np.zeros((4, classes), types[0])
    x[:, 1] = -np.inf
    z[:, 1] = 0, -700, -744 + np.log(classes), -746 - np.log(classes)
    z[:, 2] = 1
    loss, grad = kl(x, z, types[1])
    assert np.isinf(loss[:2]).all()
    assert np.isfinite(loss[3])
    assert np.isfinite(grad).all()
    assert grad[0, 1] < 0
    assert kl(x, z, types[1], weight=np.full(1, -1.0))[0][0] == -np.inf


@pytest.mark.parametrize("types", [NARROW, WIDE])
def test_extreme_temperatures_and_factors(types: tuple[str, str]) -> None:
    x, z = pair(types[0], 6, 20)
    x[3:], z[3:] = x[:3], z[:3]
    for temperature in (5e-324, 1e-310, 1e300):
        loss, grad = kl(x, z, types[1], temperature=temperature)
        assert (loss >= 0).all()
        assert not loss[2]
        assert not grad[2].any()
    huge = np.full(1, 1e300)
    loss, grad = kl(x, z, types[1], upstream=huge)
    np.testing.assert_array_equal(loss, kl(x, z, types[1])[0])
    assert not grad[2].any()
    assert np.isinf(grad[0]).all() == (types[1] == "float32")


def test_a_divergence_in_float64_needs_logits_in_float64() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="is that of float64 logits"):
        kernel()(x, x, 1.0, ONE, ONE, np.empty(2), None, 0, 2)
