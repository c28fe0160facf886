"""The truth in higher precision than what is judged, and the error that a right kernel may make at most.

The reference evaluates the formula of softmax_ce.contract in 80-bit extended precision, or with mpmath
where the platform's longdouble is no wider than float64. The bounds are first-order rounding-error bounds
in the backend's own exp, log and summation errors; docs/explanation/accuracy.md derives them. A result is judged by its
error over its bound: at most 1 is right, and a wrong formula is far beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mpmath
import numpy as np

from softmax_ce.contract import Accuracy, BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.measure.operations import TABLE

Array = Any


class Arithmetic(NamedTuple):
    """Elementwise operations that are wider than float64."""

    array: Callable[[Any], Array]
    exp: Callable[[Array], Array]
    log1p: Callable[[Array], Array]


_MP = mpmath.MPContext()  # a context of our own: its numbers keep 50 digits through + - * / too
_MP.dps = 50


def _each(function: Callable[..., Any]) -> Callable[[Array], Array]:
    return lambda values: np.frompyfunc(function, 1, 1)(values)


EXTENDED = Arithmetic(lambda a: np.asarray(a).astype(np.longdouble), np.exp, np.log1p)
MPMATH = Arithmetic(_each(lambda v: _MP.mpf(float(v))), _each(_MP.exp), _each(_MP.log1p))
WIDEST = EXTENDED if np.finfo(np.longdouble).nmant >= 63 else MPMATH


@dataclass(slots=True)
class Truth:
    """What is right, row by row (reduction "none"), and the intermediate values that bounds are made of.

    Attributes
    ----------
    loss, lse : ndarray, shape (N,)
    grad, softmax, log_softmax : ndarray, shape (N, C)
    gap : ndarray, shape (N, C)
        d = max x - x.
    log_sum : ndarray, shape (N,)
        lse - max x.
    target : ndarray, shape (N, C)
        T.
    mass : ndarray, shape (N,)
        The part of T that sits at the label alone; 0 for soft labels.
    label : ndarray, shape (N,)
        -1 for soft labels and rows without one.
    weight, gain : ndarray, shape (N,)
        r and r * v.
    z_loss : float
    broken, counts : ndarray of bool, shape (N,)
    """

    loss: Array
    grad: Array
    lse: Array
    softmax: Array
    log_softmax: Array
    gap: Array
    log_sum: Array
    target: Array
    mass: Array
    label: Array
    weight: Array
    gain: Array
    z_loss: float
    broken: Array
    counts: Array


def evaluate(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    grad_output: Any = None,
    arithmetic: Arithmetic = WIDEST,
) -> Truth:
    """The reference.

    Parameters
    ----------
    logits : array_like, shape (N, C)
    targets : array_like, shape (N,) of integers or (N, C) of reals
    weight, sample_weight, ignore_index, label_smoothing, z_loss, grad_output
        As for :func:`softmax_ce.cross_entropy_with_grad` with reduction "none".
    arithmetic : Arithmetic

    Returns
    -------
    Truth
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    rows, classes = logits.shape
    real = compute_dtype(logits.dtype)
    plain = logits.astype(real)
    broken = ~(np.isfinite(plain.max(axis=1, initial=-np.inf)))
    with np.errstate(all="ignore"):
        x = arithmetic.array(np.where(broken[:, None], 0, plain))
        target, mass, label = _targets(targets, classes, real, weight, ignore_index, label_smoothing, arithmetic)
        row = np.ones(rows) if sample_weight is None else np.asarray(sample_weight, float).reshape(rows)
        counts = (row != 0) & ((label >= 0) | (targets.ndim == 2))
        row = arithmetic.array(np.where(counts, row, 0))
        upstream = np.ones(rows) if grad_output is None else np.broadcast_to(np.asarray(grad_output, float), rows)
        gain = row * arithmetic.array(upstream)
        gap, e, s, log_sum = _shift(x, arithmetic)
        lse = x.max(axis=1) + log_sum
        total = target.sum(axis=1)
        some = target != 0
        cost = np.where(some, target * (np.where(some, gap, 0) + log_sum[:, None]), 0).sum(axis=1)
        loss = row * (cost + z_loss * lse * lse)
        p = e / s[:, None]
        grad = gain[:, None] * ((total + 2 * z_loss * lse)[:, None] * p - target)
        at = np.flatnonzero(label >= 0)
        others = e.copy()
        others[at, label[at]] = 0  # p_y - 1 cancels even here: the other classes' share does not
        y = (at, label[at])
        rest = total - mass + 2 * z_loss * lse
        grad[y] = gain[at] * (rest[at] * p[y] - mass[at] * (others.sum(axis=1) / s)[at] - (target[y] - mass[at]))
        nan = arithmetic.array([np.nan])[0]
        loss[broken], grad[broken], p[broken] = nan, nan, nan
        log_p = -(gap + log_sum[:, None])
        log_p[broken] = nan
        loss[~counts], grad[~counts] = 0 * row[~counts], 0 * row[~counts, None]
        lse[broken] = arithmetic.array(plain.max(axis=1, initial=-np.inf))[broken]
    return Truth(loss, grad, lse, p, log_p, gap, log_sum, target, mass, label, row, gain, z_loss, broken, counts)


def normalizer(of: Truth | Bounds, operation: str) -> Array:
    """Return what is right of an operation that takes no targets; of bounds, what its error may be."""
    (part,) = TABLE[operation].computes
    return getattr(of, part)


def _targets(
    targets: Array, classes: int, real: Any, weight: Array | None, ignore_index: int, smoothing: float, to: Arithmetic
) -> tuple[Array, Array, Array]:
    """T, its part at the label alone, and the label or -1."""
    by_class = to.array(np.ones(classes) if weight is None else np.asarray(weight, float))
    smoothing = to.array([smoothing])[0]
    base = smoothing * by_class / classes
    if targets.ndim == 2:
        soft = to.array(targets.astype(real))
        return by_class * (1 - smoothing) * soft + base, 0 * soft.sum(axis=1), np.full(len(targets), -1)
    label = targets.astype(np.int64)
    known = (label >= 0) & (label < classes) & (label != ignore_index)
    label = np.where(known, label, -1)
    mass = np.where(known, (1 - smoothing) * by_class[label], 0 * by_class[0])
    target = to.array(np.zeros((len(label), classes))) + base
    at = np.flatnonzero(known)
    target[at, label[at]] += mass[at]
    return target, mass, label


def _shift(x: Array, arithmetic: Arithmetic) -> tuple[Array, Array, Array, Array]:
    """Gap d, exp(-d), its sum and the sum's logarithm, taken as log1p of the sum without its largest term."""
    top = x.max(axis=1)
    gap = top[:, None] - x
    e = arithmetic.exp(-gap)
    others = e.copy()
    others[np.arange(len(x)), np.argmin(gap, axis=1)] = 0
    rest = others.sum(axis=1)
    return gap, e, 1 + rest, arithmetic.log1p(rest)


@dataclass(slots=True)
class Bounds:
    """The largest error of a right result, with the shapes of what it bounds; float64."""

    loss: Array
    grad: Array
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


def _bounds(truth: Truth, accuracy: Accuracy, real: Any, dtype: Any, *, shifted: bool) -> Bounds:
    t = {name: np.asarray(getattr(truth, name)).astype(np.longdouble) for name in Truth.__slots__ if name != "z_loss"}
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
    log_softmax = lse[:, None] + u * np.abs(np.where(np.isfinite(gap), 2 * gap + log_sum[:, None], 0)) + floor

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
    loss = np.where(weight > 0, weight * (loss + z), 0) + 2 * u * np.abs(t["loss"]) + tiny

    # Gradient: K p - T everywhere, and at a hard label from the other classes' share q.
    gain = np.abs(t["gain"])[:, None]
    pull = np.abs(signed + 2 * truth.z_loss * t["lse"])[:, None]
    d_pull = (u * (a_sum + 4) * total + 2 * z_loss * lse)[:, None]
    grad = pull * softmax + p * d_pull + 4 * u * (pull * p + np.abs(target))
    if shifted:
        at = np.flatnonzero(label >= 0)
        y = (at, label[at])
        far = np.where(p > 0, np.where(p > 0, gap, 0) * p, 0)
        share = p.copy()
        share[y] = far[y] = 0
        q = share.sum(axis=1)
        away = np.where(q > 0, far.sum(axis=1) / np.where(q > 0, q, 1), 0)  # mean of d over the others
        q_bound = q * u * (away + drift + 4 * e_exp + 2 * a_sum + 6) + floor
        others = np.abs(signed - label_mass + 2 * truth.z_loss * t["lse"])
        some = (total > mass) | (truth.z_loss != 0)
        there = mass * q_bound + others * softmax[rows, label] + p[rows, label] * d_pull[:, 0] * some
        there += 4 * u * (others * p[rows, label] + np.abs(target[rows, label] - label_mass))
        grad[y] = there[at]
    grad = gain * (grad + floor) + u * np.abs(t["grad"]) + tiny
    if dtype != real:
        narrow = limits_of(dtype)
        coarse, least = float(narrow.eps) / 2, float(narrow.smallest_subnormal)
        grad = grad + coarse * np.abs(t["grad"]) + least
        softmax = softmax + coarse * p + least
        log_softmax = log_softmax + coarse * np.abs(np.where(np.isfinite(gap), t["log_softmax"], 0))
    return Bounds(loss, grad, lse, softmax, log_softmax)


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
