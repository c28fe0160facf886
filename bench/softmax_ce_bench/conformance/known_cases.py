"""Inputs that widely used libraries got wrong; each names where it was seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import (
    NATIVE,
    Subject,
    assert_same_bits,
    check,
    judge,
    judge_all,
)


@check(dtypes=("float32",))
def large_offset_keeps_log_two(subject: Subject) -> None:
    """[1e8, 1e8] costs ln 2 to one ULP (pytorch#11752)."""
    loss = subject.loss(subject.array([[1e8, 1e8]]), [1])[0]
    assert abs(float(loss) - math.log(2)) <= float(np.spacing(np.float32(math.log(2)))), f"loss {loss!r}, not ln 2"


@check(dtypes=("float64",))
def small_loss_is_not_zero(subject: Subject) -> None:
    """[0, -40] with label 0 costs log1p(e^-40) (scipy#18295)."""
    loss = subject.loss(subject.array([[0, -40]]), [0])[0]
    assert abs(loss - 4.248354255291589e-18) <= 4 * np.spacing(4.248354255291589e-18), f"loss {loss!r}"


@check(dtypes=("float32",))
def confident_gradient_is_not_zero(subject: Subject) -> None:
    """[0, -20] with label 0 has the gradient -2.06e-9 there (Liger-Kernel#1329)."""
    grad = subject.grad(subject.array([[0, -20]]), [0])[0, 0]
    right = -1 / (1 + math.exp(20))
    assert abs(grad - right) <= 8 * np.spacing(np.float32(abs(right))), f"gradient {grad!r}, not {right!r}"


@check(dtypes=("float32",))
def subnormal_probability(subject: Subject) -> None:
    """The softmax of [0, -95] is 5.52e-42 at 1, not 0 (pytorch PR 197785)."""
    p = sce.softmax(subject.array([[0, -95]]), **subject.where)[0, 1]
    step = float(np.finfo(np.float32).smallest_subnormal)
    assert abs(float(p) - math.exp(-95)) <= 2 * step, f"probability {p!r}, not {math.exp(-95)!r}"


@check(stable=None)
def empty_row_among_others(subject: Subject) -> None:
    """A row of -inf is NaN and leaves its neighbours alone (pytorch#25110)."""
    x = subject.array(subject.rng().standard_normal((5, 9)))
    y = np.arange(5)
    loss, grad = subject.both(x, y)
    x[2] = -np.inf
    got_loss, got_grad, lse = subject.both(x, y, return_lse=True)
    assert np.isnan(got_loss[2]), f"the row's loss is {got_loss[2]!r}"
    assert np.isnan(got_grad[2].astype(float)).all(), f"the row's gradient is {got_grad[2]!r}"
    assert lse[2] == -np.inf, f"the row's log-sum-exp is {lse[2]!r}"
    others = [0, 1, 3, 4]
    assert_same_bits(got_loss[others], loss[others], "the neighbours' loss")
    assert_same_bits(got_grad[others], grad[others], "the neighbours' gradient")


@check()
def leading_block_of_minus_infinity(subject: Subject) -> float:
    """A long row whose leading blocks are -inf is finite (flash-attention#1930)."""
    x = subject.array(subject.rng().standard_normal((2, 10_000)))
    x[:, :9_000] = -np.inf
    return judge_all(subject, x, np.array([9_500, 9_001]), "leading -inf")


@check(dtypes=NATIVE)
def row_far_below_zero(subject: Subject) -> None:
    """A row that lies below -104 throughout is as if shifted (XGBoost's start of the maximum)."""
    x = np.round(subject.rng().standard_normal((4, 33)) * 64) / 64
    y = np.arange(4)
    near, far = subject.both(subject.array(x), y), subject.both(subject.array(x - 4096), y)
    assert_same_bits(near[0], far[0], "the loss of a row shifted by -4096")
    assert_same_bits(near[1], far[1], "the gradient of a row shifted by -4096")


@check(stable=None)
def no_mass_at_minus_infinity(subject: Subject) -> float:
    """A soft label of 0 at a -inf logit contributes 0, also to the gradient (optax#896, #1762)."""
    x = subject.array([[1, -np.inf, 2, 0.5], [0, 1, -np.inf, -np.inf]])
    t = np.array([[0.25, 0, 0.75, 0], [0.5, 0.5, 0, 0]])
    loss, grad = subject.both(x, t)
    assert np.isfinite(loss.astype(float)).all(), f"loss {loss!r}"
    assert grad[0, 1] == 0, f"gradient {grad[0, 1]!r} at a masked class"
    assert grad[1, 2] == 0, f"gradient {grad[1, 2]!r} at a masked class"
    return judge_all(subject, x, t, "soft labels of 0 at -inf")


@check(stable=None)
def nan_and_both_infinities(subject: Subject) -> None:
    """[nan, inf, -inf] is NaN throughout (mindspore#378)."""
    x = subject.array([[np.nan, np.inf, -np.inf], [0, 1, 2]])
    loss, grad = subject.both(x, [2, 2])
    assert np.isnan(float(loss[0])), f"loss {loss[0]!r}"
    assert np.isnan(grad[0].astype(float)).all(), f"gradient {grad[0]!r}"
    assert np.isfinite(float(loss[1])), f"the neighbour's loss is {loss[1]!r}"


@check(stable=None, dtypes=("float32",))
def bad_labels_touch_nothing(subject: Subject) -> None:
    """Labels C, -1, 2**31 + 1 and INT64_MIN raise on every entry point (pytorch#194802, tensorflow#126005)."""
    x = subject.array(subject.rng().standard_normal((6, 10)))
    for bad in (10, -1, 2**31 + 1, -(2**63)):
        y = np.zeros(6, np.int64)
        y[4] = bad
        for call in (sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad):
            buffers: dict[str, Any] = {"lse_out": np.full(6, 7, subject.compute)}
            if call is not sce.cross_entropy_grad:
                buffers["out"] = np.full(6, 7, subject.compute)
            if call is not sce.cross_entropy:
                buffers["grad_out"] = np.full((6, 10), 7, subject.dtype)
            try:
                call(x, y, reduction="none", **buffers, **subject.where)
            except IndexError as error:
                assert str(bad) in str(error), f"the message does not name the label: {error}"
                assert "position 4" in str(error), f"the message does not name the position: {error}"
            else:
                raise AssertionError(f"{call.__name__} took the label {bad}")
            for name, buffer in buffers.items():
                assert (buffer == 7).all(), f"{call.__name__} wrote into {name} before it raised"


@check(stable=None)
def ignore_index_outside_the_classes(subject: Subject) -> None:
    """ignore_index=255 with 10 classes works, also with reduction none and with weights (pytorch#15508, #91383)."""
    x = subject.array(subject.rng().standard_normal((4, 10)))
    y = np.array([3, 255, 0, 255], np.uint8)
    weight = np.linspace(1, 2, 10)
    kept = subject.both(x[[0, 2]], y[[0, 2]], weight=weight)
    loss, grad = subject.both(x, y, weight=weight, ignore_index=255)
    assert_same_bits(loss[[0, 2]], kept[0], "the kept rows' loss")
    assert_same_bits(grad[[0, 2]], kept[1], "the kept rows' gradient")
    assert (loss[[1, 3]] == 0).all(), f"ignored rows cost {loss[[1, 3]]!r}"
    assert (grad[[1, 3]].astype(float) == 0).all(), "ignored rows have a gradient"


@check(stable=None)
def ignoring_equals_leaving_out(subject: Subject) -> None:
    """weights x smoothing x ignore equals the same call on the kept rows (pytorch#104776, #69339)."""
    rng = subject.rng(2)
    x = subject.array(rng.standard_normal((12, 7)))
    y = rng.integers(0, 7, 12)
    y[[1, 5, 8]] = 3
    keep = y != 3
    options = {"weight": rng.uniform(0.5, 2, 7), "label_smoothing": 0.2, "z_loss": 0.01}
    for reduction in ("mean", "sum"):
        some = subject.both(x, y, ignore_index=3, reduction=reduction, **options)
        kept = subject.both(x[keep], y[keep], reduction=reduction, **options)
        off = abs(float(some[0]) - float(kept[0]))  # zeros among the rows may move the sum's order, no more
        assert off <= 12 * float(np.spacing(kept[0])), f"{reduction} with an ignored class is off by {off}"
        assert_same_bits(some[1][keep], kept[1], f"gradient of the {reduction}")
        assert (some[1][~keep].astype(float) == 0).all(), "ignored rows have a gradient"


@check(dtypes=("float32",), threads=(1, 2), stable=None)
def mean_over_four_million_rows(subject: Subject) -> float:
    """The mean over 2**22 rows is as accurate as a row (pytorch#55657)."""
    rows = 1 << 22
    row = subject.array([[0.3, -1.1], [2.0, 0.5], [-0.4, -0.1], [1.7, 1.9]])
    x = np.tile(row, (rows // 4, 1))
    y = np.tile(np.array([1, 0, 1, 0]), rows // 4)
    truth, bound = subject.truth(row, y[:4])
    right = truth.loss.mean()
    u = float(np.finfo(np.float32).eps) / 2
    allowed = float((bound.loss / truth.loss.astype(float)).max() + 2 * u + rows * 2.0**-53) * float(right)
    got = subject.loss(x, y, reduction="mean")
    return judge(subject, np.asarray([got]), [right], [allowed], "mean over 2**22 rows")


@check(stable=None)
def upstream_vector_scales_rows(subject: Subject) -> float:
    """reduction none with an upstream vector gives diag(v) G (Liger-Kernel#968)."""
    rng = subject.rng(6)
    x = subject.array(rng.standard_normal((8, 6)))
    y = rng.integers(0, 6, 8)
    v = rng.uniform(-3, 3, 8)
    v[0], v[1] = 0, 1
    truth, bound = subject.truth(x, y, grad_output=v)
    got = subject.grad(x, y, grad_output=v)
    assert (got[0].astype(float) == 0).all(), "an upstream gradient of 0 gives a gradient"
    assert_same_bits(got[1], subject.grad(x, y)[1], "a row with an upstream gradient of 1")
    return judge(subject, got, truth.grad, bound.grad, "diag(v) G")


@check(dtypes=NATIVE)
def gradient_alone_far_from_zero(subject: Subject) -> None:
    """Gradient alone equals loss and gradient, also at -1e3 (scikit-learn#28046)."""
    x = subject.array(subject.rng().standard_normal((5, 8)) - 1e3)
    y = np.arange(5)
    loss, grad = subject.both(x, y)
    assert_same_bits(subject.grad(x, y), grad, "gradient alone")
    assert_same_bits(subject.loss(x, y), loss, "loss alone")


@check(dtypes=("float32",))
def loss_beyond_the_format(subject: Subject) -> None:
    """[3e38, -3e38] with label 1 costs +inf and has the gradient [1, -1]."""
    loss, grad = subject.both(subject.array([[3e38, -3e38]]), [1])
    assert loss[0] == np.inf, f"loss {loss[0]!r}"
    assert (grad[0] == [1, -1]).all(), f"gradient {grad[0]!r}"


@check(stable=None)
def no_spurious_flags(subject: Subject) -> None:
    """np.errstate(all="raise") is not tripped by underflow, -inf, NaN or overflow (numpy#22772)."""
    x = subject.array([[0, -90, -np.inf, 1], [np.nan, 0, 1, 2], [-np.inf] * 4, [np.inf, 0, 0, 0], [5, -300, 3, 2]])
    y = np.array([0, 1, 2, 3, 0])
    with np.errstate(all="raise"):
        loss, grad, lse = subject.both(x, y, return_lse=True, label_smoothing=0.1, z_loss=0.1)
        subject.loss(x, y, reduction="mean")
        sce.softmax(x, **subject.where)
        sce.log_softmax(x, **subject.where)
    assert np.isnan(float(loss[1])), "the NaN row has a number"
    assert lse[3] == np.inf, f"log-sum-exp {lse[3]!r} of a row with +inf"
    assert np.isfinite(grad[4].astype(float)).all() or not subject.info.stable, f"gradient {grad[4]!r}"
