"""The contract itself: kernels called as the shell calls them, on ranges of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import NATIVE, Subject, Unsupported, assert_same_bits, check

_GUARD = 77.0


def _hard(subject: Subject, x: Any, y: Any, outputs: tuple[Any, ...], start: int, stop: int) -> None:
    one, row = np.ones(1, x.dtype), np.ones(1)
    kernel: Any = sce.get_backend(subject.backend).hard
    with np.errstate(all="ignore"):
        kernel(x, y, -100, one, None, 0.0, 0.0, row, row, *outputs, start, stop)


def _soft(subject: Subject, x: Any, t: Any, outputs: tuple[Any, ...], start: int, stop: int) -> None:
    one, row = np.ones(1, x.dtype), np.ones(1)
    kernel: Any = sce.get_backend(subject.backend).soft
    with np.errstate(all="ignore"):
        kernel(x, t, one, None, 0.0, row, row, *outputs, start, stop)


def _outputs(x: Any) -> tuple[Any, ...]:
    rows = len(x)
    return tuple(np.full(shape, _GUARD, x.dtype) for shape in (rows, x.shape, rows, rows))


@check(dtypes=NATIVE, threads=(1,), stable=None)
def only_the_rows_asked_for(subject: Subject) -> None:
    """A kernel writes rows [start, stop) and nothing else, and leaves out what is None."""
    rng = subject.rng(31)
    x = subject.array(rng.standard_normal((7, 13)))
    y = rng.integers(0, 13, 7)
    t = rng.random((7, 13)).astype(x.dtype)
    for kernel, targets in ((_hard, y), (_soft, t)):
        whole = _outputs(x)
        kernel(subject, x, targets, whole, 0, 7)
        for start, stop in ((0, 0), (2, 5), (6, 7), (0, 7)):
            for wanted in range(16):
                buffers = _outputs(x)
                chosen = tuple(buffer if wanted >> k & 1 else None for k, buffer in enumerate(buffers))
                kernel(subject, x, targets, chosen, start, stop)
                for k, (buffer, right) in enumerate(zip(buffers, whole, strict=True)):
                    inside = slice(start, stop) if wanted >> k & 1 else slice(0, 0)
                    assert_same_bits(buffer[inside], right[inside], f"output {k} of rows [{start}, {stop})")
                    outside = np.delete(buffer, np.arange(7)[inside], axis=0)
                    assert (outside == _GUARD).all(), f"output {k} was written outside rows [{start}, {stop})"


@check(dtypes=NATIVE, threads=(1,), stable=None)
def labels_changed_meanwhile(subject: Subject) -> None:
    """A label that is out of range when the kernel reads it counts as ignored: nothing outside is touched."""
    rng = subject.rng(32)
    room = np.full(3 * 7 * 5, _GUARD, subject.dtype)
    x = subject.array(rng.standard_normal((7, 5)))
    y = np.array([0, 5, -1, 2**40, -(2**63), 4, 3])
    grad = room[35:70].reshape(7, 5)
    loss = np.full(7, _GUARD, subject.dtype)
    _hard(subject, x, y, (loss, grad, None, None), 0, 7)
    good = [0, 5, 6]
    right = subject.both(x[good], y[good])
    assert_same_bits(loss[good], right[0], "rows with good labels")
    assert_same_bits(grad[good], right[1], "gradients of rows with good labels")
    bad = [1, 2, 3, 4]
    assert (loss[bad] == 0).all(), f"loss {loss[bad]!r} for labels out of range"
    assert (grad[bad] == 0).all(), "a gradient for labels out of range"
    assert (room[:35] == _GUARD).all(), "memory before the gradient was written"
    assert (room[70:] == _GUARD).all(), "memory after the gradient was written"


@check(dtypes=("float32",), threads=(1,), stable=None)
def beyond_two_to_the_31_elements(subject: Subject) -> None:
    """The last rows of an array of more than 2**31 elements (pytorch#111484). Memory is reserved, not touched."""
    classes = 1 << 16
    rows = (1 << 15) + 3
    try:
        x = np.zeros((rows, classes), np.float32)
        grad = np.zeros((rows, classes), np.float32)
    except MemoryError:
        raise Unsupported(f"needs an address space of {2 * rows * classes * 4 >> 30} GiB") from None
    last = slice(rows - 2, rows)
    x[last] = subject.rng(33).standard_normal((2, classes))
    y = np.zeros(rows, np.int64)
    y[last] = (5, classes - 1)
    loss = np.zeros(rows, np.float32)
    _hard(subject, x, y, (loss, grad, None, None), rows - 2, rows)
    right = subject.both(x[last].copy(), y[last])
    assert_same_bits(loss[last], right[0], "loss beyond 2**31 elements")
    assert_same_bits(grad[last], right[1], "gradient beyond 2**31 elements")
    targets = np.zeros((rows, classes), np.float32)
    targets[last] = 1 / classes
    _soft(subject, x, targets, (loss, grad, None, None), rows - 2, rows)
    right = subject.both(x[last].copy(), targets[last].copy())
    assert_same_bits(loss[last], right[0], "loss of soft labels beyond 2**31 elements")
    assert_same_bits(grad[last], right[1], "gradient of soft labels beyond 2**31 elements")


@check(dtypes=("float32",), threads=(1,), stable=None)
def warmup_is_enough(subject: Subject) -> None:
    """warmup takes every dtype that logits may have, and refuses the others."""
    backend = sce.get_backend(subject.backend)
    backend.warmup(("float32", "float64", "float16", np.int8))
    try:
        backend.warmup(("complex64",))
    except TypeError as error:
        assert "complex64" in str(error), f"unclear: {error}"
    else:
        raise AssertionError("warmup took complex64")
