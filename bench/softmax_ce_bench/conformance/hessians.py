"""The Hessian's diagonal beside what the accuracy checks say of it: p near 1, its z-term, and finite differences."""

from __future__ import annotations

import numpy as np

from softmax_ce_bench.conformance.harness import NATIVE, Subject, assert_same_bits, check, judge


@check(dtypes=NATIVE)
def confident_hessian_is_not_zero(subject: Subject) -> float:
    """p (1 - p) with p as good as 1 is the others' share, which 1 - p would lose."""
    gap = 20.0 if subject.dtype == np.float32 else 40.0
    x = subject.array([[0, -gap, -gap - 1], [gap, 0, 0.5], [-gap, 0, -gap]])
    worst = 0.0
    for y in (np.zeros(3, int), np.array([1, 2, 1])):
        hess = subject.all_three(x, y)[2]
        assert (hess > 0).all(), f"Hessian {hess!r}"
        truth, bound = subject.truth(x, y)
        worst = max(worst, judge(subject, hess, truth.hess, bound.hess, "confident rows"))
    return worst


@check(dtypes=NATIVE)
def hessian_of_the_z_loss(subject: Subject) -> float:
    """Both of its terms, for large and for negative log-sum-exps, hard and soft labels."""
    rng = subject.rng(21)
    x = subject.array(2 * rng.standard_normal((6, 9)) + np.array([[0], [30], [-30], [5], [-5], [0.1]]))
    worst = 0.0
    for targets in (rng.integers(0, 9, 6), rng.dirichlet(np.ones(9), 6)):
        for z_loss in (1e-3, 0.5):
            truth, bound = subject.truth(x, targets, z_loss=z_loss)
            hess = subject.all_three(x, targets, z_loss=z_loss)[2]
            worst = max(worst, judge(subject, hess, truth.hess, bound.hess, f"z_loss {z_loss}"))
    return worst


@check(dtypes=("float64",), stable=None)
def hessian_is_the_gradient_s_slope(subject: Subject) -> None:
    """Central differences of the gradient, class by class, options and all."""
    rng = subject.rng(22)
    x, y = rng.standard_normal((4, 5)), rng.integers(0, 5, 4)
    options = {"weight": rng.uniform(0.5, 2, 5), "label_smoothing": 0.2, "z_loss": 0.1, "logit_scale": 1.5}
    hess = subject.all_three(x, y, **options)[2]
    step = 1e-5
    for j in range(5):
        move = step * (np.arange(5) == j)
        slope = (subject.grad(x + move, y, **options) - subject.grad(x - move, y, **options))[:, j] / (2 * step)
        off = np.abs(slope - hess[:, j]).max()
        assert off <= 1e-8, f"class {j}: the Hessian is off by {off:.3g}"


@check(stable=None)
def hessian_of_rows_without_one(subject: Subject) -> None:
    """NaN where the gradient is; 0 in rows that do not count; that of a sum is the same."""
    x = subject.array(subject.rng(23).standard_normal((6, 5)))
    y = np.array([0, 1, 2, -100, 4, 0])
    x[1, 3], x[2], x[3, 0] = np.nan, -np.inf, np.nan
    weight = np.array([1, 1, 1, 1, 0, 2.0])
    for targets in (y, np.eye(5)[np.maximum(y, 0)]):
        sample = weight if targets is y else weight * (y >= 0)
        hess = subject.all_three(x, targets, sample_weight=sample)[2]
        assert np.isnan(hess[1:3].astype(float)).all(), f"Hessian {hess[1:3]!r} of rows without a distribution"
        assert (hess[3:5].astype(float) == 0).all(), f"Hessian {hess[3:5]!r} of rows that do not count"
        assert (hess[[0, 5]].astype(float) > 0).all(), f"Hessian {hess[[0, 5]]!r}"
        mean = subject.all_three(x, targets, sample_weight=sample, reduction="sum")
        assert_same_bits(mean[2], hess, "Hessian of the sum")
    nothing = subject.all_three(x, np.full(6, -100), reduction="mean")
    assert (nothing[2].astype(float) == 0).all(), "the mean of nothing has a Hessian"
