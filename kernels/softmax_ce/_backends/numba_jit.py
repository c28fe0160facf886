"""Numba: compiled on first use, cached on disk where a cache can be written, one fused pass per row.

Formula: chunks of a row combined as (m, s) pairs, then loss = (m - x_y) + log1p(s - 1) and
grad = gain * (total * exp(x - m) / s - T). Passes over memory: the logits are read once; the gradient's
row is written while it is computed and scaled while still in cache. Allocates one chunk and 40 bytes a
chunk of 2048 classes.

Loops are split so that each vectorises: Numba's own exp is a scalar libm call and a float maximum does
not vectorise, hence the polynomial and the maximum over order-mapped bits. `reassoc` is allowed in the
sum over finished terms alone; in the exp it would undo the two-constant reduction. No loop is compiled
with nnan or ninf: -inf masks are ordinary input.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

_CHUNK = 2048  # classes summed at a time; the bits of a row depend on it

_EXACT = {"contract"}
_SUM = {"contract", "reassoc", "nsz"}


def _exp(t: Any) -> Any:
    """exp(t) for t <= 0, -inf and NaN included.

    t = n ln 2 + r, ln 2 in two constants (Cody and Waite), exp(r) = 1 + (r + r^2 q(r)) with q interpolated
    at Chebyshev nodes in 60 digits, scaled by 2^n in two steps that reach the subnormals. Polynomial error,
    relative: 1.04e-8 (float32, degree 6), 1.6e-17 (float64, degree 11).
    """
    raise AssertionError("compiled code only")


def _exp32(t: Any) -> Any:
    one = np.float32(1)
    t = np.float32(-104) if t < np.float32(-104) else t  # a NaN stays
    magic = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, in the low bits
    shifted = t * np.float32(1.4426950216293335) + magic
    n = shifted - magic
    r = (t - n * np.float32(0.693359375)) + n * np.float32(2.1219444170128554e-4)
    q = np.float32(1.3926213141530752e-3)
    q = q * r + np.float32(8.363203145563602e-3)
    q = q * r + np.float32(4.1666556149721146e-2)
    q = q * r + np.float32(1.6666576266288757e-1)
    q = q * r + np.float32(0.5)
    whole = np.float32(shifted).view(np.int32) - magic.view(np.int32)
    half = whole >> np.int32(1)
    low = np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    high = np.int32((whole - half + np.int32(127)) << np.int32(23)).view(np.float32)
    return ((r * r) * q + r + one) * low * high


def _exp64(t: Any) -> Any:
    t = -746.0 if t < -746.0 else t  # a NaN stays
    magic = np.float64(6755399441055744.0)  # 1.5 * 2**52
    shifted = t * 1.4426950408889634 + magic
    n = shifted - magic
    r = (t - n * 0.6931471801362932) - n * 4.236521365809284e-10
    q = 2.5100424157005067e-08
    q = q * r + 2.7620138719733994e-07
    q = q * r + 2.7557268378684192e-06
    q = q * r + 2.480152119021773e-05
    q = q * r + 0.00019841269863105968
    q = q * r + 0.0013888888917281794
    q = q * r + 0.008333333333330051
    q = q * r + 0.04166666666662399
    q = q * r + 0.16666666666666669
    q = q * r + 0.5000000000000001
    whole = np.float64(shifted).view(np.int64) - magic.view(np.int64)
    half = whole >> 1
    low = np.int64((half + 1023) << 52).view(np.float64)
    high = np.int64((whole - half + 1023) << 52).view(np.float64)
    return ((r * r) * q + r + 1.0) * low * high


@overload(_exp, jit_options={"fastmath": _EXACT})
def _exp_of(t: Any) -> Any:
    return _exp32 if t == types.float32 else _exp64


def _top(x: Any) -> Any:
    """The largest entry. Bits mapped so that integers compare as the floats do: that vectorises."""
    raise AssertionError("compiled code only")


def _top32(x: Any) -> Any:
    bits = x.view(np.int32)
    top = np.int32(-2139095041)  # -inf, mapped
    for j in range(bits.size):
        b = bits[j]
        b ^= (b >> np.int32(31)) & np.int32(0x7FFFFFFF)
        top = b if b > top else top
    return np.int32(top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


def _top64(x: Any) -> Any:
    bits = x.view(np.int64)
    top = np.int64(-9218868437227405313)  # -inf, mapped
    for j in range(bits.size):
        b = bits[j]
        b ^= (b >> 63) & 0x7FFFFFFFFFFFFFFF
        top = b if b > top else top
    return np.int64(top ^ ((top >> 63) & 0x7FFFFFFFFFFFFFFF)).view(np.float64)


@overload(_top)
def _top_of(x: Any) -> Any:
    return _top32 if x.dtype == types.float32 else _top64


@njit(fastmath=_EXACT)
def _exp_chunk(x: Any, shift: Any, e: Any) -> None:
    for j in range(x.size):
        e[j] = _exp(x[j] - shift)


@njit(fastmath=_SUM)
def _sum_rest(x: Any, top: Any, e: Any) -> Any:
    """Sum of e where x is below the top, in float64, and how many are not."""
    rest = 0.0
    count = 0
    for j in range(x.size):
        is_top = x[j] == top
        rest += 0.0 if is_top else np.float64(e[j])
        count += 1 if is_top else 0
    return rest, count


@njit(fastmath=_SUM)
def _sum(terms: Any) -> Any:
    """Sum in float64."""
    total = 0.0
    for j in range(terms.size):
        total += np.float64(terms[j])
    return total


@njit(fastmath=_EXACT)
def _target_to_cost(x: Any, shift: Any, target: Any) -> None:
    """T becomes T * (shift - x) / 2. Halves, since shift - x may overflow where the loss does not; 0 * inf = 0."""
    half = x.dtype.type(0.5)
    for j in range(x.size):
        t = target[j]
        target[j] = x.dtype.type(0) if t == 0 else t * (half * shift - half * x[j])


@njit(fastmath=_EXACT)
def _fill_target(out: Any, soft: Any, scale: Any, base: Any, first: int) -> None:
    """T of one chunk of classes; `soft` is empty for hard labels, whose own mass is not in it."""
    has_soft, one_scale, has_base, one_base = soft.size > 0, scale.size == 1, base.size > 0, base.size == 1
    for j in range(out.size):
        out[j] = base[0 if one_base else first + j] if has_base else 0
    if has_soft:
        for j in range(out.size):
            out[j] += soft[first + j] * scale[0 if one_scale else first + j]


@njit(fastmath=_EXACT)
def _combine(parts: Any) -> Any:
    """A row's top, its sum without one of the tops, T's sum, sum T (top - x), and log s, in float64."""
    top = -np.inf
    for k in range(len(parts)):
        top = max(top, parts[k, 0]) if parts[k, 0] == parts[k, 0] else top
    rest = count = mass = cost = 0.0
    for k in range(len(parts)):
        down = top - parts[k, 0]
        if down == 0:
            count += parts[k, 1]
            rest += parts[k, 2]
        else:  # also where both tops are infinite: then the row is broken, and a NaN in it comes through
            rest += (parts[k, 1] + parts[k, 2]) * (math.exp(-down) if down > 0 else 0.0)
        mass += parts[k, 3]
        cost += 2 * parts[k, 4]
        if parts[k, 3] != 0:
            cost += parts[k, 3] * (top - (0.0 if parts[k, 0] == -np.inf else parts[k, 0]))
    if not (-np.inf < top < np.inf) or rest != rest:
        return top, rest, mass, cost, np.nan if rest != rest else 0.0, True
    rest += count - 1
    return top, rest, mass, cost, math.log1p(rest), False


@njit(fastmath=_EXACT)
def _sum_row(x: Any, grad: Any, soft: Any, scale: Any, base: Any, e: Any, target: Any, parts: Any) -> Any:
    """First sweep over one row: chunks summed and combined; exp(x - chunk's top) left in grad if it has a size."""
    for k in range(len(parts)):
        first = k * _CHUNK
        chunk = x[first : first + _CHUNK]
        n = chunk.size
        top = _top(chunk)
        shift = x.dtype.type(0) if top == -np.inf else top  # -inf - -inf would be NaN
        _exp_chunk(chunk, shift, e[:n])
        rest, count = _sum_rest(chunk, top, e[:n])
        parts[k, 0] = top
        parts[k, 1] = 0 if top == -np.inf else count
        parts[k, 2] = rest
        parts[k, 3] = parts[k, 4] = 0
        if target.size:
            _fill_target(target[:n], soft, scale, base, first)
            parts[k, 3] = _sum(target[:n])
            _target_to_cost(chunk, shift, target[:n])
            parts[k, 4] = _sum(target[:n])
        if grad.size:
            grad[first : first + n] = e[:n]
    return _combine(parts)


@njit(fastmath=_EXACT)
def _scale_row(
    grad: Any, top: float, factor: float, gain: float, soft: Any, scale: Any, base: Any, target: Any, parts: Any
) -> None:
    """Second sweep: grad = factor * exp(x - top) - gain * T."""
    real = grad.dtype.type
    for k in range(len(parts)):
        chunk = grad[k * _CHUNK : (k + 1) * _CHUNK]
        down = top - parts[k, 0]
        by = real(factor if down == 0 else factor * math.exp(-down))
        for j in range(chunk.size):
            chunk[j] *= by
        if target.size:
            _fill_target(target[: chunk.size], soft, scale, base, k * _CHUNK)
            for j in range(chunk.size):
                chunk[j] -= real(gain) * target[j]


@njit(fastmath=_EXACT)
def _row(
    logits: Any, i: int, label: int, mass: float, soft: Any, scale: Any, base: Any, base_total: float, z_loss: float,
    weight: float, upstream: float, loss: Any, grad: Any, row_max: Any, log_sum: Any, e: Any, target: Any, parts: Any,
) -> None:  # fmt: skip
    """One row; label -1: none. `soft` is empty for hard labels."""
    real = logits.dtype.type
    hard = soft.size == 0
    x = logits[i]
    counts = weight != 0 and (not hard or label >= 0)
    if not counts:
        if loss.size:
            loss[i] = 0
        if not row_max.size and not log_sum.size:
            if grad.size:
                grad[i, :] = 0
            return
    x_label = np.float64(x[label]) if label >= 0 else 0.0  # before the gradient may overwrite it
    out = grad[i] if grad.size else grad.reshape(-1)
    top, rest, soft_mass, cost, log_s, broken = _sum_row(
        x, out if counts else out[:0], soft, scale, base, e, target, parts
    )
    if row_max.size:
        row_max[i] = top
    if log_sum.size:
        log_sum[i] = log_s
    if not counts or broken:
        if broken and counts and loss.size:
            loss[i] = np.nan
        if grad.size:
            grad[i, :] = real(np.nan) if counts else real(0)
        return
    s = 1 + rest
    lse = top + log_s
    total = mass + base_total if hard else soft_mass
    z_pull = 2 * z_loss * lse if z_loss != 0 else 0.0
    if loss.size:
        value = cost + total * log_s
        if hard and mass != 0:
            value += 2 * (mass * (0.5 * top - 0.5 * x_label))
        if z_loss != 0:
            value += z_loss * lse * lse
        loss[i] = real(weight * value)
    if grad.size:
        gain = weight * upstream
        at_label = 0.0
        if hard:  # from the other classes' share, never as p - 1, which cancels as p approaches 1
            e_label = out[label] * math.exp(parts[label // _CHUNK, 0] - top)
            others = rest if x_label == top else s - e_label
            at_base = np.float64(base[0 if base.size == 1 else label]) if base.size else 0.0
            at_label = gain * ((base_total + z_pull) * (e_label / s) - mass * (others / s) - at_base)
        _scale_row(out, top, gain * (total + z_pull) / s, gain, soft, scale, base, target, parts)
        if hard:
            out[label] = real(at_label)


def _hard_rows(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float, z_loss: float,
    row_weight: Any, upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    classes = logits.shape[1]
    e = np.empty(min(classes, _CHUNK), logits.dtype)
    target = np.empty(e.size if base_mass.size else 0, logits.dtype)
    parts = np.empty(((classes + _CHUNK - 1) // _CHUNK, 5))
    no_soft = base_mass[:0]
    for i in range(start, stop):
        label = labels[i if labels.size > 1 else 0]
        # Checked again: another thread may have changed it since, and it must not become an address.
        known = 0 <= label < classes and label != ignore_index
        mass = np.float64(label_mass[label if label_mass.size > 1 else 0]) if known else 0.0
        _row(
            logits, i, label if known else -1, mass, no_soft, label_mass, base_mass, base_total, z_loss,
            row_weight[i if row_weight.size > 1 else 0], upstream[i if upstream.size > 1 else 0],
            loss, grad, row_max, log_sum, e, target, parts,
        )  # fmt: skip


def _soft_rows(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    classes = logits.shape[1]
    e = np.empty(min(classes, _CHUNK), logits.dtype)
    target = np.empty(e.size, logits.dtype)
    parts = np.empty(((classes + _CHUNK - 1) // _CHUNK, 5))
    for i in range(start, stop):
        _row(
            logits, i, -1, 0.0, targets[i], target_scale, base_mass, 0.0, z_loss,
            row_weight[i if row_weight.size > 1 else 0], upstream[i if upstream.size > 1 else 0],
            loss, grad, row_max, log_sum, e, target, parts,
        )  # fmt: skip


@functools.cache
def _compiled(rows: Any, itemsize: int) -> Any:
    """The kernel for one dtype. One signature: inputs declared read-only, which takes writeable arrays too."""
    real = types.float32 if itemsize == 4 else types.float64

    def given(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C", readonly=True)

    tables = given(real, 1), given(real, 1)  # by class
    factors = given(types.float64, 1), given(types.float64, 1)  # by row
    outputs = real[::1], real[:, ::1], real[::1], real[::1]
    first = (
        (given(real, 2), given(types.int64, 1), types.int64, *tables, types.float64)
        if rows is _hard_rows
        else (given(real, 2), given(real, 2), *tables)
    )
    signature = types.void(*first, types.float64, *factors, *outputs, types.int64, types.int64)
    try:
        return njit([signature], nogil=True, cache=True, fastmath=_EXACT)(rows)
    except (RuntimeError, OSError):  # no folder to cache in, or none that can be written: compiled every time
        return njit([signature], nogil=True, fastmath=_EXACT)(rows)


_NONE = {4: (np.empty(0, np.float32), np.empty((0, 0), np.float32)), 8: (np.empty(0), np.empty((0, 0)))}


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    none, no_grad = _NONE[logits.itemsize]
    _compiled(_hard_rows, logits.itemsize)(
        logits, labels, ignore_index, label_mass, none if base_mass is None else base_mass, base_total, z_loss,
        row_weight, upstream, none if loss is None else loss, no_grad if grad is None else grad,
        none if row_max is None else row_max, none if log_sum is None else log_sum, start, stop,
    )  # fmt: skip


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """The same for soft targets: see softmax_ce.contract."""
    none, no_grad = _NONE[logits.itemsize]
    _compiled(_soft_rows, logits.itemsize)(
        logits, targets, target_scale, none if base_mass is None else base_mass, z_loss,
        row_weight, upstream, none if loss is None else loss, no_grad if grad is None else grad,
        none if row_max is None else row_max, none if log_sum is None else log_sum, start, stop,
    )  # fmt: skip
