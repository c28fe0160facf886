"""The error that a right kernel may make at most, and the errors of a result over it.

The bounds are first-order rounding-error bounds in the backend's own exp, log and summation errors;
docs/explanation/accuracy.md derives them. A result is judged by its error over its bound, from what is right in higher
precision (:mod:`softmax_ce_bench.truth.exact`): at most 1 is right, and a wrong formula is far beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.contract import Accuracy, BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.truth.exact import EXTENDED, MPMATH, WIDEST, Arithmetic, Array, Truth, evaluate

__all__ = [
    "EXTENDED", "MPMATH", "WIDEST", "Arithmetic", "Bounds", "Truth", "bounds", "evaluate", "limits_of", "over_bound",
    "worst_over_bound",
]  # fmt: skip


@dataclass(slots=True)
class Bounds:
    """The largest error of a right result, with the shapes of what it bounds; float64."""

    loss: Array
    grad: Array
    hess: Array
    lse: Array
    softmax: Array
    log_softmax: Array


def bounds(info: BackendInfo, truth: Truth, dtype: Any) -> Bounds:
    """What a backend's declared arithmetic allows for logits of this dtype.

    Parameters
    ----------
    info : BackendInfo
    truth : Truth
    dtype : dtype-like
        Of the logits: 16-bit gradients are rounded once more.

    Returns
    -------
    Bounds
    """
    dtype = np.dtype(dtype)
    real = compute_dtype(dtype)
    accuracy = info.accuracy[real.name]
    with np.errstate(all="ignore"):
        return _bounds(truth, accuracy, real, dtype, shifted=info.stable)


_NUMBERS = ("z_loss", "scale")


def _bounds(truth: Truth, accuracy: Accuracy, real: Any, dtype: Any, *, shifted: bool) -> Bounds:
    t = {
        name: np.asarray(getattr(truth, name)).astype(np.longdouble, copy=False)
        for name in Truth.__slots__
        if name not in _NUMBERS
    }
    limits: Any = np.finfo(real)
    u, tiny = float(limits.eps) / 2, float(limits.smallest_subnormal)
    classes = t["gap"].shape[1]
    e_exp, e_log, a_sum = accuracy.exp_ulp, accuracy.log_ulp, accuracy.summation(classes)
    p, gap, log_sum, target = (t[k] for k in ("softmax", "gap", "log_sum", "target"))
    drift = np.where(p > 0, p * np.where(p > 0, gap, 0), 0).sum(axis=1)  # D = sum p d, at most ln C
    floor = classes * tiny
    if shifted:
        shift, reach = gap, 0.0 * log_sum
    else:  # unshifted: no rounding of x - m, but the logarithm is taken of a number that may be far from 1
        shift, reach = 0.0 * gap, np.abs(t["lse"]) + np.abs(np.where(np.isfinite(gap), gap, 0)).max(axis=1)
        drift = 0.0 * drift

    lse = u * (np.abs(t["lse"]) + log_sum * (1 + 2 * e_log) + drift + 2 * e_exp + a_sum + (e_log + 1) * reach) + floor
    spread = u * (np.where(p > 0, shift, 0) + drift[:, None] + 4 * e_exp + 2 + a_sum)  # first: p * u may underflow
    softmax = p * spread + 2 * tiny
    q, far = _others(p, gap), _others(np.where(p > 0, p * np.where(p > 0, gap, 0), 0), gap)
    away = np.where(q > 0, far / np.where(q > 0, q, 1), 0)  # the mean of d over the other classes
    # What the rounding of transformed logits adds, to first order, with room for the second.
    is_moved = t["moved"].any()
    moved = moved_p = np.zeros((1, 1), np.longdouble)
    if is_moved:
        moved = np.where(p > 0, u * t["moved"], 0)
        moved = moved * np.exp(2 * moved.max(axis=1, keepdims=True))
        moved_p = p * (q * moved + _others(p * moved, gap))
        lse, softmax = lse + (p * moved).sum(axis=1), softmax + moved_p
    log_softmax = lse[:, None] + moved + u * np.abs(np.where(np.isfinite(gap), 2 * gap + log_sum[:, None], 0)) + floor

    # Loss. One number from the label, the tighter of two where the label has the largest logit.
    # Masses may be negative and cancel in a sum; what is rounded on the way does not: hence absolute values.
    signed, label_mass, weight = target.sum(axis=1), t["mass"], np.abs(t["weight"])
    total, mass = np.abs(target).sum(axis=1), np.abs(label_mass)
    wide = 2 * e_exp + 2 * e_log * np.log(classes) + a_sum + (0 if shifted else 2)  # unshifted: the division, the cast
    cost = np.where(target != 0, np.abs(target) * (np.where(target != 0, gap, 0) + log_sum[:, None]), 0).sum(axis=1)
    loss = u * ((a_sum + 4) * cost + total * wide) + total * floor
    rows = np.arange(len(p))
    label = t["label"].astype(int)
    hard_only = (label >= 0) & (mass == total) & (mass > 0)
    unit = np.where(hard_only, gap[rows, label] + log_sum, 0)  # the loss with a mass of 1
    rounding = 4 * u * unit  # of the mass, and of its product
    one = u * (2 * unit + wide) + floor + rounding
    rest = np.expm1(log_sum)
    below = np.where(rest > 0, np.log(np.maximum(classes - 1, 1)) - np.log(np.where(rest > 0, rest, 1)), 0)
    small = unit * u * (below + 2 * e_exp + a_sum + 2 * e_log + 1) + floor + rounding
    tight = hard_only & (gap[rows, label] == 0) & shifted
    loss = np.where(hard_only, mass * np.where(tight, np.minimum(one, small), one), loss)
    z_loss = abs(truth.z_loss)  # in a mean, where it is weighed against the rest, of either sign
    z = z_loss * (2 * np.abs(t["lse"]) * lse + 4 * u * t["lse"] ** 2)
    if is_moved:
        z = z + np.where(p > 0, np.abs(signed[:, None] * p - target) * moved, 0).sum(axis=1)
    loss = np.where(weight > 0, weight * (loss + z), 0) + 2 * u * np.abs(t["loss"]) + tiny

    # Gradient: K p - T everywhere, and at a hard label from the other classes' share q.
    gain = np.abs(t["gain"])[:, None]
    pull = np.abs(signed + 2 * truth.z_loss * t["lse"])[:, None]
    d_pull = (u * (a_sum + 4) * total + 2 * z_loss * lse)[:, None]
    grad = pull * softmax + p * d_pull + 4 * u * (pull * p + np.abs(target))
    if shifted:
        at = np.flatnonzero(label >= 0)
        y = (at, label[at])
        q_bound = (q * u * (away + drift[:, None] + 4 * e_exp + 2 * a_sum + 6) + moved_p + floor)[rows, label]
        others = np.abs(signed - label_mass + 2 * truth.z_loss * t["lse"])
        some = (total > mass) | (truth.z_loss != 0)
        there = mass * q_bound + others * softmax[rows, label] + p[rows, label] * d_pull[:, 0] * some
        there += 4 * u * (others * p[rows, label] + np.abs(target[rows, label] - label_mass))
        grad[y] = there[at]
    grad = gain * t["slope"] * (grad + floor) + u * (1 + t["slope_error"]) * np.abs(t["grad"]) + tiny

    # Hessian: K p q + 2 z p^2, with q from the other classes' sum.
    z = 2 * z_loss * p * p
    hess = p * q * u * (np.where(p > 0, shift, 0) + away + 2 * drift[:, None] + 8 * e_exp + 2 * a_sum + 10)
    hess += np.abs(q - p) * moved_p + 2 * tiny + (0 if shifted else p * (softmax + u))  # unshifted: 1 - p
    hess = pull * hess + p * q * d_pull + 2 * z * spread + 4 * z_loss * p * moved_p
    hess += 6 * u * (pull * p * q + z)
    hess = gain * truth.scale**2 * (hess + floor) + u * np.abs(t["hess"]) + tiny
    if dtype != real:
        narrow = limits_of(dtype)
        coarse, least = float(narrow.eps) / 2, float(narrow.smallest_subnormal)
        grad = grad + coarse * np.abs(t["grad"]) + least
        hess = hess + coarse * np.abs(t["hess"]) + least
        softmax = softmax + coarse * p + least
        log_softmax = log_softmax + coarse * np.abs(np.where(np.isfinite(gap), t["log_softmax"], 0))
    return Bounds(loss, grad, hess, lse, softmax, log_softmax)


def _others(values: Array, gap: Array) -> Array:
    """The sum of the other classes' entries for each class: summed anew at the maximum, where a difference cancels."""
    others = values.sum(axis=1, keepdims=True) - values
    at = np.arange(len(values)), gap.argmin(axis=1)
    rest = values.copy()
    rest[at] = 0
    others[at] = rest.sum(axis=1)
    return np.maximum(others, 0)


def limits_of(dtype: np.dtype[Any]) -> Any:
    """Return what ``np.finfo`` gives for a float, for bfloat16 too."""
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo  # untyped
    return finfo(dtype)


def _rounds_to_infinity(dtype: Any) -> float:
    """The least number that the format, rounding to nearest, has no finite number for; infinity for float64."""
    limits = limits_of(dtype)
    largest = float(limits.max)
    return largest + (largest - float(np.nextafter(limits.max, dtype.type(0)))) / 2


def over_bound(result: Array, truth: Array, bound: Array) -> float:
    """The worst error over its bound.

    Infinity where a NaN or an infinity is not where it must be, or where a finite number is not.

    Parameters
    ----------
    result, truth, bound : array_like of one shape

    Returns
    -------
    float
    """
    result = np.asarray(result)
    truth, bound = np.asarray(truth), np.asarray(bound)
    if result.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        right = truth.astype(float)
        got = result.astype(float)
        limit = _rounds_to_infinity(result.dtype)
        huge = np.abs(right) >= limit  # also infinity: it must come out as infinity of the right sign
        infinite = got == np.sign(right) * np.inf
        same = np.where(np.isnan(right), np.isnan(got), np.where(huge, infinite, np.isfinite(got)))
        near = np.isfinite(right) & (np.abs(np.abs(right) - limit) <= bound)  # may come out on either side
        same |= near & (infinite | np.isfinite(got))
        if not same.all():
            return float("inf")
        usual = np.isfinite(right) & np.isfinite(got)
        error = np.abs((result[usual].astype(float) - truth[usual]).astype(float))
        off = error > 0  # no error is within any bound, that of an ignored row of NaNs too
        return float((error[off] / bound[usual][off]).max(initial=0.0))


def worst_over_bound(
    info: BackendInfo, logits: Array, targets: Array, loss_rows: Array, grad_rows: Array, **options: Any
) -> float:
    """The worst error over its bound of a loss (reduction "none") and a gradient.

    Parameters
    ----------
    info : BackendInfo
        Of the backend that made them.
    logits, targets
        (N, C) and (N,) or (N, C).
    loss_rows, grad_rows : ndarray
        (N,) and (N, C).
    **options
        Those of :func:`evaluate` that the call had.

    Returns
    -------
    float
        At most 1 is right.
    """
    truth = evaluate(logits, targets, **options)
    allowed = bounds(info, truth, np.asarray(logits).dtype)
    return max(over_bound(loss_rows, truth.loss, allowed.loss), over_bound(grad_rows, truth.grad, allowed.grad))
