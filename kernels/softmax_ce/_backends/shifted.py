"""The formula in NumPy with the row maximum m subtracted: p = exp(x - m) / s, loss = (m - x_y) + log s.

It follows the rules that keep log-sum-exp accurate (Blanchard, Higham and Higham, IMA J. Numer. Anal. 2021). One
maximum of each row is left out of the sum, so log s = log1p(s - 1) is accurate if one class takes nearly everything.
The gradient at the label is computed from the sum over the other classes, never as p_y - 1.

Passes over memory: the logits are read once and the gradient is written once, a block of rows at a time. Within the
caches there are five passes over a block: argmax, difference, exp, sum and product. Smoothing and soft targets take
three to six more. Scratch: one block if the exponentials cannot be in the gradient's memory, and up to two for
smoothing and soft targets. Sums over classes are pairwise, in R, and so are log s and the terms of the gradient at the
label. With options, numbers that exist once a row are float64.
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
# Entering np.errstate takes 0.6 us, and copying a context with the same setting a sixth of that. Only NumPy runs in the
# copy. A signal handler that runs meanwhile does not see the program's context variables.
_QUIET = contextvars.Context()
_QUIET.run(np.seterr, all="ignore")


@np.errstate(all="ignore")  # -inf - -inf and exp's underflow are ordinary here
def hard(
    logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
    z_loss: float, row_weight: Any, upstream: Any,
    loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute the loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract."""
    classes, is_one = logits.shape[1], _is_one(label_mass)
    scratch = _scratch(logits, grad, start, stop)
    is_plain = (
        is_one and base_mass is None and not (base_total or z_loss) and row_max is None and log_sum is None
        and _is_one(row_weight) and not 0 <= ignore_index < classes
    )  # fmt: skip
    for rows in row_blocks(start, stop, classes):
        out = None if grad is None else grad[rows]
        e: Any = out if scratch is None else scratch[: rows.stop - rows.start]
        y = _classes_at(rows_of(labels, rows), classes) if is_plain else None
        if y is not None:
            first, one = np.arange(0, e.size, classes), np.ones(len(e), e.dtype)
            frame = _Frame(first, one, rows_of(upstream, rows).astype(e.dtype))
            _plain_rows(logits[rows], y, frame, None if loss is None else loss[rows], out, e)
            continue
        block = _Block(logits[rows], e)
        y, counts = _read(rows_of(labels, rows), classes, ignore_index)
        at = y + block.first
        gap = block.flat[at]  # x_y - m
        spread = None if base_mass is None or loss is None else block.cost(base_mass)
        block.exponentiate(out is not None)
        block.write_lse(row_max, log_sum, rows)
        if loss is None and out is None:
            continue
        weight, gain, counts = _factors(row_weight, upstream, rows, counts)
        mass: Any = 1.0 if is_one else _at(label_mass, y)
        if loss is not None:
            value = block.log_sum - gap if is_one else mass * block.log_sum + block.label_cost(mass, gap, y)
            if spread is not None:
                value += spread + base_total * block.log_sum
            block.write_loss(value, z_loss, weight, counts, loss[rows])
        if out is not None:
            _write_label_grad(block, y, at, mass, base_mass, base_total, z_loss, gain, out)
            _blank(counts, out)


def _write_label_grad(
    block: _Block, y: Any, at: Any, mass: Any, base_mass: Any, base_total: float, z_loss: float, gain: Any, out: Any
) -> None:  # fmt: skip
    """Write the gradient of a block with labels y, which lie at `at` in the flat block and have this mass."""
    at_label = block.minus_others(at)
    # Without mass, the label is a class like the others.
    has_mass = isinstance(mass, float) or mass.all()
    own = slice(None) if has_mass else np.flatnonzero(np.broadcast_to(mass, at.shape))
    if base_mass is not None or base_total or z_loss:  # masses of either sign may sum to 0
        pull = block.pull(base_total, z_loss)
        at_label = (mass * at_label.astype(np.float64) + pull * block.flat[at]) / (1 + block.rest)
        at_label = gain * (at_label if base_mass is None else at_label - _at(base_mass, y))
        block.write_grad(mass + pull, gain, base_mass, out)
        out.reshape(-1)[at[own]] = at_label[own].astype(out.dtype)
    else:
        block.flat[at[own]] = at_label[own]
        share = (gain * mass).astype(out.dtype) / (1 + block.rest)
        np.multiply(block.e, share[:, None], out)


def plain(logits: Any, labels: Any, divisor: float, loss: Any, grad: Any, reduced: bool) -> float | None:
    """Compute a small call without any option: see softmax_ce.contract."""
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
    """Return a copy of the labels, which another thread may change, or None if one is not a class."""
    y = labels.copy()
    return y if _are_classes(y, classes) else None


def _are_classes(y: Any, classes: int) -> bool:
    wild = y.view(_UINT64)  # a negative label is a huge one
    return bool(wild.item(wild.argmax()) < classes)


class _Frame(NamedTuple):
    """Vectors with an entry for each row, for blocks of one shape."""

    first: Any  # where the row begins in the flat block
    one: Any  # 1 in R; adding one entry for all rows would take twice as long
    gain: Any  # R


def _frame(rows: int, classes: int, divisor: float, dtype: Any) -> _Frame:
    """Return the frame of all calls of one shape. It is never written to."""
    gain = np.full(rows, 1.0 / divisor).astype(dtype)
    return _Frame(np.arange(0, rows * classes, classes), np.ones(rows, dtype), gain)


_FEW = 1 << 10  # rows
_kept_frame = functools.lru_cache(64)(_frame)  # 1.5 MiB at most


def _plain_rows(x: Any, y: Any, frame: _Frame, loss: Any, out: Any, e: Any) -> None:
    """Compute the loss and the gradient of a block without any option, whose labels are classes.

    These are the steps of :class:`_Block`, with their bits, in one function. A small block takes the time of some
    thirty NumPy calls, and half as much again if each is in a Python function. So the calls are few, and of the cheap
    kinds: no arithmetic between dtypes, which casts piece by piece, no sum along an axis, no number with an array.
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
    scratch = _scratch(logits, grad, start, stop)
    for rows in row_blocks(start, stop, logits.shape[1]):
        out = None if grad is None else grad[rows]
        block = _Block(logits[rows], out if scratch is None else scratch[: rows.stop - rows.start])
        target = targets[rows] if as_given else targets[rows] * target_scale
        if base_mass is not None:
            target = target + base_mass
        cost = None if loss is None else block.cost(target)
        block.exponentiate(out is not None)
        block.write_lse(row_max, log_sum, rows)
        if loss is None and out is None:
            continue
        weight, gain, counts = _factors(row_weight, upstream, rows, None)
        total = block.sum(target.reshape(-1))
        if cost is not None:
            block.write_loss(cost + total * block.log_sum, z_loss, weight, counts, loss[rows])
        if out is not None:
            block.write_grad(block.pull(total, z_loss), gain, target, out)
            _blank(counts, out)


class _Block:
    """A block of rows, from whose logits the row maximum m is subtracted.

    Attributes
    ----------
    x : ndarray, shape (rows, C)
        The logits.
    e, flat : ndarray, shape (rows, C) and (rows * C,)
        x - m, and later exp(x - m), in one memory.
    first, at_top : ndarray, shape (rows,)
        Where each row begins in `flat`, and where its maximum is.
    top, rest, log_sum : ndarray, shape (rows,)
        m, s - 1 and log s.
    """

    __slots__ = ("at_top", "e", "first", "flat", "log_sum", "rest", "top", "x")

    def __init__(self, x: Any, e: Any) -> None:
        """Compute x - m into e."""
        classes = x.shape[1]
        first = np.arange(0, x.size, classes)
        at_top = _top_of(x, first)
        top = x.reshape(-1)[at_top]
        np.subtract(x, top[:, None], e)
        self.x, self.e, self.flat = x, e, e.reshape(-1)
        self.first, self.at_top, self.top = first, at_top, top

    def sum(self, terms: Any) -> Any:
        """Return the sums over the classes of a flat block, pairwise. For few classes, sum(axis=1) is half as fast."""
        return np.add.reduceat(terms, self.first).astype(np.float64)

    def cost(self, target: Any) -> Any:
        """Return sum_j T_j (m - x_j) with 0 * inf = 0. Call it before :meth:`exponentiate`."""
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
        """Return mass * (m - x_y) with 0 * inf = 0."""
        cost = -mass * gap
        if np.isfinite(cost).all():
            return cost
        half = 0.5 * self.top - 0.5 * self.x[np.arange(len(self.x)), y]
        return np.where(mass != 0, 2 * (mass * half), 0.0)

    def exponentiate(self, all_of_them: bool) -> None:
        """Compute exp(x - m) into e. The entry at the maximum is only right if `all_of_them` is true."""
        zero = self.flat[self.at_top]
        np.exp(self.flat, self.flat)
        # 0; or NaN if the row has a NaN or +inf, or only -inf. All that follows is NaN then.
        self.flat[self.at_top] = zero
        self.rest = np.add.reduceat(self.flat, self.first)  # s - 1
        self.log_sum = np.log1p(self.rest).astype(np.float64)
        if all_of_them:
            self.flat[self.at_top] = 1

    def minus_others(self, at: Any) -> Any:
        """Return e_y - s without cancellation: e_y - 1 is 0 if the label is the maximum, else negative like -rest."""
        value = self.flat[at]
        value -= 1
        value -= self.rest
        return value

    def pull(self, total: Any, z_loss: float) -> Any:
        """Return the factor of p without the label's mass: total + 2 * z_loss * lse."""
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
        """Write gain * (share * p - T). The difference comes first, because for one class it is exactly 0."""
        share = share / (1 + self.rest)
        if target is None:
            np.multiply(self.e, (gain * share).astype(grad.dtype)[:, None], grad)
            return
        np.multiply(self.e, share.astype(grad.dtype)[:, None], grad)
        grad -= target
        if not _is_one(gain):
            grad *= gain.astype(grad.dtype)[:, None]


def _top_of(x: Any, first: Any) -> Any:
    """Return where each row's maximum is in the flat block: the first of equal ones, or a NaN."""
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
    """Return the labels' entries of an array with one entry for each class, or one for all."""
    return (by_class if len(by_class) == 1 else by_class[y]).astype(np.float64)


def _scratch(logits: Any, grad: Any, start: int, stop: int) -> Any:
    """Return a scratch for the exponentials of a block, or None if they can be in the gradient's memory."""
    if grad is not None and not np.may_share_memory(grad, logits):
        return None
    classes = logits.shape[1]
    return np.empty((step_of(start, stop, classes), classes), logits.dtype)


def _read(labels: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """Return a copy of the labels, with 0 for those that do not count, and which do count, or None if all do."""
    y = labels.copy()
    if _are_classes(y, classes) and not (0 <= ignore_index < classes and (y == ignore_index).any()):
        return y, None
    counts = (y.view(_UINT64) < classes) & (y != ignore_index)
    y[~counts] = 0
    return y, counts


def _factors(row_weight: Any, upstream: Any, rows: slice, counts: Any) -> tuple[Any, Any, Any]:
    """Return the row weights (None if all are 1), these times upstream, and which rows count (None if all do)."""
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
    """Return sum_j T_j (m - x_j) with 0 * inf = 0, from halves, so that huge logits do not overflow on the way."""
    half = x * x.dtype.type(0.5)
    np.subtract(0.5 * top[:, None], half, out=half)
    half *= target
    np.copyto(half, 0.0, where=np.broadcast_to(target == 0, half.shape))
    return 2 * half.sum(axis=1).astype(np.float64)
