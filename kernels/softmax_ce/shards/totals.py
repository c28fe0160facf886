"""What all shards come to for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmax_ce.contract import SHARD_TOTALS, Backend, ShardKernels
from softmax_ce.fold import Factors
from softmax_ce.run import Outputs
from softmax_ce.shards.rows import Piece, correct_rows, fold_pieces, row_losses


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """What all shards come to for each row.

    Attributes
    ----------
    outputs : Outputs
        The results that have one entry a row, as one call computes them.
    sums : ndarray, shape (N, SHARD_TOTALS), or FoldedSums, or None
        What the gradient is computed from. None if one shard has all classes: its gradient is that of one call.
    """

    outputs: Outputs
    sums: Any


def aligned(array: Any) -> Any:
    """Return an array as kernels take it. One that was sent may lie at any address. None is returned as it is."""
    return None if array is None else np.require(array, requirements=["C", "A"])


def totals_of(
    backend: Backend, pieces: Sequence[Piece], label_logit: Any, label_mass: Any, factors: Factors,
    dtype: np.dtype[Any], want_correct: bool,
) -> Totals:  # fmt: skip
    """Return what the pieces of all classes, in their order, come to. `dtype` is that of the results."""
    with np.errstate(all="ignore"):
        if pieces[0].chunks is None:
            totals = _folded_in_numpy(pieces, label_logit, label_mass, factors, dtype)
            rest = totals.sums.rest
        else:
            assert backend.shards is not None
            totals = _folded(backend.shards, pieces, label_logit, label_mass, factors, dtype)
            rest = totals.sums[:, 1]
        if want_correct:
            totals.outputs.correct = correct_rows(pieces, rest, label_mass)
    return totals


def _folded_in_numpy(
    pieces: Sequence[Piece], label_logit: Any, label_mass: Any, factors: Factors, dtype: np.dtype[Any]
) -> Totals:
    sums = fold_pieces(pieces)
    loss = row_losses(sums, label_logit, label_mass, factors.z_loss, factors.row_weight)
    return Totals(Outputs(loss.astype(dtype), None, sums.top.astype(dtype), sums.log_sum.astype(dtype)), sums)


def _folded(
    kernels: ShardKernels, pieces: Sequence[Piece], label_logit: Any, label_mass: Any, factors: Factors,
    dtype: np.dtype[Any],
) -> Totals:  # fmt: skip
    chunks = np.concatenate([piece.chunks for piece in pieces], axis=1)
    n_rows = len(chunks)
    loss, row_max, log_sum = (np.empty(n_rows, dtype) for _ in range(3))
    sums = np.empty((n_rows, SHARD_TOTALS))
    if n_rows:
        kernels.fold(
            chunks, aligned(label_logit), aligned(label_mass), factors.base_total, factors.z_loss,
            aligned(factors.row_weight), loss, row_max, log_sum, sums, 0, n_rows,
        )  # fmt: skip
    return Totals(Outputs(loss, None, row_max, log_sum), sums)
