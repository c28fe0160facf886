"""Arguments that fuzzing found to end in an error or a warning of NumPy's or Python's own, or to be taken wrongly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import softmax_ce as sce

_X = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
_Y = np.array([0, 2])
_RAGGED = [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_loss": 10**400}, ValueError, "z_loss must be finite and at least 0, got 1000"),
        ({"z_loss": 10**5000}, ValueError, "z_loss must be finite and at least 0, got a huge int"),
        ({"z_loss": np.complex64(1)}, TypeError, "z_loss must be a real number"),
        ({"z_loss": np.array("1")}, TypeError, "z_loss must be a real number"),
        ({"z_loss": bytearray(b"1")}, TypeError, "z_loss must be a real number"),
        ({"z_loss": np.timedelta64(1, "s")}, TypeError, "z_loss must be a real number"),
        ({"label_smoothing": np.array([0.5])}, TypeError, r"label_smoothing must be .*, got array\(\[0.5\]\)"),
        ({"reduction": np.array(["mean", "sum"])}, ValueError, "reduction=array.* is not known"),
        ({"on_empty": np.zeros((0, 2))}, ValueError, "on_empty=array.* is not known"),
        ({"return_lse": np.zeros(2)}, TypeError, "return_lse must be True or False"),
        ({"weight": _RAGGED}, ValueError, "weight cannot be taken as an array"),
        ({"grad_output": _RAGGED, "reduction": "none"}, ValueError, "grad_output cannot be taken as an array"),
        ({"logits": _RAGGED}, ValueError, "logits cannot be taken as an array"),
        ({"targets": _RAGGED}, ValueError, "targets cannot be taken as an array"),
        ({"logits": _X.astype(ml_dtypes.float8_e5m2)}, TypeError, "logits of dtype float8_e5m2 are not supported"),
    ],
)  # fmt: skip
def test_the_error_names_the_argument(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        sce.cross_entropy_with_grad(**{"logits": _X, "targets": _Y, **options})
    assert "\n" not in str(caught.value)


class _Index:
    """A number to Python by __index__ alone."""

    def __index__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "value", [1, np.float16(0.5), np.int8(1), True, np.array(0.25), ml_dtypes.bfloat16(0.5), Fraction(1, 4), _Index()]
)
def test_every_real_number_is_one(value: Any) -> None:
    right = sce.cross_entropy(_X, _Y, z_loss=float(value), label_smoothing=float(value))
    assert sce.cross_entropy(_X, _Y, z_loss=value, label_smoothing=value) == right


def test_an_argument_of_softmax_is_called_x() -> None:
    with pytest.raises(TypeError, match=r"^x of dtype object are not supported"):
        sce.softmax(None)


def test_what_strides_say_of_a_single_row_is_no_overlap() -> None:
    room = np.array([3.0, 1.0, 2.0])
    x = np.lib.stride_tricks.as_strided(room, (1, 3), (800, 8))
    grad = np.lib.stride_tricks.as_strided(room, (1, 3), (0, 8))
    right = sce.softmax(x)
    assert sce.softmax(x, out=grad) is grad
    np.testing.assert_array_equal(room, right[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinite_losses_of_either_sign_sum_to_nan_in_silence(backend: str, dtype: Any) -> None:
    x = np.array([[0.0, -np.inf], [0.0, -np.inf]], dtype)
    soft = np.array([[0.0, 1.0], [0.0, -1.0]])
    with np.errstate(all="raise"):
        rows = sce.cross_entropy(x, soft, reduction="none", backend=backend)
        np.testing.assert_array_equal(rows, [np.inf, -np.inf])
        assert np.isnan(sce.cross_entropy(x, soft, reduction="sum", backend=backend))
        assert np.isnan(sce.cross_entropy(x, soft, reduction="mean", backend=backend))


@pytest.mark.parametrize(("dtype", "weight"), [(np.float32, 4e36), (np.float64, 2e306)])
def test_losses_whose_sum_leaves_the_range_sum_to_infinity_in_silence(dtype: Any, weight: float, backend: str) -> None:
    x, label, weights = np.array([[80.0, 0.0]] * 2, dtype), [1, 1], [weight] * 2
    with np.errstate(all="raise"):
        for options in ({"reduction": "sum"}, {"denominator": 0.5}):
            assert sce.cross_entropy(x, label, sample_weight=weights, backend=backend, **options) == np.inf
        mean = sce.cross_entropy(x, label, sample_weight=weights, denominator=2.0, backend=backend)
    assert mean == pytest.approx(80 * weight, rel=1e-6)


def test_a_small_loss_beside_those_whose_sum_leaves_the_range_underflows_in_silence() -> None:
    x, weights = np.array([[80.0, 0.0]] * 3), [2e306, 2e306, 1e-10]
    with np.errstate(all="raise"):
        mean = sce.cross_entropy(x, [1, 1, 1], sample_weight=weights, denominator=1e300, backend="numpy")
    assert mean == pytest.approx(320e6, rel=1e-15)


def test_soft_labels_beyond_the_logits_format_are_cast_in_silence(backend: str) -> None:
    soft = np.array([[0.25, 0.75], [1e300, 0.0], [1e300, -1e300]])
    x = np.array([[1.0, 2.0]] * 3, np.float32)
    with np.errstate(all="raise"):
        loss = sce.cross_entropy(x, soft, reduction="none", backend=backend)
    np.testing.assert_array_equal(loss[0], sce.cross_entropy(x[0], soft[0].astype(np.float32), backend=backend))
    assert not np.isfinite(loss[1:]).any()


@pytest.mark.parametrize(("upstream", "denominator", "right"), [(1e300, 1e-300, np.inf), (1e-300, 1e300, 0.0)])
def test_an_upstream_gradient_leaves_the_range_in_silence(upstream: float, denominator: float, right: float) -> None:
    with np.errstate(all="raise"):
        grad = sce.cross_entropy_grad(_X, _Y, grad_output=upstream, denominator=denominator, backend="numpy")
    np.testing.assert_array_equal(np.abs(grad), np.full(_X.shape, right))
