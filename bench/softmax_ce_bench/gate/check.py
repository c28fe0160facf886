"""Check the results of each build on the workloads against the high-precision reference, before anything is timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from softmax_ce_bench.gate.cells import GateCell
from softmax_ce_bench.gate.process import ProcessError
from softmax_ce_bench.gate.session import Build, BuildError, BuildTimer, Recipe, workload
from softmax_ce_bench.measure.operations import GRAD, LOSS
from softmax_ce_bench.truth import oracle
from softmax_ce_bench.truth.expected import Allowed, ExpectedResults
from softmax_ce_bench.truth.judge import UNDECLARED

_NAMES = {LOSS: "loss", GRAD: "gradient", "hess": "Hessian"}  # of what an operation computes; else its result


def backends(session: BuildTimer, build: Build) -> dict[str, tuple[str | None, bool]]:
    """Return, for each backend of a build, why it is not available and whether it is stable.

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
        raise BuildError(f"{build.side}: {file} was imported instead of the build in {build.site}")
    return dict(found)


def operations_of(session: BuildTimer, build: Build) -> list[str]:
    """Return the operations whose function a build has."""
    with session.process(build) as process:
        found: list[str] = process.ask("operations_here")
    return found


class Reference:
    """The reference results on the workloads of the cells.

    Parameters
    ----------
    session : BuildTimer
    """

    def __init__(self, session: BuildTimer) -> None:
        self._session = session

    def complaints(self, build: Build, cells: Iterable[GateCell]) -> dict[GateCell, str]:
        """Return what is wrong with a build, for each cell with wrong results.

        A backend that is wrong in one operation on a workload is wrong in all of its cells there.
        """
        cells = list(cells)
        found: dict[tuple[str, int], str] = {}
        with self._session.process(build) as process:
            for cell in cells:
                workload = self._session.workload(cell)
                try:
                    result = process.ask("result", cell.backend, cell.operation, workload)
                except ProcessError as error:
                    raise BuildError(f"{build.side}: {cell.backend}: {error}") from None
                complaint = self._complaint(workload, result)
                if complaint is not None:
                    found.setdefault((cell.backend, workload), complaint)
        keys = {cell: (cell.backend, self._session.workload(cell)) for cell in cells}
        return {cell: found[key] for cell, key in keys.items() if key in found}

    def _complaint(self, workload: int, result: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a result, or None.

        The bound is that of any sound implementation: what a build declares may change.
        """
        expected, allowed = _truth(self._session.recipe(workload))
        for part, got in result.items():
            name, right = _NAMES.get(part, "result"), expected.result(part)
            if np.shape(got) != right.shape:
                return f"its {name} has shape {np.shape(got)}, not {right.shape}"
            worst = oracle.over_bound(got, right, allowed.error(part))
            if not worst <= 1:
                return f"its {name}'s worst error is {worst:.3g} times what rounding explains"
        return None


@lru_cache(maxsize=16)
def _truth(recipe: Recipe) -> tuple[ExpectedResults, Allowed]:
    """Return what is right, and the bounds. Kept, since it takes a second and is wanted for each build and backend."""
    made = workload(recipe)
    expected = ExpectedResults(made.logits, made.targets)
    return expected, expected.allowed(UNDECLARED)
