"""Compute a shard of the classes with a backend's kernels for shards, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from softmax_ce.contract import Backend, ShardKernels
from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_ROW, Factors
from softmax_ce.problem import Problem, counted
from softmax_ce.run import rows_of
from softmax_ce.shards.rows import Piece
from softmax_ce.shards.shard import Shard
from softmax_ce.shards.totals import Totals, aligned
from softmax_ce.staging import Rows
from softmax_ce.tuning import STAGED_ELEMENTS


class ChunkedShard(Shard):
    """A shard whose sums and gradient are those that the backend's whole-row kernels compute, chunk by chunk."""

    def piece(self, want_correct: bool = False) -> tuple[Piece, Any, Any]:
        """Return the shard's piece, and the logit and the target at each row's hard label."""
        problem, step, targets = self.problem, self._chunk, self.target_rows(None)
        has_targets = targets is not None or self.tables.base is not None
        chunks = np.empty((problem.n_rows, -(-problem.n_classes // step), 4 if has_targets else 2))
        piece = Piece(self.first, self.stop, chunks, masked=self._masks is not None)
        logit = mass = correct = None
        if problem.labels is not None:
            logit, mass = np.empty(problem.n_rows), self._label_mass()
            if want_correct:
                correct = np.empty(problem.n_rows, np.bool_)
                piece = replace(piece, correct=correct)

        def compute(x: Any, t: Any, rows: slice, start: int, stop: int) -> None:
            self._kernels.sums(
                x, rows_of(problem.labels, rows), t, self.tables.scale, self.tables.base, self.first, step,
                chunks[rows], rows_of(logit, rows), start, stop,
            )  # fmt: skip
            if correct is not None:
                local, here = counted(problem.labels[rows][start:stop] - self.first, problem.n_classes, -1)
                correct[rows][start:stop] = here & (x[start:stop].argmax(axis=1) == local)

        def task(start: int, stop: int) -> None:
            if problem.logits.direct is not None and (targets is None or targets.direct is not None):
                compute(problem.logits.direct, targets and targets.direct, slice(None), start, stop)
                return
            for first, last, x, t, _ in self._staged(targets, start, stop, False):
                compute(x, t, slice(first, last), 0, last - first)

        self._run(task)
        return piece, logit, mass

    def grad(self, piece: Piece, totals: Totals, logit: Any, mass: Any, out: Any) -> None:
        """Write the shard's columns of the gradient, given what all shards come to.

        `logit` and `mass` are those at the hard labels.
        """
        problem, factors, transform = self.problem, self.factors, self.problem.transform
        output, targets = Rows(out, problem.axis, problem.compute), self.target_rows(out)
        arrays = [array for array in (problem.logits, targets, output) if array is not None]
        chunks, sums, at_label = aligned(piece.chunks), aligned(totals.sums), (aligned(logit), aligned(mass))

        def compute(x: Any, t: Any, g: Any, rows: slice, start: int, stop: int) -> None:
            self._kernels.grad(
                x, rows_of(problem.labels, rows), t, self.tables.scale, self.tables.base, factors.base_total,
                factors.z_loss, rows_of(factors.row_weight, rows), rows_of(factors.upstream, rows), self.first,
                self._chunk, chunks[rows], *(rows_of(one, rows) for one in at_label), sums[rows], g, start, stop,
            )  # fmt: skip

        def task(start: int, stop: int) -> None:
            if all(array.direct is not None for array in arrays):
                compute(problem.logits.direct, targets and targets.direct, output.direct, slice(None), start, stop)
                return
            scratch = output.scratch(self._most_rows(start, stop))
            for first, last, x, t, slope in self._staged(targets, start, stop, True):
                g = output.block(first, last, scratch)
                compute(x, t, g, slice(first, last), 0, last - first)
                if transform is not None:
                    transform.finish(first, last, totals.outputs.loss, g, slope)
                output.store(first, last, g, self.backend.narrow)

        self._run(task)

    @property
    def _kernels(self) -> ShardKernels:
        assert self.backend.shards is not None
        return self.backend.shards

    @property
    def _chunk(self) -> int:
        """The number of classes in a chunk."""
        return self._kernels.chunk(self.n_classes, self.problem.compute.itemsize)

    def _staged(
        self, targets: Any, start: int, stop: int, want_slope: bool
    ) -> Iterator[tuple[int, int, Any, Any, Any]]:
        """Yield the first and the last row of each block, its logits and targets, and the slope of the cap.

        They are overwritten by the next block.
        """
        problem, widen, transform = self.problem, self.backend.widen, self.problem.transform
        most = self._most_rows(start, stop)
        of_logits, of_targets = problem.logits.scratch(most), None if targets is None else targets.scratch(most)
        slopes = None
        if want_slope and transform is not None and transform.softcap is not None:
            slopes = np.empty((most, problem.n_classes), problem.compute)
        for first, last in problem.logits.blocks(start, stop, STAGED_ELEMENTS):
            slope = None if slopes is None else slopes[: last - first]
            if transform is None:
                x = problem.logits.load(first, last, widen, of_logits)
            else:
                x = transform.load(first, last, widen, of_logits, slope)
            yield first, last, x, None if targets is None else targets.load(first, last, widen, of_targets), slope

    def _most_rows(self, start: int, stop: int) -> int:
        """Return the number of rows in the largest block."""
        blocks = self.problem.logits.blocks(start, stop, STAGED_ELEMENTS)
        return max(last - first for first, last in blocks)


_NOTHING = np.zeros(1)


def write_softmax(
    problem: Problem, first: int, n_classes: int, backend: Backend, threads: int | None, piece: Piece, totals: Totals,
    out: Any,
) -> None:  # fmt: skip
    """Write a shard's columns of the softmax: the gradient 1 * p - 0 of rows without mass at a label."""
    problem.labels = NO_LABEL
    factors = Factors(
        NO_MASS[problem.compute], None, 1.0, 0.0, ONE_ROW, ONE_ROW,
        denominator=1.0, empty=False,
    )  # fmt: skip
    shard = ChunkedShard(first, n_classes, problem, factors, -1, backend, threads)
    shard.grad(piece, totals, _NOTHING, _NOTHING, out)
