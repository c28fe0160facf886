"""logit_scale, softcap, where and return_correct: what they are in other words, bit by bit where that should hold."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce.threads import sharing_from

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHAPES = ((1, 1), (5, 7), (70, 33), (40, 300), (3, 5000))
FUNCTIONS = (sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> Any:
    return DTYPES[request.param]


def problem(rows: int, classes: int, dtype: Any = np.float32, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, classes)) * 4).astype(dtype), rng.integers(0, classes, rows)


def masks(y: Any, classes: int, seed: int = 1) -> tuple[Any, Any]:
    """A mask of classes and one of logits. Both keep every label."""
    rng = np.random.default_rng(seed)
    by_class, by_logit = rng.random(classes) < 0.7, rng.random((len(y), classes)) < 0.7
    by_class[y] = True
    by_logit[np.arange(len(y)), y] = True
    return by_class, by_logit


def parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(parts(found), parts(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_class_left_out_is_a_logit_of_minus_infinity(shape: tuple[int, int], dtype: Any, backend: str) -> None:
    x, y = problem(*shape, dtype)
    for where in masks(y, shape[1]):
        masked = np.where(where, x, np.array(-np.inf, dtype))
        odd = np.where(where, x, np.array(np.nan, dtype))  # what a logit that is left out is does not count
        for function, options in itertools.product(FUNCTIONS, ({}, {"reduction": "none", "return_lse": True})):
            expected = function(masked, y, backend=backend, **options)
            assert_same(function(x, y, where=where, backend=backend, **options), expected)
            assert_same(function(odd, y, where=where, backend=backend, **options), expected)
        for normalizer in (sce.softmax, sce.log_softmax, sce.logsumexp):
            expected = normalizer(masked, backend=backend)
            assert_same(normalizer(odd, where=where, backend=backend), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_of_a_power_of_two_is_scaled_logits(shape: tuple[int, int], dtype: Any, backend: str) -> None:
    x, y = problem(*shape, dtype)
    two = np.array(2, dtype)
    loss, grad, lse = sce.cross_entropy_with_grad(x, y, logit_scale=2, backend=backend, return_lse=True)
    expected: Any = sce.cross_entropy_with_grad(x * two, y, backend=backend, return_lse=True, grad_output=2.0)
    assert_same((loss, grad, lse), expected)
    hess = sce.cross_entropy_with_hessian(x, y, logit_scale=0.5, backend=backend)[2]
    expected = sce.cross_entropy_with_hessian(x / two, y, backend=backend, grad_output=0.25)[2]
    np.testing.assert_array_equal(hess.astype(np.float64), expected.astype(np.float64))


def test_a_cap_is_a_hyperbolic_tangent_with_its_slope(backend: str) -> None:
    for native, unit in ((np.float32, 2.0**-24), (np.float64, 2.0**-53)):
        x, y = problem(40, 300, native)
        x *= np.geomspace(1e-3, 30, 300).astype(native)
        wide = x.astype(np.longdouble)
        for scale, cap in ((1.0, 5.0), (0.3, 30.0), (7.0, 1e-2)):
            capped = cap * np.tanh(scale * wide / cap)
            with np.errstate(over="ignore"):
                slope = scale / np.cosh(scale * wide / cap) ** 2
            e = np.exp(capped - capped.max(axis=1, keepdims=True))
            p = e / e.sum(axis=1, keepdims=True)
            lse = capped.max(axis=1) + np.log(e.sum(axis=1))
            at = np.arange(len(y)), y
            expected = p.copy()
            expected[at] = -(e.sum(axis=1) - e[at]) / e.sum(axis=1)
            loss, grad, found = sce.cross_entropy_with_grad(
                x, y, logit_scale=scale, softcap=cap, reduction="none", return_lse=True, backend=backend
            )
            error = unit * (20 + 8 * cap)
            assert np.abs(found - lse).max() < error
            assert np.abs(loss - (lse - capped[at])).max() < error
            distance = np.abs(scale * wide / cap)
            assert (np.abs(grad - expected * slope) < np.abs(expected * slope) * (error * 4 + unit * 8 * distance)
                    + 8 * np.finfo(native).smallest_subnormal * scale).all()  # fmt: skip


def test_infinite_logits_under_a_cap_are_finite_and_have_no_gradient(backend: str) -> None:
    for native in (np.float32, np.float64):
        x = np.array([[np.inf, 1.0, -np.inf], [0.5, np.inf, np.inf]], native)
        loss, grad = sce.cross_entropy_with_grad(x, [2, 0], softcap=3.0, reduction="none", backend=backend)
        finite = np.where(np.isinf(x), np.copysign(1e6, x), x).astype(native)
        expected = sce.cross_entropy_with_grad(finite, [2, 0], softcap=3.0, reduction="none", backend=backend)
        assert_same((loss, grad), expected)
        assert np.isfinite(loss).all()
        assert (grad[np.isinf(x)] == 0).all()


def test_nan_stays_and_rows_that_do_not_count_have_no_gradient(backend: str) -> None:
    x = np.array([[np.nan, 1.0, 2.0], [np.nan, 1.0, 2.0], [1.0, np.nan, 0.0]])
    for options in ({"softcap": 2.0}, {"logit_scale": 3.0}, {"softcap": 2.0, "where": [True, True, False]}):
        loss, grad = sce.cross_entropy_with_grad(x, [1, -100, 0], reduction="none", backend=backend, **options)
        np.testing.assert_array_equal(np.isnan(loss), [True, False, True])
        np.testing.assert_array_equal(np.isnan(grad).all(axis=1), [True, False, True])
        assert (grad[1] == 0).all()
        assert loss[1] == 0


def test_a_label_left_out(backend: str, dtype: Any) -> None:
    x, _ = problem(4, 5, dtype)
    y = np.array([0, 1, 2, 3])
    where = np.array([False, True, True, True, False])
    soft = np.zeros((4, 5), np.float32)
    soft[[0, 1, 2, 3], y] = 1
    for targets, mask in itertools.product((y, soft), (where, np.tile(where, (4, 1)))):
        loss, grad = sce.cross_entropy_with_grad(
            x, targets, where=mask, reduction="none", backend=backend, sample_weight=[-1, 1, 1, 1]
        )
        assert loss[0] == -np.inf
        assert np.isfinite(loss[1:]).all()
        assert (grad[:, ~where] == 0).all()
        p = sce.softmax(x, where=mask, backend=backend)
        np.testing.assert_allclose(grad[0].astype(float), -p[0].astype(float), rtol=1e-2, atol=1e-7)


def test_a_row_without_classes_is_a_row_of_minus_infinity(backend: str) -> None:
    x, y = problem(3, 4)
    where = np.ones((3, 4), bool)
    where[1] = False
    loss, grad, lse = sce.cross_entropy_with_grad(
        x, y, where=where, reduction="none", return_lse=True, label_smoothing=0.1, backend=backend
    )
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
    np.testing.assert_array_equal(np.isnan(grad), np.array([[False], [True], [False]]) & np.ones(4, bool))
    assert lse[1] == -np.inf


@pytest.mark.parametrize("soft", [False, True])
def test_smoothing_is_spread_over_the_classes_that_take_part(soft: bool, backend: str) -> None:
    x, y = problem(6, 9, np.float64)
    weight = np.linspace(0.5, 2, 9)
    targets = np.random.default_rng(3).random((6, 9)) if soft else y
    by_class, by_logit = masks(y, 9)
    for where in (by_class, by_logit):
        rows = np.broadcast_to(where, x.shape)
        options: dict[str, Any] = {"label_smoothing": 0.2, "weight": weight, "reduction": "none", "backend": backend}
        if soft:
            targets = targets * rows
        found = sce.cross_entropy_with_grad(x, targets, where=where, **options)
        for i, row in enumerate(rows):  # the same call on the classes of this row alone
            one = targets[i][row] if soft else np.flatnonzero(row).searchsorted(y[i])
            options["weight"] = weight[row]
            loss, grad = sce.cross_entropy_with_grad(x[i][row], one, **options)
            np.testing.assert_allclose(found[0][i], loss, rtol=1e-13)
            np.testing.assert_allclose(found[1][i][row], grad, rtol=1e-11, atol=1e-15)
            assert (found[1][i][~row] == 0).all()


@pytest.mark.parametrize("shape", [*SHAPES, (3000, 3), (30, 1)])
def test_whether_the_label_is_the_first_maximum(shape: tuple[int, int], dtype: Any, backend: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, shape).astype(dtype)  # many ties
    x[rng.random(shape) < 0.001] = np.nan
    x[rng.random(shape) < 0.02] = -np.inf
    x[rng.random(shape) < 0.002] = np.inf
    first = x.astype(np.float64).argmax(axis=1)
    y = np.where(rng.random(shape[0]) < 0.6, first, rng.integers(0, shape[1], shape[0]))
    y[rng.random(shape[0]) < 0.1] = -100
    right = (y == first) & ~np.isnan(x.astype(np.float64)).any(axis=1)
    for function in FUNCTIONS:
        np.testing.assert_array_equal(function(x, y, return_correct=True, backend=backend)[-1], right)
    in_place = x.copy()
    found = sce.cross_entropy_grad(in_place, y, grad_out=in_place, return_correct=True, backend=backend)
    np.testing.assert_array_equal(found[1], right)
    if shape[1] > 1:
        where = rng.random(shape) < 0.8
        where[:, 0] = True
        rest = np.where(where, x.astype(np.float64), -np.inf)
        right = (y == rest.argmax(axis=1)) & ~np.isnan(rest).any(axis=1)
        found = sce.cross_entropy(x, y, where=where, return_correct=True, backend=backend)
        np.testing.assert_array_equal(found[1], right)


def test_the_results_come_in_their_order(backend: str) -> None:
    x, y = problem(4, 5)
    options: dict[str, Any] = {"return_lse": True, "return_correct": True, "reduction": "none", "backend": backend}
    loss, grad, hess, lse, correct = sce.cross_entropy_with_hessian(x, y, **options)
    assert_same(sce.cross_entropy_with_grad(x, y, **options), (loss, grad, lse, correct))
    assert_same(sce.cross_entropy(x, y, **options), (loss, lse, correct))
    assert_same(sce.cross_entropy_grad(x, y, **options), (grad, lse, correct))
    assert hess.shape == x.shape
    assert correct.dtype == np.bool_
    one: Any = sce.cross_entropy(x[0], y[0], return_correct=True, backend=backend)[1]
    assert isinstance(one, np.bool_)


CHANGES: list[dict[str, Any]] = [
    {"logit_scale": 0.7},
    {"softcap": 3.0},
    {"where": "class"},
    {"where": "logit"},
    {"logit_scale": 1.5, "softcap": 2.0, "where": "logit", "label_smoothing": 0.1},
    {"return_correct": True},
    {"return_correct": True, "where": "logit", "softcap": 5.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_bits_do_not_depend_on_threads_strides_and_buffers(change: dict[str, Any], dtype: Any, backend: str) -> None:
    for shape in ((70, 33), (9, 700)):
        x, y = problem(*shape, dtype)
        by_class, by_logit = masks(y, shape[1])
        options = {"reduction": "none", "backend": backend, **change}
        if "where" in change:
            options["where"] = by_class if change["where"] == "class" else by_logit
        expected = sce.cross_entropy_with_grad(x, y, **options)
        with sharing_from(1):
            assert_same(sce.cross_entropy_with_grad(x, y, threads=2, **options), expected)
        one = {**options, "where": by_logit[3:4]} if change.get("where") == "logit" else options
        for part, again in zip(sce.cross_entropy_with_grad(x[3:4], y[3:4], **one), expected, strict=True):
            np.testing.assert_array_equal(part, again[3:4])
        moved = dict(options)
        if change.get("where") == "logit":
            moved["where"] = np.asfortranarray(by_logit).T
        for turned in (np.asfortranarray(x).T, x.T.copy(), x.T[:, ::1].astype(x.dtype.newbyteorder(">"))
                       if dtype is not ml_dtypes.bfloat16 else x.T):  # fmt: skip
            found = sce.cross_entropy_with_grad(turned, y, axis=0, **moved)
            assert_same((found[0], found[1].T, *found[2:]), expected)
        in_place = x.copy()
        found = sce.cross_entropy_with_grad(in_place, y, grad_out=in_place, **options)
        assert found[1] is in_place
        assert_same(found, expected)
        narrow = np.empty(shape, np.float32)
        found = sce.cross_entropy_grad(x, y, grad_out=narrow, **options)
        assert parts(found)[0] is narrow
        np.testing.assert_allclose(narrow, expected[1].astype(np.float64), rtol=1e-2, atol=1e-6)


def test_a_gradient_of_float64_logits_may_be_float32(backend: str) -> None:
    x, y = problem(50, 12, np.float64)
    grad = sce.cross_entropy_grad(x, y, backend=backend)
    narrow = np.empty((12, 50), np.float32).T
    found = sce.cross_entropy_grad(x, y, grad_out=narrow, backend=backend)
    assert found is narrow
    np.testing.assert_array_equal(narrow, grad.astype(np.float32))
    hess_out = np.empty(x.shape, np.float32)
    hess = sce.cross_entropy_with_hessian(x, y, grad_out=narrow, hess_out=hess_out, backend=backend)[2]
    assert hess is hess_out
    np.testing.assert_array_equal(hess, sce.cross_entropy_with_hessian(x, y, backend=backend)[2].astype(np.float32))


X, Y = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), np.array([0, 2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"logit_scale": 0}, ValueError, "logit_scale must be finite and above 0, got 0"),
        ({"logit_scale": -1.0}, ValueError, "logit_scale must be finite and above 0"),
        ({"logit_scale": np.inf}, ValueError, "logit_scale must be finite and above 0"),
        ({"logit_scale": "2"}, TypeError, "logit_scale must be a real number"),
        ({"logit_scale": None}, TypeError, "logit_scale must be a real number, got None"),
        ({"logit_scale": 1e60, "logits": X.astype("f")}, ValueError, "logit_scale must be a positive number in"),
        ({"softcap": 0.0}, ValueError, "softcap must be finite and above 0"),
        ({"softcap": np.nan}, ValueError, "softcap must be finite and above 0"),
        ({"softcap": 1e-60, "logits": X.astype("f")}, ValueError, "softcap must be a positive number in float32"),
        ({"where": np.ones(3)}, TypeError, "where must be an array of bool, got dtype float64"),
        ({"where": [True, False]}, ValueError, r"where of shape \(2,\) does not fit logits of shape \(2, 3\)"),
        ({"where": np.ones((2, 1), bool)}, ValueError, r"where .* one entry for each class, shape \(3,\), or"),
        ({"where": np.ma.array(np.ones(3, bool))}, TypeError, "where must not be a masked array"),
        ({"return_correct": np.ones(2)}, TypeError, "return_correct must be True or False"),
        ({"return_correct": True, "targets": X}, ValueError, "return_correct needs hard labels"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str, backend: str) -> None:
    grad = np.full(X.shape, 7, options.get("logits", X).dtype)
    for function in (sce.cross_entropy_with_grad, sce.cross_entropy_grad, sce.cross_entropy_with_hessian):
        with pytest.raises(error, match=f"^{message}"):
            function(**{"logits": X, "targets": Y, "backend": backend, "grad_out": grad, **options})
    assert (grad == 7).all()


def test_buffers_that_overlap_are_refused() -> None:
    room = np.zeros(30)
    x = room[:6].reshape(2, 3)
    with pytest.raises(ValueError, match="hess_out overlaps logits in part"):
        sce.cross_entropy_with_hessian(x, Y, hess_out=room[3:9].reshape(2, 3))
    with pytest.raises(ValueError, match="hess_out overlaps grad_out"):
        sce.cross_entropy_with_hessian(X, Y, hess_out=x, grad_out=x)
    with pytest.raises(ValueError, match="grad_out overlaps where in part"):
        sce.cross_entropy_grad(X, Y, grad_out=x, where=room.view(bool)[:6].reshape(2, 3))
    with pytest.raises(ValueError, match=r"the Hessian is not available with softcap"):
        sce.cross_entropy_with_hessian(X, Y, softcap=3.0)
    for normalizer in (sce.softmax, sce.log_softmax, sce.logsumexp):
        with pytest.raises(ValueError, match=r"where of shape \(2,\) does not fit x of shape \(2, 3\)"):
            normalizer(X, where=[True, False])


def test_a_mask_of_all_classes_changes_nothing(backend: str) -> None:
    x, y = problem(6, 8)
    expected = sce.cross_entropy_with_grad(x, y, label_smoothing=0.1, backend=backend)
    assert_same(sce.cross_entropy_with_grad(x, y, label_smoothing=0.1, where=[True] * 8, backend=backend), expected)


def test_a_weight_of_the_gradient_is_that_of_the_logits_as_given(backend: str) -> None:
    """Central differences of the loss along a direction."""
    rng = np.random.default_rng(7)
    x, y = problem(5, 6, np.float64)
    where = masks(y, 6)[1]
    for options in ({"logit_scale": 1.7}, {"softcap": 2.5}, {"where": where, "label_smoothing": 0.1, "softcap": 4.0}):
        given: dict[str, Any] = {"z_loss": 0.01, "backend": backend, **options}
        direction, step = rng.standard_normal(x.shape), 1e-5
        ahead = sce.cross_entropy(x + step * direction, y, **given)
        behind = sce.cross_entropy(x - step * direction, y, **given)
        grad = sce.cross_entropy_grad(x, y, **given)
        assert abs((ahead - behind) / (2 * step) - (grad * direction).sum()) < 1e-8
