"""Loss and gradient in NumPy's longest floating-point type, and a result's distance from them."""

from typing import Any, NamedTuple

import numpy as np


class ExactValue(NamedTuple):
    """A right result and how it answers to rounding.

    Attributes
    ----------
    value : ndarray of longdouble
    condition : ndarray of longdouble, the same shape
        The relative error that one rounding of x - max may cause, in roundings: exp turns the absolute error of its
        argument into a relative one. Nobody can do better without more digits.
    """

    value: Any
    condition: Any


def reference(logits: Any, labels: Any) -> tuple[ExactValue, ExactValue]:
    """Loss and gradient for hard labels, weights of 1, reduction "none".

    Parameters
    ----------
    logits : ndarray, shape (N, C)
    labels : ndarray of int, shape (N,)

    Returns
    -------
    loss, grad : ExactValue
        Of shapes (N,) and (N, C).
    """
    x = logits.astype(np.longdouble)
    gap = x.max(axis=1, keepdims=True) - x
    terms = np.exp(-gap)
    rows = np.arange(len(x))
    at_label = rows, labels
    rest = terms.copy()
    rest[rows, np.argmax(x, axis=1)] = 0  # log1p of the others' sum, not log of a sum close to 1
    log_sum = np.log1p(rest.sum(axis=1))
    others = terms.copy()
    others[at_label] = 0  # p - 1 cancels: minus the others' share does not
    share = others.sum(axis=1)
    grad = terms / terms.sum(axis=1, keepdims=True)
    grad[at_label] = -share / terms.sum(axis=1)
    away = 1 + (others * gap).sum(axis=1) / share
    condition = 1 + gap
    condition[at_label] = away
    return ExactValue(log_sum + gap[at_label], np.where(gap[at_label] > 0, 1, away)), ExactValue(grad, condition)


def worst_error(result: Any, truth: ExactValue) -> float:
    """The largest error: in units in the last place of the right value, over the condition.

    Parameters
    ----------
    result : ndarray
        Its dtype is that of the units.
    truth : ExactValue

    Raises
    ------
    ValueError
        Something in the result is not finite: no number of units says how wrong that is.
    """
    if not np.isfinite(result).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(result))} of {result.size} results are not finite")
    unit = np.spacing(np.abs(truth.value).astype(result.dtype)).astype(np.longdouble)
    return float(np.max(np.abs(result.astype(np.longdouble) - truth.value) / (unit * truth.condition)))
