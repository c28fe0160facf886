"""Where an unshifted exponential breaks, pinned exactly: what overflows and underflows, and to what."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import NATIVE, Subject, check


def _expect(got: Any, right: Any, what: str) -> None:
    got = np.asarray(got).astype(float)
    assert np.array_equal(got, np.asarray(right, float), equal_nan=True), f"{what}: {got!r}, expected {right!r}"


def _highest(subject: Subject) -> float:
    """The largest logit whose exponential is finite: just above 88.72 in float32, 709.78 in float64."""
    limit = np.log(np.finfo(subject.dtype).max)
    while np.isinf(np.exp(limit)):
        limit = np.nextafter(limit, subject.dtype.type(0))
    return float(limit)


@check(dtypes=NATIVE, stable=False)
def overflow_begins_at_the_logarithm_of_the_largest_number(subject: Subject) -> None:
    """One step above, exp is inf: NaN for the label itself, inf for another, gradient NaN and -T."""
    with np.errstate(over="ignore"):
        top = _highest(subject)
        above = float(np.nextafter(subject.dtype.type(top), subject.dtype.type(np.inf)))
    loss, grad = subject.both(subject.array([[top, 0.0]]), [0])
    assert np.isfinite(loss).all(), f"finite exponentials, yet the loss is {loss!r}"
    assert np.isfinite(grad).all(), f"finite exponentials, yet the gradient is {grad!r}"
    x = subject.array([[above, 0.0], [above, 0.0]])
    loss, grad, lse = subject.both(x, [0, 1], return_lse=True)
    _expect(loss, [np.nan, np.inf], "loss once exp overflows")
    _expect(lse, [np.inf, np.inf], "log-sum-exp once exp overflows")
    _expect(grad, [[np.nan, 0], [np.nan, -1]], "gradient once exp overflows")
    _expect(sce.softmax(x, **subject.where)[0], [np.nan, 0], "softmax once exp overflows")


@check(dtypes=NATIVE, stable=False)
def underflow_of_the_label(subject: Subject) -> None:
    """A probability below the smallest number is 0: loss +inf where it is the gap, gradient right."""
    gap = 2 * float(-np.log(np.finfo(subject.dtype).smallest_subnormal))
    loss, grad = subject.both(subject.array([[0, -gap]]), [1])
    _expect(loss, [np.inf], "loss once the label's probability underflows")
    _expect(grad, [[1, -1]], "gradient once the label's probability underflows")


@check(dtypes=NATIVE, stable=False)
def underflow_of_a_whole_row(subject: Subject) -> None:
    """A row far below zero sums to 0: loss NaN, gradient NaN, log-sum-exp -inf."""
    low = -2 * float(np.log(np.finfo(subject.dtype).max))
    x = subject.array([[low, low - 1]])
    loss, grad, lse = subject.both(x, [0], return_lse=True)
    _expect(loss, [np.nan], "loss of a row that sums to 0")
    _expect(grad, [[np.nan, np.nan]], "gradient of a row that sums to 0")
    _expect(lse, [-np.inf], "log-sum-exp of a row that sums to 0")


@check(dtypes=NATIVE, stable=False)
def small_differences_are_lost(subject: Subject) -> None:
    """The small loss and the confident gradient come out as 0: log s has no room for them beside 1."""
    gap = 20.0 if subject.dtype == np.float32 else 40.0
    loss, grad = subject.both(subject.array([[0, -gap]]), [0])
    _expect(grad[0, 0], 0.0, "the confident gradient")
    if subject.dtype == np.float64:
        _expect(loss, [0.0], "the small loss")
