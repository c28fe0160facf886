"""The Cython backend's kernels for the diagonal of the Hessian, called without the shell."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import softmax_ce as sce
from conftest import available

ONE = np.ones(1)


def kernels():
    return sce.get_backend(available("cython"))


def hard(x, labels, *, mass=None, base=None, z_loss=0.0, weight=ONE, upstream=ONE, grad=None, hess=None, loss=None):
    mass = np.ones(1, x.dtype) if mass is None else mass
    total = 0.0 if base is None else float(np.broadcast_to(base, x.shape[1]).astype(np.float64).sum())
    kernels().hessian.hard(
        x, labels, -100, mass, base, total, z_loss, weight, upstream, loss, grad, hess, None, None, 0, len(x)
    )


def right_row(x, total, z_loss, gain):
    """Return the Hessian's diagonal of a row, and its bound in units of rounding, of 50 digits."""
    with mpmath.workdps(50):
        logits = [mpmath.mpf(float(value)) for value in x]
        top = max(logits)
        down = [top - value if value > -mpmath.inf else mpmath.mpf(0) for value in logits]
        e = [mpmath.exp(value - top) for value in logits]
        s = mpmath.fsum(e)
        lse, spent = top + mpmath.log(s), mpmath.fsum(a * b for a, b in zip(e, down, strict=True))
        found, units = [], []
        for own, d in zip(e, down, strict=True):
            others = s - own
            p, q = own / s, others / s
            found.append(gain * ((total + 2 * z_loss * lse) * p * q + 2 * z_loss * p * p))
            units.append(d + spent / s + ((spent - own * d) / others if others else 0))
        return [float(value) for value in found], [float(value) for value in units]


def check(x, found, totals, z_loss, gains):
    u = np.finfo(x.dtype).eps / 2
    coefficient = 4 if x.dtype == np.float32 else x.shape[1] / 4 + 2  # of the sum
    for row, got, total, gain in zip(x, found, totals, gains, strict=True):
        right, units = right_row(row, float(total), z_loss, float(gain))
        tiny = 2 * float(np.finfo(x.dtype).smallest_subnormal) * max(1.0, abs(float(gain) * float(total)))
        bound = u * np.abs(right) * (np.array(units) + 12 + 2 * coefficient) + tiny
        assert np.all(np.abs(got - np.array(right)) <= bound)


def logits(dtype, rows, classes, seed=0):
    """Rows of ordinary logits, of a confident one, of ties, far apart, and far from 0; -inf in some."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, classes))
    x[1::6, 0] += 25.0
    x[2::6] = x[2::6, :1]
    x[3::6] *= 40.0
    x[4::6] += 1e3
    x[5::6, ::2] = -np.inf
    x[5::6, -1] = 0.0
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 17, 100, 257, 2049])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_hard_labels_are_within_the_bound(dtype, classes, z_loss):
    rows = 19 if classes < 200 else 6
    x, rng = logits(dtype, rows, classes), np.random.default_rng(1)
    labels, mass = rng.integers(0, classes, rows), rng.uniform(0.5, 2.0, classes).astype(dtype)
    weight, upstream, base = rng.uniform(0.5, 2.0, rows), np.full(1, 1e-3), np.full(1, 0.1 / classes, dtype)
    for given in (None, base):
        hess = np.full_like(x, 7)
        hard(x, labels, mass=mass, base=given, z_loss=z_loss, weight=weight, upstream=upstream, hess=hess)
        total = mass[labels].astype(float) + (0.0 if given is None else float(base[0]) * classes)
        check(x, hess, total, z_loss, weight * 1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 40, 300])
def test_soft_labels_are_within_the_bound(dtype, classes):
    x, rng = logits(dtype, 9, classes), np.random.default_rng(2)
    targets, scale = rng.random((9, classes)).astype(dtype), rng.random(classes).astype(dtype)
    hess = np.full_like(x, 7)
    kernels().hessian.soft(x, targets, scale, None, 0.0, ONE, ONE, None, None, hess, None, None, 0, 9)
    check(x, hess, (targets.astype(float) * scale).sum(axis=1), 0.0, np.ones(9))


@pytest.mark.parametrize("classes", [10, 31, 300, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_and_gradient_are_those_of_the_other_kernels(classes, dtype):
    x = logits(dtype, 37, classes)
    labels = np.random.default_rng(3).integers(0, classes, 37)
    labels[::5] = -100
    right, other = np.empty(37, dtype), np.empty_like(x)
    kernels().hard(x, labels, -100, np.ones(1, dtype), None, 0.0, 1e-3, ONE, ONE, right, other, None, None, 0, 37)
    loss, grad, hess, alone = np.empty(37, dtype), x.copy(), np.empty_like(x), np.empty_like(x)
    hard(grad, labels, z_loss=1e-3, loss=loss, grad=grad, hess=hess)  # in place
    hard(x, labels, z_loss=1e-3, hess=alone)
    np.testing.assert_array_equal(loss, right)
    np.testing.assert_array_equal(grad, other)
    np.testing.assert_array_equal(hess, alone)
    assert not hess[::5].any()


@pytest.mark.parametrize("classes", [3, 10, 100, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_depends_on_itself_alone(classes, dtype):
    x, labels = logits(dtype, 41, classes), np.arange(41) % classes
    whole, single = np.empty_like(x), np.empty_like(x)
    hard(x, labels, hess=whole)
    for i in range(41):
        hard(x[i : i + 1], labels[i : i + 1], hess=single[i : i + 1])
    np.testing.assert_array_equal(whole, single)


@pytest.mark.parametrize("classes", [2, 3, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_without_a_distribution_and_rows_that_do_not_count(classes, dtype):
    x = np.zeros((6, classes), dtype)
    x[0, 1], x[1, 1], x[2], x[3, 0], x[4], x[5, 1] = np.nan, np.inf, -np.inf, -np.inf, np.nan, np.nan
    labels, weight = np.array([0, 0, 0, 1, -100, 0]), np.array([1.0, 1, 1, 1, 1, 0])
    hess = np.full_like(x, 7)
    hard(x, labels, weight=weight, hess=hess)
    assert np.isnan(hess[:3]).all()
    assert hess[3, 0] == 0
    share = 1 / (classes - 1)
    np.testing.assert_allclose(hess[3, 1:], share * (1 - share), rtol=1e-5, atol=0)
    assert not hess[4:].any()


@pytest.mark.parametrize("classes", [10, 300])
def test_the_chance_of_the_others_does_not_cancel(classes):
    x = np.zeros((1, classes), np.float32)
    x[0, 3] = 40.0
    hess = np.empty_like(x)
    hard(x, np.array([3]), hess=hess)
    others = (classes - 1) * math.exp(-40.0)
    np.testing.assert_allclose(hess[0, 3], others, rtol=1e-5)  # 1 - p, rounded to float32, is 0


def test_an_output_of_another_type_is_refused():
    x = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="Buffer dtype mismatch"):
        hard(x, np.zeros(3, np.int64), hess=np.empty((3, 4)))


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((700, 2), 1), ((513, 10), 1), ((9, 300), 1), ((2, 21, 9, 11), 1)], ids=str
)
def test_layouts_and_narrower_outputs_change_no_bit(shape, axis, soft, options):
    rng = np.random.default_rng(4)
    x = rng.normal(size=shape) * 4
    rows = np.moveaxis(x, axis, -1)
    rows[(0,) * (x.ndim - 1)][0] = np.nan
    rows[(1,) * (x.ndim - 1)][1] = -np.inf
    labels_shape = rows.shape[:-1]
    targets = rng.random(shape) if soft else rng.integers(0, shape[axis], labels_shape)
    last = np.moveaxis(targets, axis, -1) if soft else targets
    options = options | {"backend": available("cython"), "reduction": "none"}
    loss, grad, hess = sce.cross_entropy_with_hessian(rows.copy(), last.copy(), **options)
    grad, hess = np.moveaxis(grad, -1, axis), np.moveaxis(hess, -1, axis)
    for order in "CF":
        given = x.copy(order=order)
        narrow = [np.full(shape, 7, np.float32, order) for _ in range(2)]  # type: ignore[call-overload]
        found = sce.cross_entropy_with_hessian(given, targets, axis=axis, **options)
        as_float = sce.cross_entropy_with_hessian(
            given, targets, axis=axis, grad_out=narrow[0], hess_out=narrow[1], **options
        )
        for got, right in zip((*found, *as_float), (loss, grad, hess) * 2, strict=True):
            np.testing.assert_array_equal(got, right.astype(got.dtype))
        for name in ("grad_out", "hess_out"):  # in place
            over = x.copy(order=order)
            found = sce.cross_entropy_with_hessian(over, targets, axis=axis, **{name: over}, **options)
            for got, right in zip(found, (loss, grad, hess), strict=True):
                np.testing.assert_array_equal(got, right)


def test_correct_is_told_before_the_hessian_overwrites_the_logits():
    x = np.random.default_rng(5).normal(size=(50, 4))
    labels = x.argmax(axis=1)
    over = np.asfortranarray(x)
    *_, correct = sce.cross_entropy_with_hessian(
        over, labels, hess_out=over, return_correct=True, backend=available("cython")
    )
    assert correct.all()
