"""Metamorphic relations and reproducibility: what must hold between two calls, without an oracle.

The functions that take logits are also driven by generated inputs in tests/.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.threads import sharing_from
from softmax_ce_bench.conformance.harness import NATIVE, Subject, assert_same_bits, check
from softmax_ce_bench.truth import oracle

_SHAPES = ((5, 2), (7, 10), (6, 33), (9, 257), (3, 5000))


def _rows(subject: Subject, rows: int, classes: int) -> tuple[Any, Any]:
    rng = subject.rng(rows * classes)
    x = subject.array(4 * rng.standard_normal((rows, classes)))
    return x, rng.integers(0, classes, rows)


def _assert_equal(left: tuple[Any, ...], right: tuple[Any, ...], what: str) -> None:
    for a, b, name in zip(left, right, ("loss", "gradient", "log-sum-exp"), strict=False):
        assert_same_bits(a, b, f"{name}, {what}")


def shift_invariant(subject: Subject, grid: Any, labels: Any, shift: float) -> None:
    """Bitwise: logits on a dyadic grid (multiples of 1/64 below 100) and a shift by a power of two."""
    here, there = subject.array(grid), subject.array(grid + shift)
    _assert_equal(subject.both(here, labels), subject.both(there, labels), f"shifted by {shift:g}")


def permutation_within_bounds(subject: Subject, x: Any, labels: Any, order: Any) -> None:
    """Permuting the classes moves the result within the bounds."""
    loss, grad = subject.both(x, labels)
    inverse = np.argsort(order)
    permuted_loss, permuted_grad = subject.both(np.ascontiguousarray(x[:, order]), inverse[labels])
    bound = subject.truth(x, labels)[1]
    _within(loss, permuted_loss, 2 * bound.loss, "loss, classes permuted")
    _within(grad, permuted_grad[:, inverse], 2 * bound.grad, "gradient, classes permuted")


def padding_within_bounds(subject: Subject, x: Any, labels: Any, extra: int) -> None:
    """More classes at -inf change nothing but the order of the sum; their gradient is exactly 0."""
    loss, grad = subject.both(x, labels)
    padded = np.concatenate([x, np.full((len(x), extra), -np.inf, x.dtype)], axis=1)
    padded_loss, padded_grad = subject.both(padded, labels)
    bound, wider = subject.truth(x, labels)[1], subject.truth(padded, labels)[1]
    _within(loss, padded_loss, bound.loss + wider.loss, "loss, padded with -inf")
    _within(grad, padded_grad[:, : x.shape[1]], bound.grad + wider.grad[:, : x.shape[1]], "gradient, padded with -inf")
    assert (padded_grad[:, x.shape[1] :].astype(float) == 0).all(), "a gradient at a padded class"


def merging_within_bounds(subject: Subject, x: Any, cut: int) -> None:
    """(m, s) of two halves merge to that of the whole: lse = logaddexp(lse1, lse2)."""
    whole = sce.logsumexp(x, **subject.where)
    parts = [np.ascontiguousarray(x[:, :cut]), np.ascontiguousarray(x[:, cut:])]
    left, right = (sce.logsumexp(part, **subject.where).astype(np.float64) for part in parts)
    labels = np.zeros(len(x), int)
    allowed = sum(subject.truth(part, labels)[1].lse for part in (x, *parts))
    merged = np.logaddexp(left, right)
    _within(whole, merged, allowed + 4 * np.finfo(float).eps * np.abs(merged), "log-sum-exp, merged from two halves")


def midpoint_convex(subject: Subject, x: Any, z: Any, labels: Any) -> None:
    """The loss is convex: at a midpoint at most the mean of the two ends, within the bounds."""
    with np.errstate(all="ignore"):
        middle = subject.array(x.astype(np.float64) / 2 + z.astype(np.float64) / 2)
    ends = subject.loss(x, labels).astype(np.float64) / 2 + subject.loss(z, labels).astype(np.float64) / 2
    bounds = [subject.truth(point, labels)[1].loss for point in (x, z, middle)]
    # The midpoint itself is rounded; the loss changes by at most twice the largest move of a logit.
    moved = np.abs(middle.astype(np.float64) - (x.astype(np.float64) + z.astype(np.float64)) / 2).max(axis=1)
    excess = subject.loss(middle, labels).astype(np.float64) - ends
    assert (excess <= sum(bounds) + 2 * moved + 1e-15 * np.abs(ends)).all(), "the loss is not convex"


def between_its_limits(subject: Subject, x: Any, labels: Any) -> None:
    """m - x_y <= loss <= m - x_y + ln C, within the bound."""
    exact = x.astype(np.float64)
    gap = exact.max(axis=1) - exact[np.arange(len(x)), labels]
    loss, bound = subject.loss(x, labels).astype(np.float64), subject.truth(x, labels)[1].loss
    slack = bound + np.finfo(float).eps * gap
    assert (loss >= gap - slack).all(), "a loss below m - x_y"
    assert (loss <= gap + math.log(x.shape[1]) + slack).all(), "a loss above m - x_y + ln C"


def _within(left: Any, right: Any, allowed: Any, what: str) -> None:
    with np.errstate(all="ignore"):
        off = np.abs(np.asarray(left).astype(np.float64) - np.asarray(right).astype(np.float64))
    worst = float((off / allowed).max(initial=0))
    assert worst <= 1, f"{what}: apart by {worst:.3g} times what the bounds allow"


@check(dtypes=NATIVE)
def shifting_keeps_the_bits(subject: Subject) -> None:
    """shift_invariant on seeded inputs."""
    for rows, classes in _SHAPES:
        rng = subject.rng(classes)
        grid = rng.integers(-64 * 16, 64 * 16, (rows, classes)) / 64
        for shift in (1024.0, -1024.0):
            shift_invariant(subject, grid, rng.integers(0, classes, rows), shift)


@check(stable=None)
def rows_are_independent(subject: Subject) -> None:
    """Any split of the batch, and any neighbour, gives a row the same bits."""
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        whole = subject.both(x, y, return_lse=True)
        for cut in (1, rows // 2, rows - 1):
            parts = [
                subject.both(part, labels, return_lse=True) for part, labels in ((x[:cut], y[:cut]), (x[cut:], y[cut:]))
            ]
            joined = tuple(np.concatenate(pair) for pair in zip(*parts, strict=True))
            _assert_equal(joined, whole, f"{rows} x {classes} split at row {cut}")


@check(threads=(1,), stable=None)
def threads_keep_the_bits(subject: Subject) -> None:
    """1, 2, 3, 7 threads and the automatic number give the same bits, and those of a small call left alone."""
    rng = subject.rng(8)
    for rows, classes in ((200, 10), (64, 1000), (9, 20_000), (3000, 3)):
        x, y = _rows(subject, rows, classes)
        soft = rng.random((rows, classes)).astype(np.float32)
        for targets in (y, soft):
            one = sce.cross_entropy_with_grad(x, targets, return_lse=True, backend=subject.backend, threads=1)
            for count in (1, 2, 3, 7, None):
                with sharing_from(1):
                    many = sce.cross_entropy_with_grad(
                        x, targets, return_lse=True, backend=subject.backend, threads=count
                    )
                _assert_equal(many, one, f"{rows} x {classes} on {count} threads")
        for count in (1, 2, 3, 7, None):
            with sharing_from(1):
                lse = sce.logsumexp(x, backend=subject.backend, threads=count)
            assert_same_bits(lse, one[2], f"log-sum-exp alone, {rows} x {classes} on {count} threads")


@check(stable=None)
def repeating_keeps_the_bits(subject: Subject) -> None:
    """The same call twice gives the same bits, also into other memory at another alignment."""
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        first = subject.both(x, y, return_lse=True)
        for offset in (1, 3, 5):
            room = np.empty(x.size + offset, x.dtype)
            moved = room[offset:].reshape(x.shape)
            moved[...] = x
            grads = np.empty(x.size + offset, x.dtype)[offset:].reshape(x.shape)
            _assert_equal(subject.both(moved, y, return_lse=True, grad_out=grads), first, f"moved by {offset} entries")


@check(stable=None)
def fused_equals_forward_and_backward(subject: Subject) -> None:
    """Loss alone, gradient alone and both at once: the same bits, for every option."""
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        soft = subject.rng(1).random((rows, classes))
        for targets in (y, soft):
            for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01}, {"reduction": "mean"}):
                loss, grad = subject.both(x, targets, **options)
                assert_same_bits(subject.loss(x, targets, **options), loss, f"loss alone, {options}")
                assert_same_bits(subject.grad(x, targets, **options), grad, f"gradient alone, {options}")
    _keeps_the_loss(subject)


def _keeps_the_loss(subject: Subject) -> None:
    """Nor does a gradient beyond the format's range, or a row far below 0, change what stands beside it."""
    rng = subject.rng(9)
    x = subject.array(4 * rng.standard_normal((300, 10)) - (60 if subject.info.stable else 0))
    for targets in (rng.integers(0, 10, 300), rng.random((300, 10)), rng.random((300, 10)) - 0.5):
        loss, lse = subject.loss(x, targets, return_lse=True)
        for upstream in (1.0, 1e300):
            beside = subject.both(x, targets, return_lse=True, grad_output=upstream)
            assert_same_bits(beside[0], loss, f"loss beside a gradient times {upstream:g}")
            assert_same_bits(beside[2], lse, f"log-sum-exp beside a gradient times {upstream:g}")


@check(dtypes=NATIVE, stable=None)
def powers_of_two_scale_the_gradient(subject: Subject) -> None:
    """However far from 1: an upstream gradient that is a power of two changes exponents alone, where they have room."""
    limits = np.finfo(subject.dtype)
    far = limits.maxexp * 5 // 8
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        soft = subject.rng(3).random((rows, classes))
        for targets, options in ((y, {}), (y, {"label_smoothing": 0.1, "z_loss": 0.01}), (soft, {})):
            plain = subject.grad(x, targets, **options)
            for exponent in (-far, far):
                expected = np.ldexp(plain, exponent)
                scaled = subject.grad(x, targets, grad_output=2.0**exponent, **options)
                normal = np.abs(expected) >= limits.tiny
                assert_same_bits(scaled[normal], expected[normal], f"gradient times 2**{exponent}, {options}")


@check(stable=None)
def negated_weights_negate(subject: Subject) -> None:
    """Weights of the other sign: rows and sums change theirs, a mean, which divides by them, does not."""
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        rng = subject.rng(4)
        soft, weight, own = rng.random((rows, classes)), rng.uniform(0.2, 3, classes), rng.uniform(0.2, 3, rows)
        for signs in (np.ones(rows), rng.choice([-1, 1], rows)):
            for targets in (y, soft):
                for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01}):
                    for reduction, factor in (("none", -1), ("sum", -1), ("mean", 1)):
                        more = {"reduction": reduction, "weight": weight, **options}
                        plain = subject.both(x, targets, sample_weight=signs * own, **more)
                        other = subject.both(x, targets, sample_weight=-signs * own, **more)
                        for a, b, what in zip(plain, other, ("loss", "gradient"), strict=True):
                            same = np.asarray(b).astype(float) == factor * np.asarray(a).astype(float)
                            assert same.all(), f"{what}, {reduction} of {rows} x {classes}, negated weights, {options}"


@check(dtypes=NATIVE, stable=None)
def relations_within_bounds(subject: Subject) -> None:
    """Permutation, padding, merging, convexity and the loss's limits on seeded inputs."""
    for rows, classes in _SHAPES:
        x, y = _rows(subject, rows, classes)
        z, _ = _rows(subject, rows, classes + 1)
        z = np.ascontiguousarray(z[:, :classes])
        permutation_within_bounds(subject, x, y, subject.rng(2).permutation(classes))
        padding_within_bounds(subject, x, y, 17)
        merging_within_bounds(subject, x, max(1, classes // 3))
        midpoint_convex(subject, x, z, y)
        between_its_limits(subject, x, y)


@check(dtypes=NATIVE, stable=None)
def uniform_rows_cost_log_c(subject: Subject) -> float:
    """A row of equal logits costs ln C, whatever they are."""
    worst = 0.0
    for classes in (1, 2, 10, 1000, 5000):
        for level in (0.0, -3.5, 17.25) if not subject.info.stable else (0.0, -3.5, 1e6, -1e6):
            x = subject.array(np.full((2, classes), level))
            loss = subject.loss(x, [0, classes - 1]).astype(np.float64)
            bound = subject.truth(x, [0, classes - 1])[1].loss
            worst = max(worst, float((np.abs(loss - math.log(classes)) / bound).max()))
    assert worst <= 1, f"off by {worst:.3g} times the bound"
    return worst


@check(dtypes=NATIVE, stable=None)
def backends_agree(subject: Subject) -> None:
    """Any two backends differ by at most the sum of their bounds."""
    x, y = _rows(subject, 8, 300)
    loss, grad = subject.both(x, y)
    truth, mine = subject.truth(x, y)
    for info in sce.backends():
        if info.available and info.name != subject.backend:
            other_loss, other_grad = sce.cross_entropy_with_grad(x, y, reduction="none", backend=info.name)
            theirs = oracle.bounds(info, truth, subject.dtype)
            _within(loss, other_loss, mine.loss + theirs.loss, f"loss against {info.name}")
            _within(grad, other_grad, mine.grad + theirs.grad, f"gradient against {info.name}")


def _ordered(values: Any, order: Any) -> Any:
    return np.take_along_axis(np.asarray(values).astype(np.float64), order, axis=1)


@check(stable=None)
def equal_logits_are_treated_equally(subject: Subject) -> None:
    """Wherever they stand: the same bits for the probability and for a gradient that is not the label's.

    A vector's lanes, its tail and the maximum itself all take ways of their own through a kernel.
    """
    for rows, classes in ((1, 3), *_SHAPES):
        rng = subject.rng(classes)
        few = subject.array(rng.integers(-64, 64, max(2, classes // 4)) / 16)
        x = rng.choice(few, (rows, classes))
        if classes == 3:
            x = subject.array([[0, 0, 1]])
        y = rng.integers(0, classes, rows)
        order = np.argsort(x.astype(np.float64), axis=1, kind="stable")
        twins = np.diff(_ordered(x, order), axis=1) == 0
        p = np.diff(_ordered(sce.softmax(x, **subject.where), order), axis=1)
        assert (p[twins] == 0).all(), f"{rows} x {classes}: equal logits get different probabilities"
        assert (p >= 0).all(), f"{rows} x {classes}: a larger logit gets a smaller probability"
        unlabelled = _ordered(np.arange(classes) != y[:, None], order).astype(bool)
        twins &= unlabelled[:, 1:] & unlabelled[:, :-1]
        for targets, options in ((y, {}), (y, {"label_smoothing": 0.1}), (np.full((rows, classes), 0.25), {})):
            g = np.diff(_ordered(subject.grad(x, targets, **options), order), axis=1)
            assert (g[twins] == 0).all(), f"{rows} x {classes}, {options}: equal logits get different gradients"


@check(dtypes=NATIVE)
def just_below_the_maximum(subject: Subject) -> None:
    """One step below the largest logit: a probability that is no larger."""
    for classes in (2, 9, 40):
        x = subject.array(subject.rng(classes).standard_normal((200, classes)))
        x[:, 0] = x.max(axis=1)
        x[:, -1] = np.nextafter(x[:, 0], subject.dtype.type(-np.inf))
        p = sce.softmax(x, **subject.where)
        assert (p[:, -1] <= p[:, 0]).all(), f"{classes} classes: the smaller logit gets the larger probability"
