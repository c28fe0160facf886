"""The losses in higher precision than what is judged.

The formula of softmax_ce.contract is evaluated in 80-bit extended precision, or with mpmath where the platform's
longdouble is no wider than float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mpmath
import numpy as np

from softmax_ce.dtypes import compute_dtype

Array = Any


class Arithmetic(NamedTuple):
    """Elementwise operations that are wider than float64."""

    array: Callable[[Any], Array]
    exp: Callable[[Array], Array]
    expm1: Callable[[Array], Array]
    log1p: Callable[[Array], Array]


_MP = mpmath.MPContext()  # a context of our own: its numbers keep 50 digits through + - * / too
_MP.dps = 50


def _each(function: Callable[..., Any]) -> Callable[[Array], Array]:
    return lambda values: np.frompyfunc(function, 1, 1)(values)


EXTENDED = Arithmetic(lambda a: np.asarray(a).astype(np.longdouble), np.exp, np.expm1, np.log1p)
MPMATH = Arithmetic(_each(lambda v: _MP.mpf(float(v))), _each(_MP.exp), _each(_MP.expm1), _each(_MP.log1p))
WIDEST = EXTENDED if np.finfo(np.longdouble).nmant >= 63 else MPMATH


@dataclass(slots=True)
class Truth:
    """What is right, row by row (reduction "none"), and the intermediate values that bounds are made of.

    Attributes
    ----------
    loss, lse : ndarray, shape (N,)
    grad, hess, softmax, log_softmax : ndarray, shape (N, C)
        The derivatives are by the logits as given; the softmax is that of the transformed logits.
    correct : ndarray of bool, shape (N,)
        Whether the label is the first maximum.
    gap : ndarray, shape (N, C)
        d = max x - x, of the transformed logits.
    log_sum : ndarray, shape (N,)
        lse - max x.
    target : ndarray, shape (N, C)
        T.
    mass : ndarray, shape (N,)
        The part of T that sits at the label alone; 0 for soft labels.
    label : ndarray, shape (N,)
        -1 for soft labels, for rows without one, and where a kernel is given targets that are made of the labels.
    weight, gain : ndarray, shape (N,)
        r and r * v.
    z_loss : float
    slope : ndarray, shape (N, C), or (1, 1) for all
        The derivative of the transformed logits by those that were given.
    scale : float
        `logit_scale`.
    moved, slope_error : ndarray, shape (N, C), or (1, 1) for all
        In units of roundoff, what rounding may move a transformed logit by, and the relative error of its slope.
    broken, counts : ndarray of bool, shape (N,)
    """

    loss: Array
    grad: Array
    hess: Array
    correct: Array
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
    slope: Array
    scale: float
    moved: Array
    slope_error: Array
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
    logit_scale: float = 1.0,
    softcap: float | None = None,
    where: Array | None = None,
    arithmetic: Arithmetic = WIDEST,
) -> Truth:
    """The reference.

    Parameters
    ----------
    logits : array_like, shape (N, C)
    targets : array_like, shape (N,) of integers or (N, C) of reals
    weight, sample_weight, ignore_index, label_smoothing, z_loss, grad_output, logit_scale, softcap, where
        As for :func:`softmax_ce.cross_entropy_with_grad` with reduction "none".
    arithmetic : Arithmetic

    Returns
    -------
    Truth
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    rows = len(logits)
    real = compute_dtype(logits.dtype)
    part = np.broadcast_to(True if where is None else np.asarray(where), logits.shape)
    with np.errstate(all="ignore"):
        plain = np.where(part, logits.astype(real), -np.inf)
        x, slope, moved, slope_error = _transform(arithmetic.array(plain), logit_scale, softcap, part, arithmetic)
        top = x.astype(np.float64).max(axis=1, initial=-np.inf)
        broken = ~np.isfinite(top)
        x[broken] = arithmetic.array([0])[0]
        target, mass, label = _targets(targets, part, real, weight, ignore_index, label_smoothing, arithmetic)
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
        pull = total + 2 * z_loss * lse
        hess = gain[:, None] * (pull[:, None] * p * _others(e, gap, s) / s[:, None] + 2 * z_loss * p * p)
        grad = gain[:, None] * ((total + 2 * z_loss * lse)[:, None] * p - target)
        at = np.flatnonzero(label >= 0)
        others = e.copy()
        others[at, label[at]] = 0  # p_y - 1 cancels even here: the other classes' share does not
        y = (at, label[at])
        rest = total - mass + 2 * z_loss * lse
        grad[y] = gain[at] * (rest[at] * p[y] - mass[at] * (others.sum(axis=1) / s)[at] - (target[y] - mass[at]))
        grad, hess = grad * slope, hess * (logit_scale * logit_scale)
        grad[~part] = 0 * slope[0, 0]
        nan = arithmetic.array([np.nan])[0]
        loss[broken], grad[broken], hess[broken], p[broken] = nan, nan, nan, nan
        log_p = -(gap + log_sum[:, None])
        log_p[broken] = nan
        loss[~counts], grad[~counts], hess[~counts] = 0 * row[~counts], 0 * row[~counts, None], 0 * row[~counts, None]
        lse[broken] = arithmetic.array(top)[broken]
        correct = (label >= 0) & (label == gap.argmin(axis=1))
        if where is not None and np.ndim(where) == 2 and label_smoothing:  # each row has targets of its own
            mass, label = 0 * mass, np.full(rows, -1)
    return Truth(
        loss, grad, hess, correct, lse, p, log_p, gap, log_sum, target, mass, label, row, gain, z_loss, slope,
        logit_scale, moved, slope_error, broken, counts,
    )  # fmt: skip


TANH, EXP = 4, 4  # units in the last place that tanh and exp may be off by where logits are capped


def _transform(
    x: Array, scale: float, softcap: float | None, part: Array, arithmetic: Arithmetic
) -> tuple[Array, Array, Array, Array]:
    """The transformed logits, their slope, what rounding may move them by, and the slope's relative error, in units."""
    still = np.zeros((1, 1))
    if softcap is None and scale == 1.0:
        return x, arithmetic.array(np.ones((1, 1))), still, still
    if softcap is None:
        size = np.abs(np.where(np.isfinite(x.astype(np.float64)), x, 0)).astype(np.float64) * scale
        return x * scale, arithmetic.array(np.full((1, 1), scale)), 2 * size, still
    cap = arithmetic.array(softcap)
    reach = x * scale / cap
    q, less = arithmetic.exp(-2 * np.abs(reach)), arithmetic.expm1(-2 * np.abs(reach))
    tanh = np.where(reach < 0, 1, -1) * less / (1 + q)
    sech2 = 4 * q / ((1 + q) * (1 + q))
    size = np.abs(np.where(np.isfinite(reach.astype(np.float64)), reach, 0)).astype(np.float64)
    moved = softcap * ((sech2 * size).astype(np.float64) * 2 + np.abs(tanh).astype(np.float64) * (TANH + 2))
    none = arithmetic.array(-np.inf)
    return np.where(part, cap * tanh, none), sech2 * scale, np.where(part, moved, 0), 4 * size + 2 * TANH + EXP + 4


def _others(e: Array, gap: Array, s: Array) -> Array:
    """The sum of the other classes for each class. At the maximum it is summed anew: s - e cancels there."""
    others = s[:, None] - e
    at = np.arange(len(e)), gap.argmin(axis=1)
    rest = e.copy()
    rest[at] = 0
    others[at] = rest.sum(axis=1)
    return others


def _targets(
    targets: Array, part: Array, real: Any, weight: Array | None, ignore_index: int, smoothing: float, to: Arithmetic
) -> tuple[Array, Array, Array]:
    """T, its part at the label alone, and the label or -1."""
    classes = part.shape[1]
    by_class = to.array(np.ones(classes) if weight is None else np.asarray(weight, float))
    smoothing = to.array([smoothing])[0]
    base = np.where(part, smoothing * by_class / np.maximum(part.sum(axis=1), 1)[:, None], 0 * by_class)
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
