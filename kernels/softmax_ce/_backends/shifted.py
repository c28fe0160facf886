"""NumPy with the row maximum m pulled out: p = exp(x - m) / s, loss = (m - x_y) + log s.

Written after the rules that keep log-sum-exp accurate (Blanchard, Higham and Higham, IMA J. Numer.
Anal. 2021): entries equal to the maximum are counted, not summed, so that log s = log1p(s - 1) is
right when one class takes nearly everything; the gradient at the label is built from the sum of the
other classes, never as p_y - 1.

Passes over memory: the logits are read once and the gradient written once; about eight more passes
run over a block of rows that fits in L2. Scratch: two such blocks. Sums over classes are NumPy's
pairwise ones in R; everything that is one number a row is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce._backends._rows import row_blocks, rows_of


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    classes = logits.shape[1]
    with np.errstate(all="ignore"):  # -inf - -inf and exp's underflow are ordinary here
        for rows in row_blocks(start, stop, classes):
            row = _shift(logits[rows], grad is None)
            _write_lse(row, rows, row_max, log_sum)
            if loss is None and grad is None:
                continue
            y = np.broadcast_to(rows_of(labels, rows), len(row.x))
            known = (y >= 0) & (y < classes)
            at = np.arange(len(y)), np.where(known, y, 0)
            mass = np.broadcast_to(label_mass, classes)[at[1]].astype(np.float64)
            counts = known & (y != ignore_index) & (rows_of(row_weight, rows) != 0)
            weight = rows_of(row_weight, rows)
            half_gap = 0.5 * row.top - 0.5 * row.x[at]  # halves: m - x may exceed the format where the loss does not
            if loss is not None:
                value = np.where(mass != 0, 2 * (mass * half_gap), 0.0) + mass * row.log_sum
                if base_mass is not None:
                    value += _cost(row, base_mass) + base_total * row.log_sum
                _write_loss(value, z_loss, row, counts, weight, loss, rows)
            if grad is not None:
                gain = weight * rows_of(upstream, rows)
                base = 0.0 if base_mass is None else np.broadcast_to(base_mass, classes)[at[1]].astype(np.float64)
                pull = base_total + row.z_pull(z_loss)
                e_label = row.e[at].astype(np.float64)
                others = np.where(half_gap == 0, row.rest, row.s - e_label) / row.s
                at_label = gain * (pull * (e_label / row.s) - mass * others - base)
                _write_grad(row, (mass + pull) / row.s, base_mass, gain, grad[rows])
                own = mass != 0  # without mass, the label is a class like the others
                grad[rows][at[0][own], at[1][own]] = at_label[own]
                _finish_grad(row, counts, grad[rows])


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """The same for soft targets: see softmax_ce.contract."""
    with np.errstate(all="ignore"):
        for rows in row_blocks(start, stop, logits.shape[1]):
            row = _shift(logits[rows], grad is None)
            _write_lse(row, rows, row_max, log_sum)
            if loss is None and grad is None:
                continue
            target = targets[rows] * target_scale
            if base_mass is not None:
                target += base_mass
            total = target.sum(axis=1, dtype=np.float64)
            counts = np.broadcast_to(rows_of(row_weight, rows) != 0, len(row.x))
            weight = rows_of(row_weight, rows)
            if loss is not None:
                _write_loss(_cost(row, target) + total * row.log_sum, z_loss, row, counts, weight, loss, rows)
            if grad is not None:
                gain = weight * rows_of(upstream, rows)
                _write_grad(row, (total + row.z_pull(z_loss)) / row.s, target, gain, grad[rows])
                _finish_grad(row, counts, grad[rows])


@dataclass(slots=True)
class _Shifted:
    """A block of rows with the maximum out. x and e are (rows, C) R; the others one float64 a row."""

    x: Any
    e: Any  # exp(x - m); where the sums alone are wanted, 0 at the maximum
    top: Any  # m
    rest: Any  # s - 1, summed without the maximum itself
    s: Any
    log_sum: Any
    broken: Any  # the row is NaN: a NaN, a +inf, or nothing above -inf

    def z_pull(self, z_loss: float) -> Any:
        return 2 * z_loss * (self.top + self.log_sum) if z_loss else 0.0


def _shift(x: Any, sums_only: bool) -> _Shifted:
    peak = x.max(axis=1, keepdims=True)
    e = x - peak
    np.exp(e, out=e)
    is_top = x == peak
    np.copyto(e, 0.0, where=is_top)
    rest = e.sum(axis=1).astype(np.float64) + (is_top.sum(axis=1) - 1.0)
    if not sums_only:
        np.copyto(e, 1.0, where=is_top)
    top = peak[:, 0].astype(np.float64)
    return _Shifted(x, e, top, rest, 1 + rest, np.log1p(rest), ~np.isfinite(top))


def _cost(row: _Shifted, target: Any) -> Any:
    """sum_j T_j (m - x_j) with 0 * inf = 0, in halves so that huge logits do not overflow on the way."""
    half = row.x * row.x.dtype.type(0.5)
    np.subtract((0.5 * row.top[:, None]).astype(half.dtype), half, out=half)
    half *= target
    np.copyto(half, 0.0, where=np.broadcast_to(target == 0, half.shape))
    return 2 * half.sum(axis=1).astype(np.float64)


def _write_lse(row: _Shifted, rows: slice, row_max: Any, log_sum: Any) -> None:
    if row_max is not None:
        row_max[rows] = row.top
    if log_sum is not None:
        log_sum[rows] = np.where(row.broken, 0.0, row.log_sum)  # lse = m, be it NaN or infinite


def _write_loss(value: Any, z_loss: float, row: _Shifted, counts: Any, weight: Any, loss: Any, rows: slice) -> None:
    if z_loss:
        lse = row.top + row.log_sum
        value = value + z_loss * lse * lse
    value = np.where(row.broken, np.nan, weight * value)
    loss[rows] = np.where(counts, value, 0.0)


def _write_grad(row: _Shifted, share: Any, target: Any, gain: Any, grad: Any) -> None:
    """gain * (share * e - T). The difference first: with one class it is exactly 0."""
    real = row.e.dtype
    if target is None:
        np.multiply(row.e, (gain * share)[:, None].astype(real), out=grad)
        return
    np.multiply(row.e, share[:, None].astype(real), out=grad)
    grad -= target
    grad *= gain[:, None].astype(real)


def _finish_grad(row: _Shifted, counts: Any, grad: Any) -> None:
    if row.broken.any():
        grad[row.broken] = np.nan
    if not counts.all():
        grad[~counts] = 0.0
