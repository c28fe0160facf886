"""Inputs as users have them: strided, transposed, swapped, read-only, mapped; and buffers they hand in."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import NATIVE, Subject, assert_same_bits, check

_ROWS, _CLASSES = 9, 37


def _problem(subject: Subject) -> tuple[Any, Any, Any]:
    rng = subject.rng(21)
    x = subject.array(3 * rng.standard_normal((_ROWS, _CLASSES)))
    soft = rng.random((_ROWS, _CLASSES)).astype(np.float32)
    return x, rng.integers(0, _CLASSES, _ROWS), soft


def _layouts(a: Any) -> Iterator[tuple[str, Any]]:
    """The same (rows, classes) values in other memory."""
    rows, classes = a.shape
    wide = np.zeros((2 * rows, 3 * classes), a.dtype)
    wide[::2, ::3] = a
    yield "strided", wide[::2, ::3]
    yield "classes reversed in memory", a[:, ::-1].copy()[:, ::-1]
    yield "rows reversed in memory", a[::-1].copy()[::-1]
    yield "Fortran order", np.asfortranarray(a)
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    yield "unaligned", raw
    frozen = a.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    if a.dtype.kind == "f":
        yield "byte-swapped", a.astype(a.dtype.newbyteorder())
    yield "a subclass", a.copy().view(_Labelled)


class _Labelled(np.ndarray):
    """A subclass that adds nothing."""


@check(stable=None)
def other_memory_same_bits(subject: Subject) -> None:
    """Strided, reversed, F-order, unaligned, byte-swapped and read-only inputs (pytorch#72120, cython#1605)."""
    x, y, soft = _problem(subject)
    hard_result, soft_result = subject.both(x, y, return_lse=True), subject.both(x, soft, return_lse=True)
    softmax = sce.softmax(x, **subject.where)
    for name, other in _layouts(x):
        for targets, right in ((y, hard_result), (soft, soft_result)):
            for got, want in zip(subject.both(other, targets, return_lse=True), right, strict=True):
                assert_same_bits(np.asarray(got), want, f"logits {name}")
        assert_same_bits(np.asarray(sce.softmax(other, **subject.where)), softmax, f"softmax of logits {name}")
    for name, other in _layouts(soft):
        for got, want in zip(subject.both(x, other, return_lse=True), soft_result, strict=True):
            assert_same_bits(got, want, f"soft labels {name}")


@check(stable=None)
def labels_of_every_kind(subject: Subject) -> None:
    """Any integer dtype, strides and lists; the same bits as int64 (pytorch#45540, #59765)."""
    x, y, _ = _problem(subject)
    right = subject.both(x, y)
    spread = np.zeros(3 * _ROWS, np.int64)
    spread[::3] = y
    kinds = [y.astype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "u8", ">i8")]
    unaligned = np.zeros(y.nbytes + 4, np.uint8)[4:].view(y.dtype)  # as in a file after a header of four bytes
    unaligned[...] = y
    for other in (*kinds, spread[::3], y[::-1].copy()[::-1], unaligned, y.tolist(), tuple(y.tolist())):
        for got, want in zip(subject.both(x, other), right, strict=True):
            assert_same_bits(got, want, f"labels as {getattr(other, 'dtype', type(other))}")


@check(stable=None)
def soft_labels_of_every_kind(subject: Subject) -> None:
    """One-hot soft labels of integer, bool and float dtypes are the hard labels, within the order of operations."""
    x, y, _ = _problem(subject)
    one_hot = np.eye(_CLASSES, dtype=np.float64)[y]
    right = subject.both(x, one_hot)
    for kind in ("i4", "u1", "?", "f2", "f4"):
        for got, want in zip(subject.both(x, one_hot.astype(kind)), right, strict=True):
            assert_same_bits(got, want, f"soft labels as {kind}")


@check(dtypes=NATIVE, stable=None)
def memory_mapped(subject: Subject) -> None:
    """Arrays mapped from files, read-only, and a gradient mapped to a file."""
    x, y, _ = _problem(subject)
    right = subject.both(x, y)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        np.save(Path(folder) / "y.npy", y)
        mapped, labels = (np.load(Path(folder) / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
        target = np.lib.format.open_memmap(Path(folder) / "g.npy", "w+", x.dtype, x.shape)
        loss, grad = subject.both(mapped, labels, grad_out=target)
        assert grad is target, "the mapped buffer is not what is returned"
        assert_same_bits(loss, right[0], "loss from mapped files")
        assert_same_bits(np.asarray(grad), right[1], "gradient in a mapped file")
        del mapped, labels, target, grad  # a mapped file that is open cannot be deleted everywhere


@check(stable=None)
def any_class_axis(subject: Subject) -> None:
    """N-d logits with the classes on any axis: the rows are those of the transposed array, bit by bit."""
    rng = subject.rng(22)
    x = subject.array(rng.standard_normal((3, 4, 5, 6)))
    soft = rng.random(x.shape)
    for axis in (0, 1, 2, 3, -1, -2, -4):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        classes = x.shape[axis]
        y = rng.integers(0, classes, moved.shape[:-1])
        loss, grad, lse = subject.both(x, y, axis=axis, return_lse=True)
        flat = subject.both(moved.reshape(-1, classes), y.reshape(-1), return_lse=True)
        assert loss.shape == y.shape, f"axis {axis}: loss of shape {loss.shape}"
        assert grad.shape == x.shape, f"axis {axis}: gradient of shape {grad.shape}"
        assert_same_bits(loss.reshape(-1), flat[0], f"loss, axis {axis}")
        assert_same_bits(np.moveaxis(grad, axis, -1).reshape(-1, classes), flat[1], f"gradient, axis {axis}")
        assert_same_bits(lse.reshape(-1), flat[2], f"log-sum-exp, axis {axis}")
        by_soft = subject.both(x, soft, axis=axis)
        flat_soft = subject.both(moved.reshape(-1, classes), np.moveaxis(soft, axis, -1).reshape(-1, classes))
        assert_same_bits(by_soft[0].reshape(-1), flat_soft[0], f"loss of soft labels, axis {axis}")
        for name in ("softmax", "log_softmax"):
            function = getattr(sce, name)
            got = np.moveaxis(function(x, axis=axis, **subject.where), axis, -1)
            assert_same_bits(got, function(moved, **subject.where), f"{name}, axis {axis}")


@check(dtypes=("float64",), stable=None)
def anything_that_is_an_array(subject: Subject) -> None:
    """Lists, integers of every width, and objects with __array__ are taken; integers as float64."""
    values = [[1, 2, 4], [3, 0, 1]]
    right = subject.both(np.array(values, np.float64), [2, 0])

    class Boxed:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(values, dtype or np.float64)

    integers = [np.array(values, kind) for kind in ("i1", "u2", "i4", "u8")]
    for other in (values, Boxed(), *integers):
        for got, want in zip(subject.both(other, [2, 0]), right, strict=True):
            assert_same_bits(got, want, f"logits as {type(other).__name__}")


@check(stable=None)
def buffers_are_what_is_returned(subject: Subject) -> None:
    """Every buffer that was given is the object returned, contiguous or not, and holds the bits of the plain call."""
    x, y, _ = _problem(subject)
    loss, grad, lse = subject.both(x, y, return_lse=True)
    for step in (1, 2):
        outs = {
            "out": np.empty(step * _ROWS, subject.compute)[::step],
            "grad_out": np.empty((_ROWS, step * _CLASSES), subject.dtype)[:, ::step],
            "lse_out": np.empty(step * _ROWS, subject.compute)[::step],
        }
        got = subject.both(x, y, **outs)
        for result, buffer, want in zip(got, outs.values(), (loss, grad, lse), strict=True):
            assert result is buffer, "another object than the buffer is returned"
            assert_same_bits(result, want, f"in a buffer with a step of {step}")
    scalar = np.empty((), subject.compute)
    assert subject.loss(x, y, reduction="mean", out=scalar) is scalar, "a 0-d buffer is not what is returned"
    assert_same_bits(scalar, np.asarray(subject.loss(x, y, reduction="mean")), "the mean in a 0-d buffer")
    for name in ("softmax", "log_softmax"):
        buffer = np.empty_like(x)
        assert getattr(sce, name)(x, out=buffer, **subject.where) is buffer, f"{name}: another object is returned"
        assert_same_bits(buffer, getattr(sce, name)(x, **subject.where), f"{name} in a buffer")


@check(stable=None)
def gradient_in_place(subject: Subject) -> None:
    """grad_out=logits overwrites the logits with the bits of the plain call, contiguous or strided, any option."""
    x, y, soft = _problem(subject)
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1, "weight": np.linspace(0, 2, _CLASSES)}):
        for targets in (y, soft):
            loss, grad = subject.both(x, targets, **options)
            for name, other in _layouts(x):
                if other.dtype != x.dtype or not other.flags.writeable:
                    continue
                got = subject.both(other, targets, grad_out=other, **options)
                assert got[1] is other, f"{name}: another object is returned"
                assert_same_bits(got[0], loss, f"loss, gradient in place of {name} logits")
                assert_same_bits(np.asarray(other), grad, f"gradient in place of {name} logits")
    for name in ("softmax", "log_softmax"):
        right = getattr(sce, name)(x, **subject.where)
        own = x.copy()
        getattr(sce, name)(own, out=own, **subject.where)
        assert_same_bits(own, right, f"{name} in place")


@check(dtypes=NATIVE, stable=None)
def matrices_are_arrays(subject: Subject) -> None:
    """numpy.matrix, whose * is another: as logits, soft labels, and for the results."""
    x, _, soft = _problem(subject)
    loss, grad = subject.both(x, soft)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # NumPy's own, of making one
        matrix, room = np.matrix(x), np.matrix(np.zeros_like(x))
        got = subject.both(matrix, np.matrix(soft), grad_out=room)
        across = subject.both(x[None], soft[None], out=np.matrix(np.zeros((1, _ROWS), x.dtype)))
    assert got[1] is room
    assert_same_bits(got[0], loss, "loss of matrices")
    assert_same_bits(np.asarray(room), grad, "gradient of matrices, into one")
    assert_same_bits(np.asarray(across[0]), loss[None], "loss into a matrix")
    assert_same_bits(across[1][0], grad, "gradient beside a loss into a matrix")


@check(dtypes=NATIVE)
def gradient_in_place_of_unusual_rows(subject: Subject) -> None:
    """Likewise where rows among ordinary ones are not finite, do not count, or have a loss or gradient too large."""
    largest = float(np.finfo(subject.dtype).max)
    for classes in (3, _CLASSES, 300):
        rng = subject.rng(classes)
        x, y = subject.array(3 * rng.standard_normal((40, classes))), rng.integers(0, classes, 40)
        x[3, :2], y[3] = (largest, -largest), 1
        x[7, 0], x[11, 0], x[13], x[19, 1] = np.inf, np.nan, -np.inf, -np.inf
        y[17], y[19] = -100, 1
        for options in (
            {},
            {"label_smoothing": 0.1},
            {"grad_output": min(4 * largest, 1e308), "sample_weight": [2.0] * 40},
        ):
            loss, grad = subject.both(x, y, **options)
            own = x.copy()
            got, _ = subject.both(own, y, grad_out=own, **options)
            assert_same_bits(got, loss, f"loss of {classes} classes, gradient in place, {list(options)}")
            assert_same_bits(own, grad, f"gradient of {classes} classes in place, {list(options)}")


@check(dtypes=NATIVE, stable=None)
def outputs_over_other_inputs(subject: Subject) -> None:
    """The gradient over the soft targets, the loss over the sample weights: the very same memory is in place."""
    x, y, soft = _problem(subject)
    soft = soft.astype(subject.dtype)
    loss, grad = subject.both(x, soft)
    own = soft.copy()
    got = subject.both(x, own, grad_out=own)
    assert_same_bits(got[0], loss, "loss, gradient over the targets")
    assert_same_bits(own, grad, "gradient over the targets")
    sample = np.linspace(0.5, 2, _ROWS).astype(subject.dtype)
    loss, grad = subject.both(x, y, sample_weight=sample)
    own = sample.copy()
    got = subject.both(x, y, sample_weight=own, out=own)
    assert_same_bits(own, loss, "loss over the sample weights")
    assert_same_bits(got[1], grad, "gradient beside a loss over the sample weights")


@check(dtypes=("float16", "bfloat16"), stable=None)
def wide_gradient_of_narrow_logits(subject: Subject) -> None:
    """grad_out may be float32 for 16-bit logits: a mean gradient that float16 would flush to 0 is kept."""
    x, y, _ = _problem(subject)
    wide = np.empty(x.shape, np.float32)
    assert sce.cross_entropy_grad(x, y, denominator=1e7, grad_out=wide, **subject.where) is wide
    right = sce.cross_entropy_grad(x.astype(np.float32), y, denominator=1e7, **subject.where)
    assert_same_bits(wide, right, "float32 gradient of 16-bit logits")
    assert (wide != 0).all(), "the gradient was flushed to 0"
