"""Compute a shard of the classes with a backend's whole-row kernels, in blocks of rows, and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_ROW
from softmax_ce.problem import counted
from softmax_ce.shards.rows import FoldedSums, Piece, Tables, label_gradient, share, sums
from softmax_ce.shards.shard import Shard
from softmax_ce.shards.totals import Totals
from softmax_ce.staging import Rows
from softmax_ce.tuning import STAGED_ELEMENTS


class ComposedShard(Shard):
    """A shard that is computed with whole-row kernels, as if its classes were all."""

    def piece(self, want_correct: bool = False) -> tuple[Piece, Any, Any]:
        """Return the shard's piece, and the logit and the target at each row's hard label."""
        n_rows, tables, targets = self.problem.n_rows, self.tables, self.target_rows(None)
        is_hard, has_masks = self.problem.targets is None, self._masks is not None
        has_cost = not is_hard or tables.base is not None
        vectors = {name: np.empty(n_rows) for name in ("top", "rest", *(("cost", "mass") if has_cost else ()))}
        if has_masks and tables.spread is not None:
            vectors.update({name: np.empty(n_rows) for name in ("spread_cost", "spread_mass", "count")})
        piece = Piece(self.first, self.stop, **vectors, masked=has_masks)
        logit: Any = None
        mass: Any = None
        local: Any = None
        here: Any = None
        if is_hard:
            logit, mass = np.full(n_rows, np.nan), self._label_mass()
            local, here = counted(self.problem.labels - self.first, self.problem.n_classes, -1)
            if want_correct:
                piece = replace(piece, correct=np.empty(n_rows, np.bool_))

        def work(first: int, last: int) -> None:
            rows = slice(first, last)
            x, t = self._load(targets, first, last)
            found = sums(self.backend, x, t, tables)
            for name, values in zip(("top", "rest", "cost", "mass"), found, strict=True):
                if name in vectors:
                    vectors[name][rows] = values
            if piece.count is not None:
                mask = self._masks.load(first, last)
                piece.count[rows] = mask.sum(axis=1)
                spread = (mask * tables.spread).astype(x.dtype)
                one = Tables(np.ones(1, x.dtype), None, None)
                piece.spread_cost[rows], piece.spread_mass[rows] = sums(self.backend, x, spread, one)[2:]
            if logit is not None:
                y = local[rows]
                logit[rows] = np.where(here[rows], x[np.arange(last - first), y], np.nan)
                if piece.correct is not None:
                    piece.correct[rows] = here[rows] & (x.argmax(axis=1) == y)

        self._run_blocks(work)
        return piece, logit, mass

    def grad(self, piece: Piece, totals: Totals, logit: Any, mass: Any, out: Any) -> None:
        """Write the shard's columns of the gradient, given what all shards come to.

        `logit` and `mass` are those at the hard labels.
        """
        problem, transform, folded = self.problem, self.problem.transform, totals.sums
        output, targets = Rows(out, problem.axis, problem.compute), self.target_rows(out)
        factors = self._row_factors(piece, folded, logit, mass)

        def work(first: int, last: int) -> None:
            rows = slice(first, last)
            slope = None
            if transform is not None and transform.softcap is not None:
                slope = np.empty((last - first, problem.n_classes), problem.compute)
            x, t = self._load(targets, first, last, slope)
            g = output.block(first, last)
            self._write(x, self._targets(t, rows, folded), g, factors, piece.top[rows], rows)
            if transform is not None:
                transform.finish(first, last, totals.outputs.loss, g, slope)
            output.store(first, last, g, self.backend.narrow)

        self._run_blocks(work)

    def _row_factors(self, piece: Piece, totals: FoldedSums, logit: Any, mass: Any) -> _RowFactors:
        """Return what each row of the shard's gradient is made of, float64."""
        factors, problem = self.factors, self.problem
        with np.errstate(all="ignore"):
            gain = np.broadcast_to(factors.row_weight * factors.upstream, problem.n_rows)
            counts = np.broadcast_to(factors.row_weight != 0, problem.n_rows)
            pull = totals.mass
            if factors.z_loss:
                pull = pull + 2 * factors.z_loss * (totals.top + totals.log_sum)
            local = here = at_label = None
            if mass is not None:
                counts = counts & ~np.isnan(mass)
                local, here = counted(problem.labels - self.first, problem.n_classes, -1)
                at_label = gain * (label_gradient(totals, logit, mass, pull) - self._base_at(local, totals))
                pull = pull + np.where(counts, mass, 0.0)
            scale = np.where(totals.broken, np.nan, pull * share(piece, totals))
        return _RowFactors(gain, counts, scale, local, here, at_label)

    def _write(self, x: Any, t: Any, g: Any, factors: _RowFactors, top: Any, rows: slice) -> None:
        """Write gain * (scale * p - T) for a block, where p is the softmax of the shard's own classes."""
        gain, scale, counts = factors.gain[rows], factors.scale[rows], factors.counts[rows]
        dtype, n_rows = x.dtype, len(x)
        with np.errstate(all="ignore"):
            upstream = gain * scale if t is None else scale
            self.backend.hard(
                x, NO_LABEL, -1, NO_MASS[dtype], None, 1.0, 0.0, ONE_ROW, upstream, None, g, None, None, 0, n_rows
            )
            # Nothing above -inf in the shard: no share of the probability, but for a row that is broken anyway.
            g[(top == -np.inf) & (scale == scale)] = 0
            if t is not None:  # the difference first: with one class it is exactly 0
                g -= t
                g *= gain.astype(dtype)[:, None]
            if factors.at_label is not None:
                own = np.flatnonzero(factors.here[rows])
                value = np.where(scale == scale, factors.at_label[rows], np.nan)
                g[own, factors.local[rows][own]] = value[own]
            g[~counts] = 0

    def _targets(self, t: Any, rows: slice, totals: FoldedSums) -> Any:
        """Return the targets of a block without that of a hard label, one row for all or one for each; or None."""
        tables, masks = self.tables, self._masks
        with np.errstate(all="ignore"):
            targets = None if t is None else t * tables.scale
            if tables.base is not None:
                targets = tables.base if targets is None else targets + tables.base
            if tables.spread is not None:
                share_of_each = (tables.spread / totals.count[rows][:, None]).astype(tables.spread.dtype)
                smoothed = masks.load(rows.start, rows.stop) * share_of_each
                targets = smoothed if targets is None else targets + smoothed
        return targets

    def _base_at(self, local: Any, totals: FoldedSums) -> Any:
        """Return what smoothing adds at each row's label, float64."""
        tables = self.tables
        if tables.base is not None:
            return tables.base[local].astype(np.float64)
        if tables.spread is None:
            return 0.0
        taking_part = np.empty(len(local), np.bool_)
        for first, last in self._masks.blocks(0, len(local), STAGED_ELEMENTS):
            mask = self._masks.load(first, last)
            taking_part[first:last] = np.take_along_axis(mask, local[first:last, None], 1)[:, 0]
        return taking_part * tables.spread[local].astype(np.float64) / totals.count

    def _load(self, targets: Any, first: int, last: int, slope: Any = None) -> tuple[Any, Any]:
        """Return a block of logits, transformed, and of soft labels, or None."""
        problem, widen = self.problem, self.backend.widen
        if problem.transform is None:
            x = problem.logits.load(first, last, widen)
        else:
            x = problem.transform.load(first, last, widen, None, slope)
        return x, None if targets is None else targets.load(first, last, widen)

    def _run_blocks(self, work: Callable[[int, int], None]) -> None:
        """Call ``work(first, last)`` for blocks that cover every row, on several threads."""

        def task(start: int, stop: int) -> None:
            for first, last in self.problem.logits.blocks(start, stop, STAGED_ELEMENTS):
                work(first, last)

        self._run(task)


@dataclass(frozen=True, slots=True, eq=False)
class _RowFactors:
    """What each row of a shard's gradient is made of, shape (N,).

    `scale` multiplies the softmax of the shard's own classes. `here` says whether the label is one of them, `local` is
    its column, and `at_label` the gradient there.
    """

    gain: Any
    counts: Any
    scale: Any
    local: Any
    here: Any
    at_label: Any
