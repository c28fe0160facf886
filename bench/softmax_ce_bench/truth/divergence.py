"""The KL divergence in higher precision than what is judged, and the error that a right one may have at most.

docs/explanation/accuracy.md derives the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.contract import BackendInfo, pairwise
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.truth.exact import WIDEST, Arithmetic, Array
from softmax_ce_bench.truth.oracle import limits_of

_LEAST = 2.0**-1075  # a probability below this is 0 in float64
_SERIES = 24  # terms of expm1(d) - d for |d| < 1/2, beyond the digits of any arithmetic here but mpmath's


@dataclass(slots=True)
class Divergence:
    """What is right, row by row (reduction "none"), and what the bounds are made of.

    Attributes
    ----------
    loss : ndarray, shape (N,)
    grad : ndarray, shape (N, C)
    p, t : ndarray, shape (N, C)
        The softmaxes of the logits and of the target logits, over the temperature.
    p_gap, t_gap : ndarray, shape (N, C)
        Each logit's distance from its row's maximum, over the temperature.
    delta, terms, difference : ndarray, shape (N, C)
        log p - log t, the terms of the divergence, and p - t.
    weight, gain : ndarray, shape (N,)
        The row's weight; that times the upstream gradient over the temperature.
    """

    loss: Array
    grad: Array
    p: Array
    t: Array
    p_gap: Array
    t_gap: Array
    delta: Array
    terms: Array
    difference: Array
    weight: Array
    gain: Array


@dataclass(slots=True)
class DivergenceBounds:
    """The largest error of a right result, with the shapes of what it bounds."""

    loss: Array
    grad: Array


def evaluate(
    logits: Array, target_logits: Array, *, temperature: float = 1.0, sample_weight: Array | None = None,
    grad_output: Any = None, arithmetic: Arithmetic = WIDEST,
) -> Divergence:  # fmt: skip
    """The reference.

    Parameters
    ----------
    logits, target_logits : array_like, shape (N, C)
    temperature, sample_weight, grad_output
        As for :func:`softmax_ce.kl_divergence_with_grad` with reduction "none".
    arithmetic : Arithmetic

    Returns
    -------
    Divergence
    """
    pair = [np.asarray(part).astype(np.float64) for part in (logits, target_logits)]
    rows = len(pair[0])
    broken = ~(np.isfinite(pair[0].max(axis=1)) & np.isfinite(pair[1].max(axis=1)))
    with np.errstate(all="ignore"):
        x, z = (arithmetic.array(np.where(broken[:, None], 0, part)) for part in pair)
        row = np.ones(rows) if sample_weight is None else np.asarray(sample_weight, float).reshape(rows)
        weight = arithmetic.array(row)
        upstream = np.broadcast_to(1.0 if grad_output is None else np.asarray(grad_output, float), rows)
        gain = weight * arithmetic.array(np.array(upstream)) / temperature
        p, p_gap, p_log = _softmax(x, temperature, arithmetic)
        t, t_gap, t_log = _softmax(z, temperature, arithmetic)
        t = np.where(t < _LEAST, 0 * t, t)
        delta = _difference(x, z, temperature) - (p_log - t_log)[:, None]
        terms, difference = _terms(p, t, delta)
        kl = terms.sum(axis=1)
        surplus = difference.sum(axis=1)  # of the rounding error that all delta share
        kl = kl - surplus * surplus / 2
        difference = (difference - t * surplus[:, None]) / (1 + surplus)[:, None]
        nan = arithmetic.array([np.nan])[0]
        kl[broken], difference[broken] = nan, nan
        loss, grad = weight * kl, gain[:, None] * difference
        loss[row == 0], grad[row == 0] = 0 * weight[row == 0], 0 * weight[row == 0, None]
    return Divergence(loss, grad, p, t, p_gap, t_gap, delta, terms, difference, weight, gain)


def _softmax(x: Array, temperature: float, arithmetic: Arithmetic) -> tuple[Array, Array, Array]:
    """The softmax over the temperature, the gaps, and the logarithm of the sum of exp(-gap)."""
    gap = (x.max(axis=1)[:, None] - x) / temperature
    e = arithmetic.exp(-gap)
    others = e.copy()
    others[np.arange(len(x)), gap.argmin(axis=1)] = 0
    rest = others.sum(axis=1)
    return e / (1 + rest)[:, None], gap, arithmetic.log1p(rest)


def _difference(x: Array, z: Array, temperature: float) -> Array:
    """(x - z - (max x - max z)) / T, with the rounding errors of both differences carried along."""
    high, low = _subtract(x, z)
    top, low_top = _subtract(x.max(axis=1), z.max(axis=1))
    return ((high - top[:, None]) + (low - low_top[:, None])) / temperature


def _subtract(a: Array, b: Array) -> tuple[Array, Array]:
    difference = a - b
    part = difference - a
    low = (a - (difference - part)) - (b + part)
    return difference, np.where(np.isfinite(low.astype(np.float64)), low, 0)


def _terms(p: Array, t: Array, delta: Array) -> tuple[Array, Array]:
    """t (expm1(delta) - delta) and p - t, by the series where delta is small."""
    linear = np.where(t == 0, 0 * t, t * delta)
    value = 0 * delta
    for k in range(_SERIES, 1, -1):
        value = (value + 1) * delta / k
    small = np.abs(delta.astype(np.float64)) < 0.5
    excess = t * value * delta  # the series' factor of d
    difference = np.where(small, excess + linear, p - t)
    return np.where(small, excess, p - t - linear), difference


def bounds(info: BackendInfo, truth: Divergence, dtype: Any) -> DivergenceBounds:
    """What a backend's declared arithmetic in float64 allows for logits of this dtype.

    Parameters
    ----------
    info : BackendInfo
    truth : Divergence
    dtype : dtype-like
        Of the logits: results are rounded to it.

    Returns
    -------
    DivergenceBounds
    """
    dtype = np.dtype(dtype)
    real = compute_dtype(dtype)
    accuracy, u = info.accuracy["float64"], 2.0**-53
    values = {name: np.asarray(getattr(truth, name)).astype(np.longdouble) for name in Divergence.__slots__}
    p, t, terms, difference = (values[name] for name in ("p", "t", "terms", "difference"))
    classes = p.shape[1]
    fixed = 4 * accuracy.exp_ulp + 2 + accuracy.summation(classes)
    with np.errstate(all="ignore"):
        of_p, of_t = (_spread(values[f"{name}_gap"], values[name], fixed) for name in "pt")
        delta = np.abs(np.where(t > 0, values["delta"], 0))
        relative = of_t / np.where(t > 0, t, 1)
        small, linear = delta <= 1, np.where(t > 0, t * np.where(np.isfinite(delta), delta, 0), 0)
        of_term = np.where(small, terms * (relative + 15), of_p + 3 * p + (relative + 8) * (t + linear))
        kl = np.where(np.isfinite(terms), terms, 0).sum(axis=1)
        total = pairwise(classes) + 4
        shared = u * (fixed + 20)  # squared: an error that all delta share
        loss = u * np.where(np.isfinite(of_term), of_term, 0).sum(axis=1) + (total * u * kl) + shared**2
        q = np.abs(difference)
        of_q = u * np.where(small, q * (relative + 15), of_p + of_t)
        grad = of_q + p * (of_q + total * u * q).sum(axis=1, keepdims=True)
        weight, gain = np.abs(values["weight"]), np.abs(values["gain"])
        limits: Any = np.finfo(real)
        least = float(limits.smallest_subnormal)
        if real == np.float32:  # the float64 bound and one rounding are far less
            loss = 4 * float(limits.eps) / 2 * kl
            grad = 4 * float(limits.eps) / 2 * q + u * (of_p + of_t + 8 * (p + t))
        loss = weight * loss + u * np.abs(values["loss"]) + classes * least
        grad = grad + 3 * least  # p, t and the terms, where these are subnormal
        grad = gain[:, None] * grad + 4 * u * np.abs(values["grad"]) + 2 * least
        if dtype != real:
            narrow = limits_of(dtype)
            grad = grad + float(narrow.eps) / 2 * np.abs(values["grad"]) + float(narrow.smallest_subnormal)
    return DivergenceBounds(loss, grad)


def _spread(gap: Array, p: Array, fixed: float) -> Array:
    """The error of each probability in units of roundoff. The gap is rounded twice: as it is taken, and over T."""
    reach = np.where(p > 0, p * np.where(p > 0, gap, 0), 0)
    return 2 * reach + p * (2 * reach.sum(axis=1, keepdims=True) + fixed)
