"""Against the oracle, within the bounds; and against finite differences."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance import cases
from softmax_ce_bench.conformance.harness import NATIVE, Subject, check, judge, judge_all, worst_of
from softmax_ce_bench.truth import oracle


def _apply(subject: Subject, wanted: list[cases.Case]) -> float:
    fit = [case for case in wanted if case.moderate or subject.info.stable]
    return worst_of(
        judge_all(subject, subject.array(case.logits), case.targets, case.name, **case.options) for case in fit
    )


def _largest(subject: Subject) -> float:
    return float(np.finfo(subject.dtype).max) if subject.dtype.kind == "f" else 3e38


@check(stable=None)
def every_width(subject: Subject) -> float:
    """One class to three chunks of classes."""
    return _apply(subject, list(cases.shapes()))


@check()
def wide_spreads(subject: Subject) -> float:
    """Logits so far apart that most exponentials underflow."""
    largest = _largest(subject)
    return _apply(subject, [case for case in cases.wide() if np.abs(case.logits).max() < largest])


@check(dtypes=NATIVE, stable=None)
def many_equal_terms(subject: Subject) -> float:
    """A quarter of a million of them: in one running sum, roundings that all point the same way would add up."""
    x = np.full((2, 1 << 18), [[-0.3], [-1.7]])
    x[:, 5] = 0
    return judge_all(subject, subject.array(x), [5, 0], "equal terms")


@check(stable=None)
def every_option(subject: Subject) -> float:
    """Weights, smoothing, z-loss, upstream gradients, ignored rows, alone and together."""
    return _apply(subject, list(cases.options()))


@check(stable=None)
def extreme_values(subject: Subject) -> float:
    """Offsets, -inf masks, subnormals, the largest numbers."""
    return _apply(subject, list(cases.extremes(_largest(subject))))


@check(stable=None)
def softmax_and_its_logarithms(subject: Subject) -> float:
    """softmax, log_softmax and logsumexp, and that a row of probabilities sums to 1."""
    worst = 0.0
    for case in cases.cases(_largest(subject)):
        if case.options or not (case.moderate or subject.info.stable):
            continue
        x = subject.array(case.logits)
        if not np.isfinite(x.astype(float).max(axis=1)).all():
            continue
        truth, bound = subject.truth(x, np.zeros(len(x), int))
        for name in ("softmax", "log_softmax"):
            result = getattr(sce, name)(x, **subject.where)
            assert result.dtype == subject.dtype, f"{name} gives {result.dtype} for {subject.dtype}"
            worst = max(
                worst, judge(subject, result, getattr(truth, name), getattr(bound, name), f"{name}, {case.name}")
            )
        lse = sce.logsumexp(x, **subject.where)
        assert lse.dtype == subject.compute, f"logsumexp gives {lse.dtype} for {subject.dtype}"
        worst = max(worst, judge(subject, lse, truth.lse, bound.lse, f"logsumexp, {case.name}"))
    return worst


@check(dtypes=NATIVE, stable=None)
def rows_sum_to_one(subject: Subject) -> float:
    """|sum p - 1| <= u (A + 2) + C eta, and the plain gradient's row sums to 0 as well as that."""
    worst = 0.0
    u, tiny = float(np.finfo(subject.dtype).eps) / 2, float(np.finfo(subject.dtype).smallest_subnormal)
    accuracy = subject.info.accuracy[subject.compute.name]
    for case in cases.shapes():
        x, y = subject.array(case.logits), case.targets
        a_sum, floor = accuracy.summation(x.shape[1]), x.shape[1] * tiny
        p = sce.softmax(x, **subject.where)
        g = subject.grad(x, y)
        for row_p, row_g in zip(p, g, strict=True):
            worst = max(worst, abs(math.fsum(row_p) - 1) / (u * (a_sum + 2) + floor))
            worst = max(worst, abs(math.fsum(row_g)) / (u * (a_sum + 5) + floor))
    assert worst <= 1, f"a row's sum is off by {worst:.3g} times the bound"
    return worst


@check(dtypes=("float64",), stable=None)
def finite_differences(subject: Subject) -> float:
    """Central differences of the loss along random directions: |FD - g.v| <= h^2 R^3 / (36 sqrt 3) + B / h."""
    worst = 0.0
    rng = subject.rng(3)
    for classes in (2, 5, 40):
        x = 2 * rng.standard_normal((6, classes))
        y = rng.integers(0, classes, 6)
        grad = subject.grad(x, y)
        for _ in range(3):
            v = rng.standard_normal((6, classes))
            reach = np.ptp(v, axis=1)
            h = 2.0**-17  # about the cube root of the loss's error: where the two terms meet
            up, down = x + h * v, x - h * v
            step = (up - down) / 2  # what rounding left of h * v
            difference = (subject.loss(up, y) - subject.loss(down, y)) / 2
            loss_bound = subject.truth(up, y)[1].loss + subject.truth(down, y)[1].loss
            grad_bound = (subject.truth(x, y)[1].grad * np.abs(step)).sum(axis=1)
            slope = (grad * step).sum(axis=1)
            # The rounded points are symmetric about x but for half an ulp of x, over which the slope is at most reach.
            lopsided = reach * np.spacing(np.abs(x).max(axis=1))
            allowed = h**3 * reach**3 / (36 * math.sqrt(3)) + loss_bound / 2 + grad_bound + lopsided
            allowed += 4 * np.finfo(float).eps * np.abs(slope)
            worst = max(worst, float((np.abs(difference - slope) / allowed).max()))
    assert worst <= 1, f"the gradient is not the loss's: {worst:.3g} times what finite differences allow"
    return worst


@check(stable=None)
def reductions(subject: Subject) -> float:
    """mean and sum, with their denominators, against the oracle's rows."""
    worst = 0.0
    rng = subject.rng(4)
    rows, classes = 50, 11
    x = subject.array(2 * rng.standard_normal((rows, classes)))
    y = rng.integers(0, classes, rows)
    y[::7] = -100
    soft = rng.random((rows, classes))
    weight, sample = rng.uniform(0.5, 2, classes), rng.uniform(0, 2, rows)
    signed, either = weight * rng.choice([-1, 1], classes), sample * rng.choice([-1, 1], rows)
    u = float(np.finfo(subject.compute).eps) / 2
    for targets in (y, soft):
        hard = targets.ndim == 1
        counted = targets >= 0 if hard else np.ones(rows, bool)
        pairs = ((None, None), (weight, None), (None, sample), (weight, sample), (None, either), (signed, None))
        for w, s in (*pairs, (signed, either), (-weight, -sample), (-weight, None), (None, -sample)):
            by_row = counted * (np.ones(rows) if s is None else s)
            by_label = w[np.where(counted, targets, 0)] if hard and w is not None else np.ones(rows)
            natural = _exact_sum(by_row, by_label)
            options = {"weight": w, "sample_weight": s}
            truth, bound = subject.truth(x, targets, **options)
            for reduction, denominator, divisor in (("sum", None, 1.0), ("mean", None, natural), ("mean", 17.5, 17.5)):
                loss, grad = subject.both(x, targets, reduction=reduction, denominator=denominator, **options)
                assert isinstance(loss, np.generic), f"{reduction} gives a {type(loss).__name__}, not a NumPy scalar"
                assert loss.dtype == subject.compute, f"{reduction} gives {loss.dtype} for {subject.dtype}"
                right = truth.loss.sum() / divisor
                allowed = bound.loss.sum() / abs(divisor) + 2 * u * abs(float(right))
                worst = max(worst, judge(subject, np.asarray([loss]), [right], [allowed], f"{reduction}, {options}"))
                scaled = subject.truth(x, targets, grad_output=1 / divisor, **options)
                worst = max(worst, judge(subject, grad, scaled[0].grad, scaled[1].grad, f"gradient of the {reduction}"))
    return worst


def _exact_sum(rows: Any, masses: Any) -> float:
    """The sum of products, rounded once."""
    return float(sum(Fraction(r) * Fraction(m) for r, m in zip(rows.tolist(), masses.tolist(), strict=True)))


@check(stable=None, dtypes=NATIVE)
def weights_that_nearly_cancel(subject: Subject) -> float:
    """A mean's denominator is the exact sum of its weights; the error is at most sum |w| / |sum w| times a row's."""
    x, y = subject.array(subject.rng(7).standard_normal((3, 4))), np.array([0, 3, 1])
    one_hot = np.eye(4)[y]
    worst = 0.0
    for rows in (
        [0.1, 0.2, -0.3],
        [1e16, 1.0, -1e16],
        [1.0, -1.0, 2.0**-60],
        [1e300, -1e300, 1e-3],
        [-3.0, 1e-200, 3.0],
    ):
        own = np.array(rows)
        share = [Fraction(w) / sum(map(Fraction, rows), Fraction()) for w in rows]
        by_class = np.zeros(4)
        by_class[y] = own
        for targets, options in (
            (y, {"sample_weight": own}),
            (one_hot, {"sample_weight": own}),
            (y, {"weight": by_class}),
        ):
            truth, bound = subject.truth(x, targets)
            loss, grad = subject.both(x, targets, reduction="mean", **options)
            # Half a unit each: of the denominator, the product with it and the division by it.
            pairs = list(zip(share, truth.loss.astype(float), bound.loss.astype(float), strict=True))
            right = sum((c * Fraction(value) for c, value, _ in pairs), Fraction())
            allowed = sum((abs(c) * Fraction(2 * off) for c, _, off in pairs), Fraction())
            if max(abs(right) + allowed, max(map(abs, share))) >= Fraction(float(np.finfo(subject.dtype).max) / 16):
                continue  # the mean itself leaves the format
            what = f"mean with weights {rows}"
            worst = max(worst, judge(subject, [loss], [float(right)], [float(allowed)], what))
            scaled = subject.truth(x, targets, grad_output=np.array([float(c) for c in share]))
            slack = scaled[1].grad + 4 * 2.0**-53 * np.abs(scaled[0].grad)
            worst = max(worst, judge(subject, grad, scaled[0].grad, slack, f"gradient, {what}"))
    return worst


@check(stable=None, dtypes=NATIVE)
def z_loss_in_the_mean(subject: Subject) -> float:
    """The z-loss term is divided by the rows' weights, the rest by the labels' weights too."""
    rng = subject.rng(5)
    x = subject.array(rng.standard_normal((30, 4)))
    y = rng.integers(0, 4, 30)
    weight, sample = np.array([0.5, 1, 2, 4.0]), rng.uniform(0.5, 2, 30)
    options: dict[str, Any] = {"weight": weight, "sample_weight": sample}
    plain = oracle.evaluate(x, y, **options)
    lse = oracle.evaluate(x, y).lse
    right = plain.loss.sum() / (sample * weight[y]).sum() + 0.1 * (sample * lse**2).sum() / sample.sum()
    got = subject.loss(x, y, z_loss=0.1, reduction="mean", **options)
    bound = subject.truth(x, y, z_loss=0.1 * float(weight.max()), **options)[1].loss.sum() / sample.sum() / weight.min()
    return judge(subject, np.asarray([got]), [right], [bound], "mean with z_loss and weights")


@check(stable=None)
def scale_of_the_weights_in_the_mean(subject: Subject) -> float:
    """A mean divides by its weights: a common factor, even one beyond the dtype's range, changes nothing."""
    rng = subject.rng(6)
    rows, classes = 20, 7
    x = subject.array(2 * rng.standard_normal((rows, classes)))
    y = rng.integers(0, classes, rows)
    y[3] = -100
    soft = rng.random((rows, classes))
    worst = 0.0
    for targets in (y, soft):
        counted = int((y != -100).sum()) if targets is y else rows
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01}):
            truth, bound = subject.truth(x, targets, **options)
            scaled, allowed = subject.truth(x, targets, grad_output=1 / counted, **options)
            right = truth.loss.sum() / counted
            # A sum of 20 equal weights, a division and a product with it round, in float64; so does the z-loss's share.
            u = 10 * 2.0**-53
            slack = bound.loss.sum() / counted + 2 * u * right
            z_pull = 2 * options.get("z_loss", 0.0) * (np.abs(scaled.gain * scaled.lse))[:, None] * scaled.softmax
            grad_slack = allowed.grad + u * (np.abs(scaled.grad) + z_pull)
            for factor in (1e-300, 1e-50, 1e39, 1e300):
                weights: list[dict[str, Any]] = [{"sample_weight": np.full(rows, factor)}]
                if targets is y:  # the mean over soft labels does not divide by class weights
                    weights.append({"weight": np.full(classes, factor)})
                for weight in weights:
                    what = f"mean with each {next(iter(weight))} {factor}, {options}"
                    loss, grad = subject.both(x, targets, reduction="mean", **weight, **options)
                    worst = max(worst, judge(subject, np.asarray([loss]), [right], [slack], what))
                    worst = max(worst, judge(subject, grad, scaled.grad, grad_slack, f"gradient, {what}"))
    return worst


@check(dtypes=NATIVE)
def large_gaps_with_small_masses(subject: Subject) -> float:
    """A gap, or a sum of gaps, beyond the format's range that a mass brings back: the loss is finite."""
    far = 0.8 * _largest(subject)
    many = np.full((2, 4096), -far)
    many[:, -1] = far
    pair = np.array([[far, -far]])
    quarter = {"weight": [1.0, 0.25]}
    return worst_of(
        judge_all(subject, subject.array(x), targets, what, **options)
        for x, targets, what, options in (
            (many, np.full(2, 4095), "many large gaps, smoothed", {"label_smoothing": 1e-3}),
            (pair, np.array([1]), "a large gap, class weight 0.25", quarter),
            (pair, np.array([1]), "a large gap, class weight 0.25, smoothed", {"label_smoothing": 0.01, **quarter}),
            (pair, np.array([[0, 0.25]]), "a large gap, soft label 0.25", {}),
        )
    )


@check(dtypes=NATIVE)
def mean_of_huge_losses(subject: Subject) -> float:
    """Losses whose sum is beyond the format's range, while their mean is not."""
    far = 0.6 * _largest(subject)
    x = subject.array([[0, -far], [0, -far]])
    y = np.array([1, 1])
    truth, bound = subject.truth(x, y)
    loss = subject.loss(x, y, reduction="mean")
    return judge(subject, np.asarray([loss]), [(truth.loss / 2).sum()], [(bound.loss / 2).sum()], "mean of huge losses")
