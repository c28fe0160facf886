"""Softmax cross-entropy in NumPy, a few rows at a time, in float64 throughout.

The formulas are those of softmax_ce.contract. One maximum of each row is left out of the sum, so that log1p keeps a
small loss accurate, and the gradient at the label is built from the other classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce.contract import Accuracy, BackendInfo, pairwise

BACKEND = BackendInfo(
    name="blockwise",
    module=__name__,
    summary="an example: NumPy in float64, 64 rows at a time",
    accuracy={"float32": Accuracy(1.0, 1.0, pairwise), "float64": Accuracy(1.0, 1.0, pairwise)},
)
BLOCK = 64


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Loss, gradient and log-sum-exp for one label a row."""
    classes = logits.shape[1]
    for rows in _blocks(start, stop):
        x = logits[rows].astype(np.float64)
        y = np.broadcast_to(_rows(labels, rows), len(x))
        known = (y >= 0) & (y < classes)
        counts = known & (y != ignore_index)
        at = np.arange(len(x)), np.where(known, y, 0)
        target = np.zeros(x.shape) + (0.0 if base_mass is None else base_mass)
        mass = np.broadcast_to(label_mass, classes)[at[1]].astype(np.float64)
        target[at] += mass
        total = mass + base_total
        _compute(x, target, total, at, mass, z_loss, counts, rows, row_weight, upstream, loss, grad, row_max, log_sum)


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Loss, gradient and log-sum-exp for a row of soft targets."""
    for rows in _blocks(start, stop):
        x = logits[rows].astype(np.float64)
        target = targets[rows] * np.asarray(target_scale, np.float64) + (0.0 if base_mass is None else base_mass)
        total, counts = target.sum(axis=1), np.ones(len(x), bool)
        _compute(x, target, total, None, None, z_loss, counts, rows, row_weight, upstream, loss, grad, row_max, log_sum)


@np.errstate(all="ignore")  # infinities and NaN follow the contract
def _compute(
    x: Any, target: Any, total: Any, at: Any, mass: Any, z_loss: float, counts: Any, rows: slice, row_weight: Any,
    upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any,
) -> None:  # fmt: skip
    weight = np.broadcast_to(_rows(row_weight, rows), len(x))
    counts = counts & (weight != 0)
    top = np.arange(len(x)), x.argmax(axis=1)
    m = x[top]
    d = x - m[:, None]
    e = np.exp(d)
    e[top] = np.where(np.isfinite(m), 0.0, np.nan)  # left out of the sum; a row without a distribution is NaN
    rest = e.sum(axis=1)
    log_s = np.log1p(rest)
    e[top] += 1.0
    lse = m + log_s
    if row_max is not None:
        row_max[rows] = m
    if log_sum is not None:
        log_sum[rows] = np.where(np.isfinite(m), log_s, np.where(np.isnan(m), np.nan, 0.0))
    if loss is not None:
        half_gap = x / 2 - m[:, None] / 2  # the gap itself may leave the format where its share of the loss does not
        cost = target * (log_s[:, None] / 2 - half_gap)
        np.copyto(cost, 0.0, where=(target == 0) & np.isfinite(m)[:, None])  # 0 * inf = 0
        value = 2 * cost.sum(axis=1)
        if z_loss:
            value += z_loss * lse**2
        loss[rows] = np.where(counts, weight * value, 0.0)
    if grad is not None:
        s = (1.0 + rest)[:, None]
        pull = total + (2 * z_loss * lse if z_loss else 0.0)
        g = pull[:, None] * (e / s) - target
        if at is not None:  # -mass * (share of the others), where mass * p - mass would cancel
            others = np.where(at[1] == top[1], rest, s[:, 0] - e[at])
            g[at] = -mass * others / s[:, 0] + (pull - mass) * (e[at] / s[:, 0]) - (target[at] - mass)
        g *= (weight * _rows(upstream, rows))[:, None]
        g[~counts] = 0.0
        grad[rows] = g


def _blocks(start: int, stop: int) -> Any:
    return (slice(first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK))


def _rows(vector: Any, rows: slice) -> Any:
    """These rows' entries of a vector that holds one for each row, or one for all."""
    return vector if len(vector) == 1 else vector[rows]
