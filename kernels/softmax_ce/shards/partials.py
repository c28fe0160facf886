"""The contribution of some shards to the loss of each row, and what is asked of it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmax_ce.fold import Factors
from softmax_ce.options import Options
from softmax_ce.problem import Problem
from softmax_ce.registry import get_backend
from softmax_ce.shards.rows import Piece
from softmax_ce.shards.totals import Totals, totals_of


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """The contribution of one or more shards to the loss of each row. It can be pickled.

    Attributes
    ----------
    n_classes : int
        The number of classes in all shards together.
    row_shape : tuple of int
        The shape of the "none" loss.
    dtype : dtype
        The dtype of the loss.
    options : Options
        The options of the loss, checked.
    backend : str
        The backend that computed it, which will compute the gradient too.
    factors : Factors
        What each row is multiplied by. Factors by class are left out.
    pieces : tuple of Piece
        One for each shard, in the order of the classes.
    label_logit : ndarray, shape (N,), or None
        The logit at each row's hard label, float64; NaN if the label is no class of these shards. None: soft labels.
    label_mass : ndarray, shape (N,), or None
        The target at each row's hard label, float64; NaN if the row does not count.
    totals : Totals or None
        What the pieces come to. None if classes are missing.
    """

    n_classes: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    options: Options
    backend: str
    factors: Factors
    pieces: tuple[Piece, ...]
    label_logit: Any
    label_mass: Any
    totals: Totals | None = None


def piece_of(total: Partial, first: int, problem: Problem) -> Piece:
    """Return the piece of a shard, whose logits must be of the total's rows and dtype."""
    if problem.row_shape != total.row_shape:
        raise ValueError(f"logits_shard has rows of shape {problem.row_shape}, but the total {total.row_shape}")
    if problem.compute != total.dtype:
        raise ValueError(f"logits_shard is computed in {problem.compute}, but the total in {total.dtype}")
    first, stop = operator.index(first), operator.index(first) + problem.n_classes
    at = {(piece.first, piece.stop): piece for piece in total.pieces}
    piece = at.get((first, stop))
    if piece is None:
        known = ", ".join(f"[{begin}, {end})" for begin, end in at)
        raise ValueError(f"the classes [{first}, {stop}) are no shard of the total, which has {known}")
    return piece


def check_alike(one: Partial, other: Partial) -> None:
    """Check that two Partials are of the same rows and options."""
    for name in ("n_classes", "row_shape", "dtype", "backend"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(f"the Partials do not belong together: {name} is {mine} in one and {theirs} in another")
    for name, mine, theirs in zip(Options._fields, one.options, other.options, strict=True):
        if not np.array_equal(mine, theirs):
            raise ValueError(f"the Partials do not belong together: they have different values of {name}")
    if one.pieces[0].masked != other.pieces[0].masked:
        raise ValueError("the Partials do not belong together: one has a where in the shape of its logits, one has not")


def completed(partial: Partial) -> Partial:
    """Return a Partial with its totals, unless classes are missing."""
    if partial.totals is not None or _missing_from(partial) is not None:
        return partial
    totals = totals_of(
        get_backend(partial.backend), partial.pieces, partial.label_logit, partial.label_mass, partial.factors,
        partial.dtype, partial.options.return_correct,
    )  # fmt: skip
    return replace(partial, totals=totals)


def _missing_from(partial: Partial) -> int | None:
    """Return the first class that no shard has, or None if all are there."""
    after = 0
    for piece in partial.pieces:
        if piece.first != after:
            break
        after = piece.stop
    return None if after == partial.n_classes else after


def complete_totals(total: Partial) -> Totals:
    """Return what the pieces come to, which must be all classes."""
    if total.totals is None:
        raise ValueError(
            f"the total lacks the classes from {_missing_from(total)} on; combine the Partials of all shards"
        )
    return total.totals
