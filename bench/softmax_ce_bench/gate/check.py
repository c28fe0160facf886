"""Correctness before time: what each build computes on the workloads, against the high-precision reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from softmax_ce_bench.gate.cells import Cell
from softmax_ce_bench.gate.process import ProcessError
from softmax_ce_bench.gate.session import Build, BuildError, Recipe, Session, workload
from softmax_ce_bench.truth import oracle
from softmax_ce_bench.truth.judge import UNDECLARED


def backends(session: Session, build: Build) -> dict[str, tuple[str | None, bool]]:
    """Each backend of a build: why it is not available, and whether it is stable.

    Raises
    ------
    BuildError
        The build cannot be imported, or something else is imported in its place.
    """
    try:
        with session.process(build) as process:
            file, found = process.ask("backends")
    except ProcessError as error:
        raise BuildError(f"{build.side} cannot be imported: {error}") from None
    if not str(file).startswith(str(build.site)):
        raise BuildError(f"{build.side}: {file} was imported in place of the build in {build.site}")
    return dict(found)


class Reference:
    """The truth on the cells' workloads.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def complaints(self, build: Build, cells: Iterable[Cell]) -> dict[Cell, str]:
        """For each cell on which a build is wrong, how."""
        found: dict[tuple[str, int], str | None] = {}
        cells = list(cells)
        with self._session.process(build) as process:
            for cell in cells:
                key = cell.backend, self._session.workload(cell)
                if key not in found:
                    try:
                        found[key] = self._complaint(key[1], process.ask("result", *key))
                    except ProcessError as error:
                        raise BuildError(f"{build.side}: {cell.backend}: {error}") from None
        reasons = {cell: found[cell.backend, self._session.workload(cell)] for cell in cells}
        return {cell: reason for cell, reason in reasons.items() if reason is not None}

    def _complaint(self, workload: int, result: Sequence[Any]) -> str | None:
        """How a result is wrong. The bound is that of any sound implementation: what a build declares may change."""
        loss, grad, loss_bound, grad_bound = _truth(self._session.recipe(workload))
        for name, got, right, bound in (
            ("loss", result[0], loss, loss_bound), ("gradient", result[1], grad, grad_bound),
        ):  # fmt: skip
            if np.shape(got) != right.shape:
                return f"its {name} has shape {np.shape(got)}, not {right.shape}"
            worst = oracle.over_bound(got, right, bound)
            if not worst <= 1:
                return f"its {name}'s worst error is {worst:.3g} times what rounding explains"
        return None


@lru_cache(maxsize=16)
def _truth(recipe: Recipe) -> tuple[Any, Any, Any, Any]:
    """Loss, gradient and their bounds. Kept, since it takes a second and is wanted for each build and backend."""
    made = workload(recipe)
    truth = oracle.evaluate(made.logits, made.targets)
    allowed = oracle.bounds(UNDECLARED, truth, made.logits.dtype)
    return truth.loss, truth.grad, allowed.loss, allowed.grad
