"""The edge contract, row by row: the same on every backend, dtype, entry point and reduction."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import (
    NATIVE,
    Subject,
    assert_same_bits,
    check,
    judge_all,
)


def _zero(values: Any) -> bool:
    return bool((np.asarray(values).astype(float) == 0).all())


def _nan(values: Any) -> bool:
    return bool(np.isnan(np.asarray(values).astype(float)).all())


def _ordinary(subject: Subject, rows: int = 6, classes: int = 5) -> tuple[Any, Any]:
    rng = subject.rng(11)
    return subject.array(rng.standard_normal((rows, classes))), rng.integers(0, classes, rows)


@check(stable=None)
def nan_or_infinite_logit(subject: Subject) -> None:
    """That row is NaN, whatever its labels, its log-sum-exp as SciPy's; the others do not notice."""
    for poison, lse_of_row in ((np.nan, np.nan), (np.inf, np.inf)):
        for place in (0, 3, 4):
            x, y = _ordinary(subject)
            without_mass = np.eye(5)[y] * (np.arange(6) != 2)[:, None]
            for targets in (y, np.eye(5)[y], np.full((6, 5), 0.2), without_mass):
                clean = subject.both(x, targets, return_lse=True)
                bad = x.copy()
                bad[2, place] = poison
                loss, grad, lse = subject.both(bad, targets, return_lse=True)
                assert np.isnan(float(loss[2])), f"{poison} at {place}: loss {loss[2]!r}"
                assert _nan(grad[2]), f"{poison} at {place}: gradient {grad[2]!r}"
                assert np.array_equal(lse[2], lse_of_row, equal_nan=True), f"{poison}: log-sum-exp {lse[2]!r}"
                assert _nan(sce.softmax(bad, **subject.where)[2]), f"{poison}: softmax is a number"
                assert _nan(sce.log_softmax(bad, **subject.where)[2]), f"{poison}: log_softmax is a number"
                for got, right, what in zip((loss, grad, lse), clean, ("loss", "gradient", "lse"), strict=True):
                    keep = np.arange(6) != 2
                    assert_same_bits(got[keep], right[keep], f"{poison}: the other rows' {what}")


@check(stable=None)
def nothing_above_minus_infinity(subject: Subject) -> None:
    """A row of -inf has loss and gradient NaN and log-sum-exp -inf, also with one class and in every reduction."""
    for classes in (1, 4, 5000):
        x = subject.array(np.full((2, classes), -np.inf))
        loss, grad, lse = subject.both(x, [0, classes - 1], return_lse=True)
        assert _nan(loss), f"{classes} classes: loss {loss!r}"
        assert _nan(grad), f"{classes} classes: gradient {grad!r}"
        assert (lse == -np.inf).all(), f"{classes} classes: log-sum-exp {lse!r}"
        assert np.isnan(float(subject.loss(x, [0, 0], reduction="sum"))), "the sum is a number"


@check(stable=None)
def masked_class_without_mass(subject: Subject) -> None:
    """-inf at a class without target mass: a finite loss, and a gradient of exactly 0 there."""
    x, y = _ordinary(subject)
    masked = x.copy()
    masked[np.arange(6), (y + 1) % 5] = -np.inf
    for targets in (y, np.eye(5)[y]):
        loss, grad = subject.both(masked, targets)
        assert np.isfinite(loss.astype(float)).all(), f"loss {loss!r}"
        assert _zero(grad[np.arange(6), (y + 1) % 5]), "a gradient at a masked class"
    weight = np.ones(5)
    weight[2] = 0  # a class weight of 0 takes the mass away that smoothing gave
    hidden = x.copy()
    hidden[:, 2] = -np.inf
    label = np.where(y == 2, 0, y)
    loss, grad = subject.both(hidden, label, weight=weight, label_smoothing=0.3)
    assert np.isfinite(loss.astype(float)).all(), f"loss {loss!r} with a weight of 0 at a masked class"
    assert _zero(grad[:, 2]), "a gradient at a masked class of weight 0"


@check(stable=None)
def masked_class_with_mass(subject: Subject) -> float:
    """-inf at a class with target mass (label, smoothing, soft label): loss +inf, gradient finite, a p - target."""
    x, y = _ordinary(subject)
    x[np.arange(6), y] = -np.inf
    worst = 0.0
    for targets, options in ((y, {}), (np.eye(5)[y] * 0.5 + 0.1, {}), ((y + 1) % 5, {"label_smoothing": 0.1})):
        loss, grad = subject.both(x, targets, **options)
        assert (loss == np.inf).all(), f"loss {loss!r} with {options}"
        assert np.isfinite(grad.astype(float)).all(), f"gradient {grad!r} with {options}"
        worst = max(worst, judge_all(subject, x, targets, f"mass at -inf, {options}", **options))
    return worst


@check(stable=None)
def negative_weight_at_minus_infinity(subject: Subject) -> float:
    """-inf at a class with negative target mass: loss -inf, NaN beside one with positive mass; gradient finite."""
    x, y = _ordinary(subject)
    x[np.arange(6), y] = -np.inf
    rows = np.full(6, -0.5)
    worst = 0.0
    for targets, options in (
        (y, {"sample_weight": rows}),
        (y, {"weight": np.full(5, -2.0)}),
        (np.eye(5)[y], {"weight": np.full(5, -2.0)}),
        (np.eye(5)[y], {"sample_weight": rows}),
        (y, {"weight": np.full(5, -1.0), "label_smoothing": 0.1}),
        (np.eye(5)[y] * -0.5, {}),
    ):
        loss, grad = subject.both(x, targets, **options)
        assert (loss == -np.inf).all(), f"loss {loss!r} with {options}"
        assert np.isfinite(grad.astype(float)).all(), f"gradient {grad!r} with {options}"
        worst = max(worst, judge_all(subject, x, targets, f"negative mass at -inf, {options}", **options))
    loss, grad = subject.both(x, y, weight=np.full(5, -2.0), sample_weight=rows)
    assert (loss == np.inf).all(), f"loss {loss!r} where both weights are negative"
    x, y = _ordinary(subject)
    x[:, :2] = -np.inf
    either = {"weight": np.array([1.0, -1, 1, 1, 1]), "label_smoothing": 0.1}
    loss, grad = subject.both(x, np.full(6, 3), **either)
    assert _nan(loss), f"loss {loss!r} with infinities of either sign"
    assert np.isfinite(grad.astype(float)).all(), f"gradient {grad!r} with infinities of either sign"
    return max(worst, judge_all(subject, x, np.full(6, 3), "masses of either sign at -inf", **either))


@check(stable=None)
def rows_that_do_not_count(subject: Subject) -> None:
    """Ignored or of weight 0: loss and gradient 0, whatever the logits are; the log-sum-exp is the true one."""
    x, y = _ordinary(subject)
    x[0], x[1, 2], x[2] = np.nan, np.inf, -np.inf
    true_lse = sce.logsumexp(x, **subject.where)
    ignored = y.copy()
    ignored[:4] = -100
    sample = np.array([0, 0, 0, 0, 1, 1.0])
    weights: dict[str, Any] = {"sample_weight": sample}
    for targets, extra in ((ignored, {}), (y, weights), (np.eye(5)[y], weights)):
        options = {"label_smoothing": 0.1, "z_loss": 0.1, "grad_output": np.full(6, 2.0), **extra}
        loss, grad, lse = subject.both(x, targets, return_lse=True, **options)
        assert _zero(loss[:4]), f"loss {loss[:4]!r}"
        assert _zero(grad[:4]), f"gradient {grad[:4]!r}"
        assert_same_bits(lse, true_lse, "log-sum-exp of rows that do not count")
        assert not _zero(loss[4:]), "a row that counts has no loss"
        assert_same_bits(grad, subject.grad(x, targets, **options), "gradient without the log-sum-exp")


@check(stable=None)
def no_row_counts(subject: Subject) -> None:
    """All ignored, or all weights 0: none gives zeros, sum 0, mean what on_empty says; gradients are 0."""
    x, y = _ordinary(subject)
    x[0, 0] = np.nan
    nothing = np.full(6, -100)
    zero = np.zeros(6)
    for targets, options in (
        (nothing, {}),
        (y, {"sample_weight": zero}),
        (np.eye(5)[y], {"sample_weight": zero}),
        (y, {"weight": np.zeros(5), "reduction": "mean"}),
        (y, {"sample_weight": np.array([1e16, 1, 0.25, -1e16, -1, -0.25]), "reduction": "mean"}),
        (np.eye(5)[y], {"sample_weight": np.array([1e16, 1, 0.25, -1e16, -1, -0.25]), "reduction": "mean"}),
        (np.array([0, 1] * 3), {"weight": np.array([0.1, -0.1, 1, 1, 1]), "reduction": "mean"}),
        (np.array([0, 1] * 3), {"weight": np.array([0.1, -0.1, 1, 1, 1]), "reduction": "mean", "label_smoothing": 0.1}),
        (y, {"sample_weight": np.array([1, -1, 2, -2, 3, -3.0]), "reduction": "mean", "z_loss": 0.1}),
    ):
        if "reduction" not in options:
            assert _zero(subject.loss(x, targets, **options)), "none gives a loss"
            assert subject.loss(x, targets, reduction="sum", **options) == 0, "sum gives a loss"
            assert _zero(subject.grad(x, targets, reduction="sum", **options)), "sum gives a gradient"
        mean = {**options, "reduction": "mean"}
        loss, grad = subject.both(x, targets, **mean)
        assert np.isnan(float(loss)), f"the mean of nothing is {loss!r}"
        assert _zero(grad), "the mean of nothing has a gradient"
        loss, grad = subject.both(x, targets, on_empty="zero", **mean)
        assert loss == 0, f"on_empty=zero gives {loss!r}"
        assert _zero(grad), "on_empty=zero gives a gradient"
        try:
            subject.both(x, targets, on_empty="raise", **mean)
        except ValueError as error:
            assert "no row counts" in str(error), f"unclear: {error}"
        else:
            raise AssertionError("on_empty=raise did not raise")
    assert subject.loss(x[1:], nothing[1:], reduction="mean", denominator=4.0) == 0, "a denominator makes on_empty void"


@check(stable=None)
def no_rows_at_all(subject: Subject) -> None:
    """N = 0: none has shape (0,), sum is 0, mean as on_empty says, the gradient has shape (0, C)."""
    x = subject.array(np.zeros((0, 4)))
    for targets in (np.zeros(0, int), np.zeros((0, 4))):
        loss, grad, lse = subject.both(x, targets, return_lse=True)
        assert loss.shape == (0,), f"loss of shape {loss.shape}"
        assert grad.shape == (0, 4), f"gradient of shape {grad.shape}"
        assert lse.shape == (0,), f"log-sum-exp of shape {lse.shape}"
        assert grad.dtype == subject.dtype, f"gradient of dtype {grad.dtype}"
        assert subject.loss(x, targets, reduction="sum") == 0, "the sum of no rows is not 0"
        assert np.isnan(float(subject.loss(x, targets, reduction="mean"))), "the mean of no rows is a number"
        assert subject.loss(x, targets, reduction="mean", on_empty="zero") == 0, "on_empty=zero of no rows"
    assert sce.softmax(x, **subject.where).shape == (0, 4), "softmax of no rows"


@check(stable=None)
def buffers_for_no_rows(subject: Subject) -> None:
    """Empty buffers are taken and given back, also where an axis before the empty one is not empty."""
    for shape in ((0, 3), (2, 0, 3)):
        rows = shape[:-1]
        x, grad = np.zeros(shape, subject.dtype), np.zeros(shape, subject.dtype)
        loss, lse = np.zeros(rows, subject.compute), np.zeros(rows, subject.compute)
        assert sce.softmax(x, out=grad, **subject.where) is grad, "softmax"
        assert sce.log_softmax(x, out=grad, **subject.where) is grad, "log_softmax"
        assert sce.logsumexp(x, out=lse, **subject.where) is lse, "logsumexp"
        for targets in (np.zeros(rows, int), np.zeros(shape)):
            given = subject.both(x, targets, out=loss, grad_out=grad, lse_out=lse)
            assert given[0] is loss, "the loss went elsewhere"
            assert given[1] is grad, "the gradient went elsewhere"
            assert given[2] is lse, "the log-sum-exp went elsewhere"
            assert subject.grad(x, targets, grad_out=x) is x, "in place"


@check(dtypes=NATIVE)
def maximum_at_every_place(subject: Subject) -> float:
    """So far above the rest that a maximum which leaves out a vector's lane, or the tail, overflows."""
    worst = 0.0
    for classes in (2, 5, 16, 37, 300):
        x = subject.array(np.where(np.eye(classes, dtype=bool), 2000.0, np.arange(classes) / 64))
        y = np.arange(classes)
        worst = max(worst, judge_all(subject, x, y, f"the label largest, {classes} classes"))
        worst = max(worst, judge_all(subject, x, y[::-1].copy(), f"another largest, {classes} classes"))
    return worst


@check(stable=None)
def one_class(subject: Subject) -> float:
    """C = 1 and a finite logit: loss 0, gradient 0, the z-loss apart."""
    x = subject.array([[3.0], [-2.0], [0.0], [10.0]])
    loss, grad = subject.both(x, np.zeros(4, int), label_smoothing=0.1, weight=[2.0])
    assert _zero(loss), f"loss {loss!r}"
    assert _zero(grad), f"gradient {grad!r}"
    rng = subject.rng(12)
    rows: dict[str, Any] = {"sample_weight": rng.uniform(0.1, 2, 4), "grad_output": rng.uniform(-2, 2, 4)}
    for targets in (np.zeros(4, int), rng.uniform(0.1, 2, (4, 1))):  # a soft label's mass need not be 1
        for options in ({}, {"weight": [0.7]}, {"weight": [0.7], "label_smoothing": 0.3}):
            grad = subject.grad(x, targets, **rows, **options)
            assert _zero(grad), f"gradient {grad!r} with {options}"
    return judge_all(subject, x, np.zeros(4, int), "one class, z-loss", z_loss=0.1)


@check(stable=None)
def one_row_without_an_axis(subject: Subject) -> None:
    """Logits of shape (C,) with a scalar label: the loss is a scalar in every reduction."""
    x, y = _ordinary(subject)
    loss, grad, lse = subject.both(x[1], y[1], return_lse=True)
    rows = subject.both(x, y, return_lse=True)
    assert np.shape(loss) == (), f"loss of shape {np.shape(loss)}"
    assert_same_bits(np.asarray(loss), np.asarray(rows[0][1]), "loss of a single row")
    assert_same_bits(grad, rows[1][1], "gradient of a single row")
    assert_same_bits(np.asarray(lse), np.asarray(rows[2][1]), "log-sum-exp of a single row")


@check(dtypes=NATIVE)
def huge_upstream_and_weights(subject: Subject) -> float:
    """Factors far from 1 lose nothing: weights of 1e-30 and 1e30, upstream gradients likewise."""
    x, y = _ordinary(subject)
    worst = 0.0
    for factor in (1e-30, 1e30):
        options = {"weight": np.full(5, factor), "grad_output": np.full(6, factor**0.1)}
        worst = max(worst, judge_all(subject, x, y, f"weights of {factor}", **options))
        worst = max(worst, judge_all(subject, x, np.eye(5)[y], f"soft, weights of {factor}", **options))
    return worst


@check(stable=None)
def floating_point_mode_is_left_alone(subject: Subject) -> None:
    """A call changes neither rounding nor subnormals: the same sums come out before and after."""
    probe = np.array([1.0, 2.0**-53, 2.0**-1074, 0.1])

    def mode() -> tuple[float, ...]:
        return (
            float(probe[0] + probe[1]),  # ties to even
            float(-probe[0] - probe[1]),
            float(probe[2] * 1.0),  # flushed with DAZ or FTZ
            float(np.float64(2.0**-1022) / 2),
            float(probe[0] + 1.5 * probe[1]),  # rounded up
        )

    before = mode()
    x, y = _ordinary(subject, 64, 50)
    subject.both(x, y, return_lse=True)
    assert mode() == before, "the call changed the floating-point mode"


@check(dtypes=NATIVE, stable=None)
def small_sample_weights_count(subject: Subject) -> float:
    """A row of weight 1e-6 beside rows of weight 1 has its loss and its gradient."""
    x, y = _ordinary(subject)
    sample = np.array([1, 1e-6, 1, 1e-6, 1, 1])
    worst = 0.0
    for targets in (y, np.eye(5)[y]):
        loss, grad = subject.both(x, targets, sample_weight=sample)
        assert (loss > 0).all(), f"loss {loss!r}"
        assert (grad != 0).all(), "a gradient of 0"
        assert (subject.grad(x, targets, sample_weight=sample, reduction="mean") != 0).all(), "the mean's gradient is 0"
        worst = max(worst, judge_all(subject, x, targets, "weights of 1e-6", sample_weight=sample))
    return worst
