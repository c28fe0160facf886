"""Logits that are scaled, capped or left out, whether the label is the maximum, and the Hessian of confident rows."""

from __future__ import annotations

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
    worst_of,
)
from softmax_ce_bench.truth import oracle


def _inputs(subject: Subject, rows: int, classes: int, seed: int) -> tuple[Any, Any, Any]:
    """Logits, labels and soft labels. One row is confident and one has ties."""
    rng = subject.rng(seed)
    x, y = 3 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    x[0, y[0]] += 12
    x[1] = np.round(x[1])
    return subject.array(x), y, rng.dirichlet(np.ones(classes), rows)


def _options(rng: np.random.Generator, rows: int, classes: int) -> dict[str, Any]:
    """A random choice of the options that every loss has."""
    every: dict[str, Any] = {
        "weight": rng.uniform(-2, 2, classes),
        "sample_weight": rng.uniform(-1, 2, rows) * (np.arange(rows) != 2),
        "label_smoothing": float(rng.uniform(0, 1)),
        "z_loss": float(10 ** rng.uniform(-4, -1)),
        "grad_output": rng.uniform(-2, 2, rows),
    }
    return {name: value for name, value in every.items() if rng.random() < 0.5}


def _is_zero(values: Any) -> bool:
    return bool((np.asarray(values).astype(float) == 0).all())


@check(stable=None)
def scaled_and_capped_logits(subject: Subject) -> float:
    """Alone and with other options, hard and soft labels."""
    worst = 0.0
    for seed, (classes, transform) in enumerate(
        (classes, transform)
        for classes in (1, 2, 40, 2503)
        for transform in (
            {"logit_scale": 0.3}, {"logit_scale": 2.0}, {"softcap": 4.0}, {"softcap": 30.0},
            {"softcap": 7.5, "logit_scale": 1.7},
        )
    ):  # fmt: skip
        x, y, soft = _inputs(subject, 5, classes, seed)
        options = {**_options(subject.rng(seed + 100), 5, classes), **transform}
        y[4] = -100
        what = f"{classes} classes, {', '.join(options)}"
        worst = max(worst, judge_all(subject, x, y, what, **options), judge_all(subject, x, soft, what, **options))
    return worst


@check(dtypes=NATIVE)
def extreme_logits_under_a_cap(subject: Subject) -> float:
    """Infinities go to the cap, with a gradient of 0; huge, tiny and nearly capped logits lose nothing."""
    inf, large = np.inf, 0.9 * float(np.finfo(subject.dtype).max)
    x = subject.array([
        [inf, 0, -inf, 1], [inf, inf, -inf, -inf], [-inf, -inf, -inf, -inf], [large, -large, 1e30, 0],
        [1e-39, 0, -2e-39, 3e-40], [25, 24.9, -40, 30], [90, 30, 0, -90], [0.1, 0, 200, 100],
    ])  # fmt: skip
    y = np.array([1, 0, 3, 2, 0, 1, 0, 2])
    worst = 0.0
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}, {"logit_scale": 0.5}):
        for cap in (1.0, 30.0):
            loss, grad = subject.both(x, y, softcap=cap, **options)
            assert np.isfinite(loss).all(), f"loss {loss!r} under a cap of {cap}"
            assert _is_zero(grad[~np.isfinite(x)]), "a gradient at an infinite logit"
            worst = max(worst, judge_all(subject, x, y, f"cap {cap}, {options}", softcap=cap, **options))
    poisoned = x.copy()
    poisoned[0, 3] = np.nan
    loss, grad = subject.both(poisoned, y, softcap=30.0)
    assert np.isnan(loss[0]), f"loss {loss[0]!r} of a row with a NaN"
    assert np.isnan(grad[0]).all(), f"gradient {grad[0]!r} of a row with a NaN"
    assert_same_bits(grad[1:], subject.grad(x, y, softcap=30.0)[1:], "the other rows' gradient")
    return worst


@check()
def confident_rows_under_a_scale(subject: Subject) -> float:
    """p goes to 1: neither the gradient at the label nor the Hessian is lost, whatever the scale."""
    x = subject.array([[0, -10, -12, -11], [5, -2, -3, -1], [0, -1, 0, -4]])
    return worst_of(
        judge_all(subject, x, y, f"scale {scale}", logit_scale=scale)
        for scale in (0.5, 2.0, 3.0)
        for y in (np.zeros(3, int), np.array([1, 2, 3]))
    )


def _masks(subject: Subject, rows: int, classes: int, seed: int) -> tuple[Any, Any]:
    """Masks by class and by logit; some class takes part in each row."""
    rng = subject.rng(seed)
    by_class = rng.random(classes) < 0.6
    by_class[rng.integers(classes)] = True
    by_logit = rng.random((rows, classes)) < rng.uniform(0.1, 0.9, (rows, 1))
    by_logit[np.arange(rows), rng.integers(0, classes, rows)] = True
    return by_class, by_logit


@check(stable=None)
def classes_left_out(subject: Subject) -> float:
    """They count as -inf, whatever their logits are: no maximum, no sum, no smoothing, a gradient of exactly 0."""
    worst, rows = 0.0, 6
    for seed, classes in enumerate((1, 3, 40, 2503)):
        for where in _masks(subject, rows, classes, seed):
            x, y, soft = _inputs(subject, rows, classes, seed)
            part = np.broadcast_to(where, x.shape)
            # Half of the labels take part. In the other rows, the loss is infinite.
            y[::2] = part[::2].argmax(axis=1)
            y[5] = -100
            left_out = np.argwhere(~part)
            for k, poison in enumerate((np.nan, np.inf, 60.0)):
                x[tuple(left_out[k::3].T)] = poison
            options = _options(subject.rng(seed + 200), rows, classes)
            for given, targets in ((options, y), (options, soft * part), ({"label_smoothing": 0.2}, y), ({}, soft)):
                what = f"{classes} classes, where by {'class' if where.ndim == 1 else 'logit'}, {', '.join(given)}"
                worst = max(worst, judge_all(subject, x, targets, what, where=where, **given))
                _, grad, hess = subject.all_three(x, targets, where=where, **given)
                assert _is_zero(grad[~part]), f"{what}: a gradient at a class that was left out"
                assert _is_zero(hess[~part]), f"{what}: a Hessian at a class that was left out"
            y[::2], y[5] = part[::2].argmax(axis=1), part[5].argmax()
            assert np.isfinite(subject.loss(x, y, where=where, label_smoothing=0.2)[::2].astype(float)).all(), (
                f"{classes} classes: smoothing is spread over classes that were left out"
            )
    return worst


@check(stable=None)
def labels_and_rows_left_out(subject: Subject) -> None:
    """Loss +inf for a label that was left out, NaN if nothing or a NaN takes part; the other rows do not notice."""
    x, y, _ = _inputs(subject, 6, 5, 7)
    part = np.ones((6, 5), bool)
    part[1, y[1]] = False
    part[2] = False
    bad = x.copy()
    bad[3, (y[3] + 1) % 5] = np.nan
    loss, grad, lse = subject.both(bad, y, where=part, return_lse=True)
    assert loss[1] == np.inf, f"loss {loss[1]!r} of a label that was left out"
    assert np.isfinite(grad[1].astype(float)).all(), f"gradient {grad[1]!r} of a label that was left out"
    assert grad[1, y[1]] == 0, f"gradient {grad[1, y[1]]!r} at a label that was left out"
    assert np.isnan(float(loss[2])), f"loss {loss[2]!r} of a row in which no class takes part"
    assert lse[2] == -np.inf, f"log-sum-exp {lse[2]!r} of a row in which no class takes part"
    assert np.isnan(float(loss[3])), f"loss {loss[3]!r} of a row with a NaN"
    assert np.isnan(grad[2:4].astype(float)).all(), f"gradient {grad[2:4]!r} of rows without a distribution"
    keep = [0, 4, 5]
    right = subject.both(x, y, return_lse=True)
    for got, of_all, what in zip((loss, grad, lse), right, ("loss", "gradient", "log-sum-exp"), strict=True):
        assert_same_bits(got[keep], of_all[keep], f"{what} of rows in which all take part")


@check()
def left_out_is_minus_infinity(subject: Subject) -> None:
    """Bit for bit what -inf in the logits gives, for losses and normalizers."""
    for classes in (3, 40, 2503):
        for where in _masks(subject, 6, classes, classes):
            x, _, _ = _inputs(subject, 6, classes, classes)
            y = np.broadcast_to(where, x.shape).argmax(axis=1)
            masked = np.where(where, x, subject.dtype.type(-np.inf))
            both = subject.both(x, y, where=where), subject.both(masked, y)
            for got, right, what in zip(*both, ("loss", "gradient"), strict=True):
                assert_same_bits(got, right, f"{what}, {classes} classes")
            for name in ("softmax", "log_softmax", "logsumexp"):
                function = getattr(sce, name)
                got, right = function(x, where=where, **subject.where), function(masked, **subject.where)
                assert_same_bits(got, right, f"{name}, {classes} classes")


@check(stable=None)
def normalizers_without_some_classes(subject: Subject) -> float:
    """Against the oracle, and exactly 0 and -inf at classes that were left out."""
    worst = 0.0
    for classes in (2, 40, 2503):
        for where in _masks(subject, 6, classes, classes):
            x, _, _ = _inputs(subject, 6, classes, classes + 1)
            part = np.broadcast_to(where, x.shape)
            x[~part] = np.nan
            truth = oracle.evaluate(x, np.zeros(6, int), where=where)
            bound = oracle.bounds(subject.info, truth, subject.dtype)
            for name in ("softmax", "log_softmax"):
                result = getattr(sce, name)(x, where=where, **subject.where)
                right, allowed = getattr(truth, name), getattr(bound, name)
                worst = max(worst, judge(subject, result, right, allowed, f"{name}, {classes} classes"))
                assert (result[~part].astype(float) == (0 if name == "softmax" else -np.inf)).all(), f"{name} left out"
            lse = sce.logsumexp(x, where=where, **subject.where)
            worst = max(worst, judge(subject, lse, truth.lse, bound.lse, f"logsumexp, {classes} classes"))
    return worst


@check(stable=None)
def correct_is_the_first_maximum(subject: Subject) -> None:
    """Of equal logits, argmax takes the first. Ignored rows are False."""
    rng = subject.rng(9)
    for classes in (1, 2, 5, 300):
        x = subject.array(np.round(2 * rng.standard_normal((60, classes))))  # many ties
        first = x.argmax(axis=1)
        last = classes - 1 - x[:, ::-1].argmax(axis=1)
        y = np.choose(rng.integers(0, 3, 60), [first, last, rng.integers(0, classes, 60)])
        y[::9] = -100
        where = rng.random((60, classes)) < 0.7
        where[np.arange(60), rng.integers(0, classes, 60)] = True
        among = np.where(where, x.astype(float), -np.inf).argmax(axis=1)
        for options, maximum in (({}, first), ({"where": where}, among), ({"logit_scale": 2.0}, first)):
            for lse in ({}, {"return_lse": True}):
                for call in (subject.loss, subject.grad, subject.both, subject.all_three):
                    given = {**options, **lse, "label_smoothing": 0.1, "return_correct": True}
                    *rest, correct = call(x, y, **given)
                    assert correct.dtype == np.bool_, f"the correct rows have dtype {correct.dtype}"
                    wrong = np.flatnonzero(correct != (y == maximum))
                    assert not wrong.size, f"row {wrong[:1]} of {classes} classes, {options}: {correct[wrong[:1]]}"
                    given["return_correct"] = False
                    without = call(x, y, **given)
                    for got, right in zip(rest, without if isinstance(without, tuple) else (without,), strict=True):
                        assert_same_bits(got, right, "results beside the correct rows")


@check(stable=None)
def options_on_any_layout(subject: Subject) -> None:
    """Classes on another axis, strides, reversed masks, and in place: the same bits."""
    x, y, _ = _inputs(subject, 24, 37, 12)
    _, where = _masks(subject, 24, 37, 13)
    options: dict[str, Any] = {"logit_scale": 1.5, "softcap": 20.0, "label_smoothing": 0.1, "z_loss": 0.01}
    right = subject.both(x, y, where=where, **options)
    cube, labels, mask = x.reshape(4, 6, 37), y.reshape(4, 6), where.reshape(4, 6, 37)
    for axis in (0, 1):
        moved = np.ascontiguousarray(np.moveaxis(cube, -1, axis))
        loss, grad = subject.both(moved, labels, where=np.moveaxis(mask, -1, axis), axis=axis, **options)
        assert_same_bits(loss.reshape(-1), right[0], f"loss, classes on axis {axis}")
        assert_same_bits(np.moveaxis(grad, axis, -1).reshape(24, 37), right[1], f"gradient, classes on axis {axis}")
    loss, grad = subject.both(np.repeat(x, 2, axis=1)[::-1, ::2], y[::-1], where=where[::-1], **options)
    assert_same_bits(grad[::-1], right[1], "gradient of a reversed view")
    own = x.copy()
    loss, grad = subject.both(own, y, where=where, grad_out=own, **options)
    assert grad is own, "the gradient went elsewhere"
    assert_same_bits(loss, right[0], "loss beside a gradient in place")
    assert_same_bits(own, right[1], "gradient in place")
    del options["softcap"]
    loss, grad, hess = subject.all_three(x, y, where=where, **options)
    wide = np.zeros((24, 74), subject.dtype)[:, ::2]
    assert subject.all_three(x, y, where=where, hess_out=wide, **options)[2] is wide, "the Hessian went elsewhere"
    assert_same_bits(np.ascontiguousarray(wide), hess, "Hessian in a strided buffer")
    for rows in (slice(5, 6), slice(7, 20)):
        part = subject.all_three(x[rows], y[rows], where=where[rows], **options)
        for got, whole, what in zip(part, (loss, grad, hess), ("loss", "gradient", "Hessian"), strict=True):
            assert_same_bits(got, whole[rows], f"{what} of some rows alone")
