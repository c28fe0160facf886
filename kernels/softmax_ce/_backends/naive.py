"""The textbook formula, unshifted: p = exp(x) / sum exp(x), loss = -sum T log p, grad = p - T.

This backend is for reading and for comparison. float32 overflows if a logit exceeds 88.7 (float64: 709.7), and the
sum of a row underflows to 0 if all its logits lie below -104 (-745). The correctness suite pins the results in these
cases. Within that range, the backend keeps the whole contract.

Passes over memory: about ten, each in a block of rows that fits in cache. Scratch: a few such blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce._backends._rows import row_blocks, rows_of

_BLOCK = 1 << 15  # elements: a few float64 scratch blocks of 256 KiB


def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    classes = logits.shape[1]
    for rows in row_blocks(start, stop, classes, _BLOCK):
        x = logits[rows]
        y = np.broadcast_to(rows_of(labels, rows).copy(), len(x))  # another thread may change them
        known = (y >= 0) & (y < classes)
        at = np.arange(len(x)), np.where(known, y, 0)
        mass = np.broadcast_to(label_mass, classes)[at[1]]
        target = np.zeros(x.shape) if base_mass is None else np.broadcast_to(base_mass, x.shape).astype(np.float64)
        target[at] += mass
        counts = known & (y != ignore_index) & (rows_of(row_weight, rows) != 0)
        total = mass.astype(np.float64) + base_total
        _textbook(x, target, total, z_loss, counts, rows, row_weight, upstream, loss, grad, row_max, log_sum)


def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for soft labels: see softmax_ce.contract."""
    for rows in row_blocks(start, stop, logits.shape[1], _BLOCK):
        x = logits[rows]
        with np.errstate(all="ignore"):
            target = targets[rows] * target_scale
            if base_mass is not None:
                target += base_mass
            total = target.sum(axis=1, dtype=np.float64)
        counts = np.broadcast_to(rows_of(row_weight, rows) != 0, len(x))
        _textbook(x, target, total, z_loss, counts, rows, row_weight, upstream, loss, grad, row_max, log_sum)


def _textbook(
    x: Any, target: Any, total: Any, z_loss: float, counts: Any, rows: slice, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any,
) -> None:  # fmt: skip
    weight = rows_of(row_weight, rows)
    with np.errstate(all="ignore"):
        e = np.exp(x)
        s = e.sum(axis=1)
        p = e / s[:, None]
        p[(x == np.inf).any(axis=1)] = np.nan  # an input of +inf is not an overflow: by contract its row is NaN
        lse = np.log(s.astype(np.float64))
        if row_max is not None:
            row_max[rows] = 0.0
        if log_sum is not None:
            log_sum[rows] = lse
        if loss is not None:
            cost = -target * np.log(p.astype(np.float64))
            np.copyto(cost, 0.0, where=target == 0)  # 0 * inf = 0
            value = cost.sum(axis=1)
            value[np.isnan(p).all(axis=1)] = np.nan
            if z_loss:
                value += z_loss * lse * lse
            loss[rows] = np.where(counts, weight * value, 0.0)
        if grad is not None:
            gain = weight * rows_of(upstream, rows)
            pull = total + (2 * z_loss * lse if z_loss else 0.0)
            g = (gain[:, None] * (pull[:, None] * p - target)).astype(x.dtype)
            g[~counts] = 0.0
            grad[rows] = g
