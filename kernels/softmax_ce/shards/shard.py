"""A shard of the classes: its arrays, its columns of the factors, and its rows in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from softmax_ce import threads as pool
from softmax_ce.checks import same_memory
from softmax_ce.contract import Backend
from softmax_ce.fold import Factors
from softmax_ce.problem import Problem, counted
from softmax_ce.run import Outputs, run_kernel
from softmax_ce.shards.rows import Piece, Tables
from softmax_ce.shards.totals import Totals
from softmax_ce.staging import Rows


class Shard:
    """The classes [first, stop) of a problem.

    Parameters
    ----------
    first, n_classes : int
        The first of these classes, and the number of all.
    problem : Problem
        The shard's own logits and soft labels; hard labels of all classes.
    factors : Factors
        Of all classes.
    ignore_index : int
    backend : Backend
    threads : int or None
    """

    def __init__(
        self, first: int, n_classes: int, problem: Problem, factors: Factors, ignore_index: int, backend: Backend,
        threads: int | None,
    ) -> None:  # fmt: skip
        self.first, self.stop, self.n_classes = first, first + problem.n_classes, n_classes
        self.problem, self.factors, self.ignore_index = problem, factors, ignore_index
        self.backend, self.threads = backend, threads
        columns = slice(self.first, self.stop)
        self.tables = Tables(*(_columns(t, columns) for t in (factors.class_scale, factors.base_mass, factors.spread)))

    def piece(self, want_correct: bool = False) -> tuple[Piece, Any, Any]:
        """Return the shard's piece, and the logit and the target at each row's hard label."""
        raise NotImplementedError

    def grad(self, piece: Piece, totals: Totals, logit: Any, mass: Any, out: Any) -> None:
        """Write the shard's columns of the gradient, given what all shards come to.

        `logit` and `mass` are those at the hard labels.
        """
        raise NotImplementedError

    @property
    def has_all_classes(self) -> bool:
        return self.problem.n_classes == self.n_classes

    def one_call(self, want_correct: bool) -> Outputs:
        """Return the results that have one entry a row, if the shard has all classes."""
        outputs = Outputs.allocate(self.problem, True, False, True, None, None)
        outputs.add(self.problem, False, None, want_correct)
        run_kernel(self.backend, self.problem, self.factors, self.ignore_index, outputs, self.threads)
        return outputs

    def one_gradient(self, out: Any) -> None:
        """Write the gradient, if the shard has all classes."""
        outputs = Outputs.allocate(self.problem, False, True, False, None, out)
        outputs.add(self.problem, False, None, False)
        run_kernel(self.backend, self.problem, self.factors, self.ignore_index, outputs, self.threads)

    def target_rows(self, grad: Any) -> Rows | None:
        """Return the soft labels as rows, copied if the gradient is written over them; None for hard labels."""
        problem = self.problem
        if problem.targets is None:
            return None
        copy = grad is not None and same_memory(grad, problem.targets)
        return Rows(problem.targets, problem.axis, problem.compute, copy=copy)

    @property
    def _masks(self) -> Any:
        transform = self.problem.transform
        return None if transform is None else transform.masks

    def _label_mass(self) -> Any:
        """Return the target at each row's label, float64; NaN if the row does not count."""
        scale = self.factors.class_scale
        y, is_class = counted(self.problem.labels, self.n_classes, self.ignore_index)
        mass = scale if scale.size == 1 else scale[y]
        return np.where(is_class, mass.astype(np.float64), np.nan)

    def _run(self, task: Callable[[int, int], None]) -> None:
        """Call ``task(start, stop)`` for ranges that cover every row, on several threads."""
        problem = self.problem
        if problem.n_rows:
            serial = self.backend.info.serial_elements
            pool.run(task, problem.n_rows, problem.n_classes, self.threads, serial)


def _columns(table: Any, columns: slice) -> Any:
    """Return a shard's part of a factor by class, one for each class; a scale that is the same for all stays so."""
    if table is None:
        return None
    return np.ascontiguousarray(np.broadcast_to(table, columns.stop)[columns] if table.size == 1 else table[columns])
