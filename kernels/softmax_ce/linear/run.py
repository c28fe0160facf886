"""Compute the loss of a linear layer in blocks of rows, and of classes where one row's logits exceed the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmax_ce.contract import Backend
from softmax_ce.fold import Factors
from softmax_ce.linear.memory import Plan
from softmax_ce.linear.products import Layer, take
from softmax_ce.options import Options
from softmax_ce.problem import Problem
from softmax_ce.run import Outputs, run_kernel
from softmax_ce.shards.arguments import shard_of
from softmax_ce.shards.rows import known_logit
from softmax_ce.shards.shard import Shard
from softmax_ce.shards.totals import totals_of
from softmax_ce.staging import Rows
from softmax_ce.transform import apply


@dataclass(frozen=True, slots=True)
class Gradients:
    """The arrays that the gradients are written to; None for one that is not wanted."""

    hidden: Any = None  # (N, D)
    weight: Any = None  # (C, D)
    bias: Any = None  # (C,)


class LinearRun:
    """The computation of one call.

    Parameters
    ----------
    layer : Layer
    whole : Problem
        Stands for the logits, which are never there as a whole. It has the targets.
    options : Options
        Checked.
    factors : Factors
    backend : Backend
    outputs : Outputs
        For all rows; the gradient is left out.
    gradients : Gradients or None
    plan : Plan
    """

    def __init__(
        self, layer: Layer, whole: Problem, options: Options, factors: Factors, backend: Backend, outputs: Outputs,
        gradients: Gradients | None, plan: Plan,
    ) -> None:  # fmt: skip
        self.layer, self.whole, self.options, self.factors = layer, whole, options, factors
        self.backend, self.outputs, self.gradients, self.plan = backend, outputs, gradients, plan
        self._scratch = np.empty(plan.rows * plan.classes, whole.compute)
        self._where: Any = None
        if whole.transform is not None and whole.transform.masks is not None:
            self._where = np.asarray(options.where)

    def on(self, rows: Any) -> None:
        """Compute these rows: None for all, or an array of indices. The other rows' results are left as they are."""
        compute = self._rows_at_once if self.plan.classes == self.whole.n_classes else self._classes_in_blocks
        for count, part in enumerate(_parts(self.whole.n_rows, rows, self.plan.rows)):
            with np.errstate(all="ignore"):
                compute(part, count == 0)

    def _rows_at_once(self, rows: Any, is_first: bool) -> None:
        n_classes = self.whole.n_classes
        hidden = self.layer.hidden(rows)
        block = self._block(len(hidden), n_classes)
        self.layer.logits(hidden, 0, n_classes, block)
        problem, factors = self._part(block, rows, 0, n_classes), self._factors(rows)
        outputs = Outputs(None, None if self.gradients is None else block, None, None)
        for name in ("loss", "row_max", "log_sum", "correct"):
            if getattr(self.outputs, name) is not None:
                setattr(outputs, name, np.empty(len(hidden), getattr(self.outputs, name).dtype))
        if outputs.loss is None:
            outputs.loss = np.empty(len(hidden), self.whole.compute)
        run_kernel(self.backend, problem, factors, self.options.ignore_index, outputs, self.options.threads)
        self._keep(outputs, rows)
        self._add(block, hidden, rows, 0, n_classes, is_first, True)

    def _classes_in_blocks(self, rows: Any, is_first: bool) -> None:
        """Compute the shards' sums first; then, if the gradient is wanted, each shard's logits again."""
        hidden, factors = self.layer.hidden(rows), self._factors(rows)
        pieces: list[Any] = []
        logit: Any = None
        mass: Any = None
        for shard in self._shards(hidden, rows, factors):
            piece, its_logit, mass = shard.piece(self.options.return_correct)
            pieces.append(piece)
            logit = its_logit if logit is None else known_logit(logit, its_logit)
        totals = totals_of(self.backend, pieces, logit, mass, factors, self.whole.compute, self.options.return_correct)
        self._keep(totals.outputs, rows)
        if self.gradients is None:
            return
        for shard, piece in zip(self._shards(hidden, rows, factors), pieces, strict=True):
            block = shard.problem.source
            shard.grad(piece, totals, logit, mass, block)
            self._add(block, hidden, rows, shard.first, shard.stop, is_first, shard.first == 0)

    def _shards(self, hidden: Any, rows: Any, factors: Factors) -> Iterator[Shard]:
        """Yield the shards of some rows, each with its logits in the one scratch."""
        n_classes = self.whole.n_classes
        for first in range(0, n_classes, self.plan.classes):
            stop = min(first + self.plan.classes, n_classes)
            block = self._block(len(hidden), stop - first)
            self.layer.logits(hidden, first, stop, block)
            problem = self._part(block, rows, first, stop)
            options = self.options
            yield shard_of(first, n_classes, problem, factors, options.ignore_index, self.backend, options.threads)

    def _block(self, n_rows: int, n_classes: int) -> Any:
        return self._scratch[: n_rows * n_classes].reshape(n_rows, n_classes)

    def _part(self, block: Any, rows: Any, first: int, stop: int) -> Problem:
        """Return the problem of some rows and of the classes [first, stop), whose logits are in `block`."""
        whole, options, dtype = self.whole, self.options, self.whole.compute
        part = Problem(block, 1, dtype, dtype, Rows(block, 1, dtype), (len(block),))
        if whole.labels is not None:
            part.labels, part.any_ignored = whole.labels[rows], whole.any_ignored
        else:
            targets = whole.targets[..., first:stop]
            part.targets = take(targets, Rows(targets, targets.ndim - 1, dtype), rows, dtype)
        where = options.where
        if self._where is not None:
            mask = self._where[..., first:stop]
            where = take(mask, Rows(mask, mask.ndim - 1, mask.dtype), rows, mask.dtype)
        elif where is not None:
            where = np.asarray(where)[first:stop]
        apply(part, options.logit_scale, options.softcap, where)
        return part

    def _factors(self, rows: Any) -> Factors:
        """Return the factors of some rows."""
        weight, upstream = self.factors.row_weight, self.factors.upstream
        return replace(
            self.factors, row_weight=weight if len(weight) == 1 else weight[rows],
            upstream=upstream if len(upstream) == 1 else upstream[rows],
        )  # fmt: skip

    def _keep(self, outputs: Outputs, rows: Any) -> None:
        """Copy the results of some rows to those of all."""
        for name in ("loss", "row_max", "log_sum", "correct"):
            into = getattr(self.outputs, name)
            if into is not None:
                into[rows] = getattr(outputs, name)

    def _add(
        self, grad: Any, hidden: Any, rows: Any, first: int, stop: int, is_first_block: bool, is_first_shard: bool
    ) -> None:
        """Add what the logits' gradient at some rows and classes comes to in the gradients that are wanted."""
        gradients = self.gradients
        if gradients is None:
            return
        self.layer.add_grad_weight(grad, hidden, first, stop, gradients.weight, is_first_block)
        if gradients.bias is not None:
            of_block = np.ones(len(grad), grad.dtype) @ grad
            if is_first_block:
                gradients.bias[first:stop] = of_block
            else:
                gradients.bias[first:stop] += of_block
        output = Rows(gradients.hidden, gradients.hidden.ndim - 1, grad.dtype)
        if isinstance(rows, slice) and output.direct is not None:
            self.layer.add_grad_hidden(grad, first, stop, output.direct[rows], is_first_shard)
            return
        # BLAS writes to rows that follow each other; these are computed in memory of their own.
        place = np.atleast_2d(gradients.hidden)
        at = np.unravel_index(np.r_[rows], place.shape[:-1])
        part = np.empty((len(hidden), place.shape[-1]), grad.dtype) if is_first_shard else place[at]
        self.layer.add_grad_hidden(grad, first, stop, part, is_first_shard)
        place[at] = part


def _parts(n_rows: int, rows: Any, most: int) -> Iterator[Any]:
    """Yield the rows of each block: slices, or arrays of indices if only some rows are computed."""
    count = n_rows if rows is None else len(rows)
    for start in range(0, count, most):
        stop = min(start + most, count)
        yield slice(start, stop) if rows is None else rows[start:stop]
