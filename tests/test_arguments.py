"""Arguments that fuzzing found to end in an error or a warning of NumPy's or Python's own, or to be taken wrongly."""

from __future__ import annotations

import math
import sys
import types
from fractions import Fraction
from typing import Any, cast

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
        sce.softmax(cast(Any, None))


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


# ---- masked arrays: their mask is never dropped in silence

_MASKED = np.ma.MaskedArray([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], mask=[[True, False, False], [False, False, False]])


@pytest.mark.parametrize("backend", [None, "naive", "numpy"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", _MASKED),
        ("logits", np.ma.MaskedArray(_X)),
        ("logits", [*_MASKED]),
        ("logits", [[1.0, np.ma.masked, 3.0], [3.0, 2.0, 1.0]]),
        ("targets", np.ma.MaskedArray(_Y, mask=[False, True])),
        ("targets", _MASKED),
        ("targets", (0, np.ma.masked)),
        ("weight", np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[False, False, True])),
        ("sample_weight", np.ma.MaskedArray([1.0, 2.0], mask=[False, True])),
        ("grad_output", np.ma.MaskedArray(1.0, mask=True)),
        ("z_loss", np.ma.masked),
        ("ignore_index", np.ma.MaskedArray(0, mask=True)),
        ("out", np.ma.MaskedArray(0.0)),
        ("grad_out", np.ma.zeros((2, 3))),
        ("lse_out", np.ma.zeros(2)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_masked_array_is_refused(name: str, value: Any, backend: str | None) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must not be a masked array.*filled.*sample_weight.*ignore_index"):
        sce.cross_entropy_with_grad(**{"logits": _X, "targets": _Y, "backend": backend, name: value})


@pytest.mark.parametrize("normalise", [sce.softmax, sce.log_softmax, sce.logsumexp])
def test_a_masked_array_is_not_normalised(normalise: Any) -> None:
    with pytest.raises(TypeError, match=r"^x must not be a masked array.* x.filled\(-np.inf\)"):
        normalise(_MASKED)
    with pytest.raises(TypeError, match=r"^out must not be a masked array"):
        normalise(_X, out=np.ma.zeros(2 if normalise is sce.logsumexp else (2, 3)))


def test_what_the_message_advises_leaves_the_masked_class_out() -> None:
    right = np.logaddexp(2.0, 3.0), np.logaddexp.reduce([3.0, 2.0, 1.0])
    np.testing.assert_allclose(sce.logsumexp(_MASKED.filled(-np.inf)), right, rtol=1e-15)


def test_a_list_that_holds_itself_is_an_error_as_before() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises((TypeError, ValueError), match=r"^logits"):
        sce.cross_entropy(endless, 0)


class _RequiresGrad:
    """What a PyTorch tensor that requires grad does when it is taken as an array."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


@pytest.mark.parametrize("name", ["logits", "targets", "weight", "sample_weight", "grad_output"])
def test_a_tensor_that_requires_grad_is_an_error_that_names_the_argument(name: str) -> None:
    call: Any = sce.cross_entropy_with_grad
    with pytest.raises(TypeError, match=rf"^{name} cannot be taken as an array: .*detach"):
        call(**{"logits": _X, "targets": _Y, name: _RequiresGrad()})


# ---- weights beyond the format: of a mean the ratio counts


def _mean(x: Any, y: Any, weight: Any, sample_weight: Any, smoothing: float = 0.0, z_loss: float = 0.0) -> float:
    """The mean and nothing else, in fractions."""
    above = below = squares = rows = Fraction(0)
    for row, label, own in zip(x, y, sample_weight, strict=True):
        if label == -100:
            continue
        lse = float(np.logaddexp.reduce(np.asarray(row, np.float64)))
        target = [smoothing / len(row) + (1 - smoothing) * (j == label) for j in range(len(row))]
        loss = sum(Fraction(weight[j]) * Fraction(target[j]) * Fraction(lse - float(row[j])) for j in range(len(row)))
        above += Fraction(own) * loss
        below += Fraction(own) * Fraction(weight[label])
        squares += Fraction(own) * Fraction(lse**2)
        rows += Fraction(own)
    return float(above / below + Fraction(z_loss) * squares / rows)


_FAR = [
    ([1e-50, 1.0, 1.0], [0, 0], [1.0, 1.0]),
    ([5e-324, 1.0, 1.0], [0, 0], [1.0, 1.0]),
    ([5e-324, 5e-324, 1.7e308], [0, 1], [1.0, 3.0]),
    ([1e300, 1e-300, 1.0], [0, 1], [1.0, 1.0]),
    ([1e300, 1e-300, 1.0], [1, 1], [1e-300, 2e-300]),
    ([1e-200, 1.0, 1e-200], [0, 2], [1e-200, 3e-200]),
    ([1e-300, 1.0, 1.0], [0, 1], [1.0, 1e-300]),
    ([1.0, 2.0, 3.0], [0, -100], [1e-50, 1.0]),
    ([1.0, 2.0, 3.0], [0, 1], [1e-300, 1.7e308]),
    ([0.0, 1e-320, 1.0], [0, 1], [1.0, 1.0]),
    ([1e-12, 1.0, 1.0], [0, 0], [1e-12, 1e-3]),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("weight", "labels", "rows"), _FAR)
@pytest.mark.parametrize("n_copies", [1, 40_000], ids=["short", "full"])
def test_the_mean_is_right_whatever_the_ratio_of_its_weights(
    weight: list[float], labels: list[int], rows: list[float], dtype: Any, n_copies: int, backend: str
) -> None:
    x = np.tile(np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype), (n_copies, 1))
    y, own = np.tile(labels, n_copies), np.tile(rows, n_copies)
    with np.errstate(all="raise"):
        loss, grad = sce.cross_entropy_with_grad(x, y, weight=weight, sample_weight=own, backend=backend)
        alone = sce.cross_entropy(x, y, weight=np.array(weight), sample_weight=own, backend=backend)
    tolerance = 1e-6 if dtype is np.float32 else 1e-13
    assert loss == alone
    np.testing.assert_allclose(loss, _mean(x[:2], labels, weight, rows), rtol=tolerance)
    factors = [Fraction(s) * Fraction(weight[y]) if y >= 0 else Fraction(0) for s, y in zip(rows, labels, strict=True)]
    p = np.exp(x[:2] - np.logaddexp.reduce(x[:2].astype(float), axis=1, keepdims=True))
    p[np.arange(2), np.maximum(labels, 0)] -= 1
    right = p * np.array([[float(factor / sum(factors))] for factor in factors])
    np.testing.assert_allclose(grad[:2] * n_copies, right, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"z_loss": 0.01}], ids=str)
def test_and_with_smoothing_or_z_loss(options: dict[str, Any], dtype: Any, backend: str) -> None:
    x = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype)
    for weight, labels in (([1e-20, 1.0, 1.0], [0, 0]), ([1e300, 1e290, 1e300], [1, 1]), ([1e-10, 1e10, 1], [0, 1])):
        with np.errstate(all="raise"):
            loss = sce.cross_entropy(x, labels, weight=np.array(weight), backend=backend, **options)
        right = _mean(x, labels, weight, [1.0, 1.0], options.get("label_smoothing", 0.0), options.get("z_loss", 0.0))
        np.testing.assert_allclose(loss, right, rtol=1e-6 if dtype is np.float32 else 1e-13)


def test_a_row_whose_class_weighs_nothing_stays_a_counted_row_beside_such_weights() -> None:
    x = np.array([[math.nan, 0.0, 0.0], [1.0, 2.0, 3.0]])
    for weight in ([0.0, 1.0, 1.0], [0.0, 1.0, 1e-60]):
        grad = sce.cross_entropy_grad(x, [0, 1], weight=weight)
        np.testing.assert_array_equal(np.isnan(grad[0]), True)
        assert np.isfinite(grad[1]).all()


def test_a_masked_arrays_module_that_is_being_imported_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another thread sees it: the module is known already, and has nothing in it yet."""
    monkeypatch.setitem(sys.modules, "numpy.ma", types.ModuleType("numpy.ma"))
    assert sce.logsumexp([0.0, 0.0], backend="numpy") == pytest.approx(math.log(2))
