"""NumPy with the row maximum m pulled out: p = exp(x - m) / s, loss = (m - x_y) + log s.

Written after the rules that keep log-sum-exp accurate (Blanchard, Higham and Higham, IMA J. Numer.
Anal. 2021): one maximum of each row is left out of the sum, so that log s = log1p(s - 1) is right when
one class takes nearly everything; the gradient at the label is built from the sum of the other
classes, never as p_y - 1.

Passes over memory: the logits are read once and the gradient written once, a block of rows at a time.
Within the caches a block is gone over five times: argmax, difference, exp, sum, product. Smoothing and
soft targets take three to six more. Scratch: one block where the exponentials cannot have the gradient's
own memory, and up to two for smoothing and soft targets. Sums over classes are NumPy's pairwise ones in
R, and so are log s and what the label's gradient is made of; with options, what is one number a row is float64.
"""

from __future__ import annotations

import contextvars
import functools
from typing import Any, NamedTuple

import numpy as np

from softmax_ce._backends._rows import row_blocks, rows_of, step_of
from softmax_ce.reduction import total_of

_UINT64 = np.dtype(np.uint64)
_SMALL = 1 << 12  # elements
# Entering np.errstate takes 0.6 us. A context holds the same setting, and is copied in a sixth of that. Only NumPy runs
# in it. A signal handler that comes meanwhile does not see the program's context variables.
_QUIET = contextvars.Context()
_QUIET.run(np.seterr, all="ignore")


@np.errstate(all="ignore")  # -inf - -inf and exp's underflow are ordinary here
def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    classes = logits.shape[1]
    is_one = _is_one(label_mass)
    some_massless = not is_one and not label_mass.all()
    room = _room(logits, grad, start, stop)
    is_plain = (
        is_one and base_mass is None and not (base_total or z_loss) and row_max is None and log_sum is None
        and _is_one(row_weight) and not 0 <= ignore_index < classes
    )  # fmt: skip
    for rows in row_blocks(start, stop, classes):
        out = None if grad is None else grad[rows]
        e: Any = out if room is None else room[: rows.stop - rows.start]
        if is_plain:
            y = _classes_at(rows_of(labels, rows), classes)
            if y is not None:
                first, one = np.arange(0, e.size, classes), np.ones(len(e), e.dtype)
                frame = _Frame(first, one, rows_of(upstream, rows).astype(e.dtype))
                _plain_rows(logits[rows], y, frame, None if loss is None else loss[rows], out, e)
                continue
        row = _Block(logits[rows], e)
        y, counts = _read(rows_of(labels, rows), classes, ignore_index)
        at = y + row.first
        gap = row.flat[at]  # x_y - m
        spread = None if base_mass is None or loss is None else row.cost(base_mass)
        row.exponentiate(out is not None)
        row.write_lse(row_max, log_sum, rows)
        if loss is None and out is None:
            continue
        weight, gain, counts = _factors(row_weight, upstream, rows, counts)
        mass: Any = 1.0 if is_one else _at(label_mass, y)
        if loss is not None:
            value = row.log_sum - gap if is_one else mass * row.log_sum + row.label_cost(mass, gap, y)
            if spread is not None:
                value += spread + base_total * row.log_sum
            row.write_loss(value, z_loss, weight, counts, loss[rows])
        if out is not None:
            at_label = row.minus_others(at)
            # Without mass, the label is a class like the others.
            own = np.flatnonzero(np.broadcast_to(mass, at.shape)) if some_massless else slice(None)
            if base_mass is not None or base_total or z_loss:  # masses of either sign may sum to 0
                pull = row.pull(base_total, z_loss)
                at_label = (mass * at_label.astype(np.float64) + pull * row.flat[at]) / (1 + row.rest)
                at_label = gain * (at_label if base_mass is None else at_label - _at(base_mass, y))
                row.write_grad(mass + pull, gain, base_mass, out)
                out.reshape(-1)[at[own]] = at_label[own].astype(out.dtype)
            else:
                row.flat[at[own]] = at_label[own]
                share = (gain if is_one else gain * mass).astype(out.dtype) / (1 + row.rest)
                np.multiply(row.e, share[:, None], out)
            _blank(counts, out)


def plain(logits: Any, labels: Any, divisor: float, loss: Any, grad: Any, reduced: bool) -> float | None:
    """A small call without any option: see softmax_ce.contract."""
    return _QUIET.copy().run(_plain, logits, labels, divisor, loss, grad, reduced)


def _plain(logits: Any, labels: Any, divisor: float, loss: Any, grad: Any, reduced: bool) -> float | None:
    rows, classes = logits.shape
    y = _classes_at(labels, classes)
    if y is None:
        return None
    if reduced:
        loss = np.empty(rows, logits.dtype)
    e = np.empty_like(logits) if grad is None else grad
    frame = (_kept_frame if rows <= _FEW else _frame)(rows, classes, divisor, logits.dtype)
    _plain_rows(logits, y, frame, loss, grad, e)
    return total_of(loss, divisor) if reduced else 0.0


def _classes_at(labels: Any, classes: int) -> Any:
    """A copy of the labels, which another thread may change; None if one is not a class."""
    y = labels.copy()
    return y if _are_classes(y, classes) else None


def _are_classes(y: Any, classes: int) -> bool:
    wild = y.view(_UINT64)  # a negative label is a huge one
    return bool(wild.item(wild.argmax()) < classes)


class _Frame(NamedTuple):
    """Vectors with an entry a row, for blocks of one shape."""

    first: Any  # where a row begins in the flat block
    one: Any  # R: as long as what it is added to, since one entry for all rows takes twice as long
    gain: Any  # R


def _frame(rows: int, classes: int, divisor: float, dtype: Any) -> _Frame:
    """What all calls of one shape have in common. Nobody writes into it."""
    gain = np.full(rows, 1.0 / divisor).astype(dtype)
    return _Frame(np.arange(0, rows * classes, classes), np.ones(rows, dtype), gain)


_FEW = 1 << 10  # rows
_kept_frame = functools.lru_cache(64)(_frame)  # 1.5 MiB at most


def _plain_rows(x: Any, y: Any, frame: _Frame, loss: Any, out: Any, e: Any) -> None:
    """The loss and the gradient of a block without any option, whose labels are classes.

    The steps of :class:`_Block` and their bits, in one piece: a small block takes the time of some thirty calls of
    NumPy, and half as much again if each has a Python function around it. So there are few, and of the cheap kinds:
    no arithmetic between dtypes, which casts by pieces, no sum along an axis, no number beside an array.
    """
    first, one, gain = frame
    at_top = _top_of(x, first)
    at = np.add(y, first)
    flat = e.ravel()
    np.subtract(x, x.ravel()[at_top][:, None], e)
    gap, zero = flat[at], flat[at_top]
    np.exp(flat, flat)
    flat[at_top] = zero
    rest = np.add.reduceat(flat, first)
    if loss is not None:
        np.subtract(np.log1p(rest), gap, loss)
    if out is not None:
        flat[at_top] = one
        at_label = flat[at]
        at_label -= one
        at_label -= rest
        flat[at] = at_label
        rest += one
        np.multiply(e, np.divide(gain, rest)[:, None], out)


@np.errstate(all="ignore")
def soft(
    logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for soft labels: see softmax_ce.contract."""
    as_given = _is_one(target_scale)
    room = _room(logits, grad, start, stop)
    for rows in row_blocks(start, stop, logits.shape[1]):
        out = None if grad is None else grad[rows]
        row = _Block(logits[rows], out if room is None else room[: rows.stop - rows.start])
        target = targets[rows] if as_given else targets[rows] * target_scale
        if base_mass is not None:
            target = target + base_mass
        cost = None if loss is None else row.cost(target)
        row.exponentiate(out is not None)
        row.write_lse(row_max, log_sum, rows)
        if loss is None and out is None:
            continue
        weight, gain, counts = _factors(row_weight, upstream, rows, None)
        total = row.sum(target.reshape(-1))
        if cost is not None:
            row.write_loss(cost + total * row.log_sum, z_loss, weight, counts, loss[rows])
        if out is not None:
            row.write_grad(row.pull(total, z_loss), gain, target, out)
            _blank(counts, out)


class _Block:
    """A block of rows with the maximum m out.

    x and e are (rows, C) R, flat is e as one vector; of what has one entry a row, first says where the row begins
    in flat, and at_top where its maximum is.
    """

    __slots__ = ("at_top", "e", "first", "flat", "log_sum", "rest", "top", "x")

    def __init__(self, x: Any, e: Any) -> None:
        """Leave x - m in e."""
        classes = x.shape[1]
        first = np.arange(0, x.size, classes)
        at_top = _top_of(x, first)
        top = x.reshape(-1)[at_top]
        np.subtract(x, top[:, None], e)
        self.x, self.e, self.flat = x, e, e.reshape(-1)
        self.first, self.at_top, self.top = first, at_top, top

    def sum(self, terms: Any) -> Any:
        """Sums over the classes of a flat block: pairwise, as sum(axis=1), but for few classes twice as fast."""
        return np.add.reduceat(terms, self.first).astype(np.float64)

    def cost(self, target: Any) -> Any:
        """sum_j T_j (m - x_j) with 0 * inf = 0; before :meth:`exponentiate`."""
        if target.size == 1:
            terms, cost = None, self.sum(self.flat) * -float(target.item())
        else:
            terms = self.e * target
            cost = -self.sum(terms.reshape(-1))
        odd = ~np.isfinite(cost)
        if terms is not None and odd.any():
            np.copyto(terms, 0, where=target == 0)
            cost[odd] = -self.sum(terms.reshape(-1))[odd]
            odd = ~np.isfinite(cost)
        if odd.any():
            cost[odd] = _cost_in_halves(self.x[odd], self.top[odd], target if target.ndim == 1 else target[odd])
        return cost

    def label_cost(self, mass: Any, gap: Any, y: Any) -> Any:
        """mass * (m - x_y) with 0 * inf = 0."""
        cost = -mass * gap
        if np.isfinite(cost).all():
            return cost
        half = 0.5 * self.top - 0.5 * self.x[np.arange(len(self.x)), y]
        return np.where(mass != 0, 2 * (mass * half), 0.0)

    def exponentiate(self, all_of_them: bool) -> None:
        """Leave exp(x - m) in e, at the maximum too where all of them are wanted."""
        zero = self.flat[self.at_top]
        np.exp(self.flat, self.flat)
        # 0, or NaN with a NaN, a +inf or nothing above -inf in the row: then whatever comes of it is NaN.
        self.flat[self.at_top] = zero
        self.rest = np.add.reduceat(self.flat, self.first)  # s - 1
        self.log_sum = np.log1p(self.rest).astype(np.float64)
        if all_of_them:
            self.flat[self.at_top] = 1

    def minus_others(self, at: Any) -> Any:
        """e_y - s, without cancellation: e_y - 1 is 0 where the label is the maximum, else both have one sign."""
        value = self.flat[at]
        value -= 1
        value -= self.rest
        return value

    def pull(self, total: Any, z_loss: float) -> Any:
        """What multiplies p beside the label's mass: total + 2 * z_loss * lse."""
        return total + 2 * z_loss * (self.top + self.log_sum) if z_loss else total

    def write_lse(self, row_max: Any, log_sum: Any, rows: slice) -> None:
        if row_max is not None:
            row_max[rows] = self.top
        if log_sum is not None:
            log_sum[rows] = np.where(np.isfinite(self.top), self.log_sum, 0)  # lse = m, be it NaN or infinite

    def write_loss(self, value: Any, z_loss: float, weight: Any, counts: Any, loss: Any) -> None:
        if z_loss:
            lse = self.top + self.log_sum
            value += z_loss * lse * lse
        if weight is not None:
            value *= weight
        loss[:] = value
        _blank(counts, loss)

    def write_grad(self, share: Any, gain: Any, target: Any, grad: Any) -> None:
        """gain * (share * p - T). The difference first: with one class it is exactly 0."""
        share = share / (1 + self.rest)
        if target is None:
            np.multiply(self.e, (gain * share).astype(grad.dtype)[:, None], grad)
            return
        np.multiply(self.e, share.astype(grad.dtype)[:, None], grad)
        grad -= target
        if not _is_one(gain):
            grad *= gain.astype(grad.dtype)[:, None]


def _top_of(x: Any, first: Any) -> Any:
    """Where each row's maximum is in the flat block: the first of equal ones, or a NaN."""
    classes = x.shape[1]
    if 16 < classes < 64 and x.size > _SMALL:  # fewer than argmax takes at a time: it would go one by one
        top = np.maximum.reduceat(x.ravel(), first)
        at_top = (x == top[:, None]).argmax(1)
        broken = top != top  # a NaN equals nothing
        if broken.any():
            at_top[broken] = x[broken].argmax(1)
    else:
        at_top = x.argmax(1)
    at_top += first
    return at_top


def _blank(counts: Any, output: Any) -> None:
    if counts is not None:
        output[~counts] = 0


def _is_one(factor: Any) -> bool:
    return len(factor) == 1 and factor.item(0) == 1


def _at(by_class: Any, y: Any) -> Any:
    """The labels' entries of what has one a class, or one for all."""
    return (by_class if len(by_class) == 1 else by_class[y]).astype(np.float64)


def _room(logits: Any, grad: Any, start: int, stop: int) -> Any:
    """A scratch for a block's exponentials; None where they can be in the gradient's own memory."""
    if grad is not None and not np.may_share_memory(grad, logits):
        return None
    classes = logits.shape[1]
    return np.empty((step_of(start, stop, classes), classes), logits.dtype)


def _read(labels: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """A block's labels, read once, 0 for those that do not count; and which do, None where all do."""
    y = labels.copy()
    if _are_classes(y, classes) and not (0 <= ignore_index < classes and (y == ignore_index).any()):
        return y, None
    counts = (y.view(_UINT64) < classes) & (y != ignore_index)
    y[~counts] = 0
    return y, counts


def _factors(row_weight: Any, upstream: Any, rows: slice, counts: Any) -> tuple[Any, Any, Any]:
    """A block's row weights, None where all are 1; these times upstream; and which rows count, None where all do."""
    weight, gain = rows_of(row_weight, rows), rows_of(upstream, rows)
    if _is_one(weight):
        weight = None
    else:
        gain = weight * gain
        heavy = weight != 0
        if not heavy.all():
            counts = heavy if counts is None else counts & heavy
    if counts is not None:
        counts = np.broadcast_to(counts, rows.stop - rows.start)
    return weight, gain, counts


def _cost_in_halves(x: Any, top: Any, target: Any) -> Any:
    """sum_j T_j (m - x_j) with 0 * inf = 0, in halves so that huge logits do not overflow on the way."""
    half = x * x.dtype.type(0.5)
    np.subtract(0.5 * top[:, None], half, out=half)
    half *= target
    np.copyto(half, 0.0, where=np.broadcast_to(target == 0, half.shape))
    return 2 * half.sum(axis=1).astype(np.float64)
