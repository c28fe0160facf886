"""What a shard of the classes contributes to a block of rows, and what all of them come to, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.contract import Backend
from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_ROW


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What the classes [first, stop) contribute to each row; float64, shape (N,) unless another is given.

    A backend with kernels for shards has `chunks`, and others have `top`, `rest`, `cost` and `mass`. A shard of all
    classes has none of them.

    Attributes
    ----------
    first, stop : int
    chunks : ndarray, shape (N, K, 2) or (N, K, 4), or None
        The numbers of each of the K chunks: see :class:`softmax_ce.contract.ShardKernels`.
    top : ndarray or None
        The largest logit.
    rest : ndarray or None
        The sum of exp(x - top) without the maximum's own 1; NaN if there is a NaN.
    cost, mass : ndarray or None
        The sums of T * (top - x) and of T, without the target of a hard label. None if there are no others.
    count : ndarray or None
        The number of classes that take part, if it differs by row; `spread_cost` and `spread_mass` are as `cost` and
        `mass`, for what smoothing shares out among them, before it is divided by their number.
    correct : ndarray of bool or None
        Whether the label is the first maximum of these classes.
    masked : bool
        Whether the classes that take part differ by row.
    """

    first: int
    stop: int
    chunks: Any = None
    top: Any = None
    rest: Any = None
    cost: Any = None
    mass: Any = None
    count: Any = None
    spread_cost: Any = None
    spread_mass: Any = None
    correct: Any = None
    masked: bool = False

    @property
    def largest(self) -> Any:
        """The largest logit of each row."""
        return self.top if self.chunks is None else self.chunks[:, :, 0].max(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """A shard's columns of the factors by class, in the compute dtype; None for those that there are not."""

    scale: Any  # (1,) or (C,): of soft labels
    base: Any  # (C,): what smoothing adds at each class
    spread: Any  # (C,): what smoothing shares out, if the classes that take part differ by row


@dataclass(frozen=True, slots=True, eq=False)
class FoldedSums:
    """The sums over all classes for each row; float64, shape (N,).

    lse is top + log_sum. `cost` and `mass` are the sums of T * (top - x) and of T without a hard label's target.
    """

    top: Any
    rest: Any
    log_sum: Any
    cost: Any
    mass: Any
    count: Any

    @property
    def broken(self) -> Any:
        """Whether a row has no distribution: a NaN, a +inf, or nothing above -inf."""
        return ~np.isfinite(self.top) | np.isnan(self.rest)


def sums(backend: Backend, x: Any, t: Any, tables: Tables) -> tuple[Any, Any, Any, Any]:
    """Return top, rest, cost and mass of a block of rows. `t` are soft labels, or None."""
    n_rows, dtype = len(x), x.dtype
    row_max, log_sum = np.empty(n_rows, dtype), np.empty(n_rows, dtype)
    loss: Any = None
    mass: Any = 0.0
    base_total = 0.0 if tables.base is None else float(np.add.reduce(tables.base, dtype=np.float64))
    if t is not None:
        loss = np.empty(n_rows, dtype)
        mass = np.add.reduce(t * tables.scale, axis=1, dtype=np.float64) + base_total
        backend.soft(
            x, t, tables.scale, tables.base, 0.0, ONE_ROW, ONE_ROW, loss, None, row_max, log_sum, 0, n_rows
        )  # fmt: skip
    else:
        if tables.base is not None:
            loss, mass = np.empty(n_rows, dtype), np.full(n_rows, base_total)
        backend.hard(
            x, NO_LABEL, -1, NO_MASS[dtype], tables.base, base_total, 0.0, ONE_ROW, ONE_ROW, loss, None, row_max,
            log_sum, 0, n_rows,
        )  # fmt: skip
    return _relative(row_max.astype(np.float64), log_sum.astype(np.float64), loss, mass)


def _relative(top: Any, log_sum: Any, loss: Any, mass: Any) -> tuple[Any, Any, Any, Any]:
    """Return the kernel's results relative to the maximum. Without any logit above -inf, the rest is 0."""
    has_nan = np.isnan(top + log_sum) & (top != np.inf)
    nothing = top == -np.inf
    rest = np.where(nothing, 0.0, np.expm1(log_sum))
    rest[has_nan] = np.nan
    top = np.where(np.isnan(top), -np.inf, top)
    if loss is None:
        return top, rest, None, None
    cost = np.where(nothing, np.where(mass == 0, 0.0, np.copysign(np.inf, mass)), loss - mass * log_sum)
    return top, rest, cost, mass


def fold_pieces(pieces: Sequence[Piece]) -> FoldedSums:
    """Return what pieces in the order of the classes come to, as the compiled kernels combine a row's chunks."""
    top = np.maximum.reduce([piece.top for piece in pieces])
    rest, cost, mass = np.zeros(len(top)), np.zeros(len(top)), np.zeros(len(top))
    found = np.zeros(len(top), bool)
    count = None
    if pieces[0].count is not None:
        count = np.maximum(1, sum(piece.count for piece in pieces))
    for piece in pieces:
        has_top = piece.top == top
        down = top - piece.top
        one = (piece.top > -np.inf) & ~(has_top & ~found)
        rest += (one + piece.rest) * np.where(has_top, 1.0, np.exp(-down))
        found |= has_top
        for its_cost, its_mass, share in (
            (piece.cost, piece.mass, 1),
            (piece.spread_cost, piece.spread_mass, count),
        ):
            if its_mass is not None:
                cost += its_cost / share
                mass += its_mass / share
                # In halves: the difference of huge logits may overflow where the loss does not.
                cost += np.where(its_mass != 0, 2 * (its_mass / share * (0.5 * top - 0.5 * _shift(piece.top))), 0.0)
    return FoldedSums(top, rest, np.log1p(rest), cost, mass, count)


def _shift(top: Any) -> Any:
    return np.where(top == -np.inf, 0.0, top)


def known_logit(logit: Any, other: Any) -> Any:
    """Return the logits at the rows' labels that one of two arrays knows. The other one holds NaN there."""
    return np.where(np.isnan(logit), other, logit)


def correct_rows(pieces: Sequence[Piece], rest: Any, label_mass: Any) -> Any:
    """Return whether each row's label is its first maximum. It is False for an ignored label and a row with a NaN."""
    first = np.argmax([piece.largest for piece in pieces], axis=0)
    of_pieces = np.array([piece.correct for piece in pieces])
    return of_pieces[first, np.arange(len(first))] & ~np.isnan(rest) & ~np.isnan(label_mass)


def share(piece: Piece, totals: FoldedSums) -> Any:
    """Return the part of each row's probability that lies in a piece, float64."""
    return (1 + piece.rest) * np.where(piece.top == -np.inf, 0.0, np.exp(piece.top - totals.top)) / (1 + totals.rest)


def row_losses(totals: FoldedSums, label_logit: Any, label_mass: Any, z_loss: float, row_weight: Any) -> Any:
    """Return the row losses, float64. `label_mass` is NaN for a row that does not count."""
    value = totals.cost + totals.mass * totals.log_sum
    counts = row_weight != 0
    if label_mass is not None:
        counts = counts & ~np.isnan(label_mass)
        # In halves: the difference of huge logits may overflow where the loss does not.
        gap = 2 * (label_mass * (0.5 * totals.top - 0.5 * label_logit))
        value = value + label_mass * totals.log_sum + np.where(label_mass != 0, gap, 0.0)
    if z_loss:
        lse = totals.top + totals.log_sum
        value = value + z_loss * lse * lse
    return np.where(counts, np.where(totals.broken, np.nan, row_weight * value), 0.0)


def label_gradient(totals: FoldedSums, label_logit: Any, label_mass: Any, pull: Any) -> Any:
    """Return pull * p - mass * (1 - p) at each row's hard label. 1 - p comes from the loss, so that nothing cancels."""
    excess = totals.top - label_logit + totals.log_sum
    p = np.exp(label_logit - totals.top) / (1 + totals.rest)
    return pull * p + label_mass * np.expm1(-excess)
