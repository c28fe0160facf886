"""Paired times of two builds, from rounds of fresh processes.

In every round each build gets a fresh process, and its shared objects are written anew, so that what is drawn by lot -
where memory and code lie, what the hashes are - is drawn anew. The two start, and import, side by side; then both are
held to one and the same CPU, drawn for the round, since two CPUs differ by what else they have to do. There they take
turns in the order ABBA: in a first pass over all cells the leader comes first, in a second pass the other one, so that
a machine that slowly gets faster or slower favours neither. The lead changes from round to round, the order of the
cells from pass to pass.

A visit is a few samples, of which the least counts; a build's time in a round is the least of its two visits. They are
far apart, by all the other cells, since what disturbs one rarely lasts until the other: with the two side by side, ten
times as many rounds were far off. When few cells are left, there are more passes, up to four times as many: starting
the processes takes most of a round's time anyway.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce_bench.gate.cells import CONTROL, GateCell
from softmax_ce_bench.gate.process import ProcessError, build_process
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Shape, Workload
from softmax_ce_bench.measure.process import Child

SAMPLE_SECONDS = 2.5e-4  # some thousand times what reading the clock costs
SAMPLES = 5  # a visit
PASSES = 2  # over all cells in a round
_VISITS = 24  # that are to lie between two visits of a cell: with fewer cells, a round has more passes


class BuildError(RuntimeError):
    """A build cannot be measured. The message is one line that says which build and why."""


@dataclass(frozen=True, slots=True)
class Build:
    """An installed build.

    Attributes
    ----------
    side : str
        "base" or "head".
    site : Path
        The folder that holds its softmax_ce; of the same length for both.
    """

    side: str
    site: Path
    extra: tuple[tuple[str, str], ...] = ()


Recipe = tuple[str, int, int, str]  # a workload's name, rows, classes and dtype
Round = tuple[dict[str, float], dict[str, float]]  # base's and head's seconds a call, by the cell's text or `CONTROL`


class BuildTimer:
    """Times cells of two builds.

    Parameters
    ----------
    builds : pair of Build
        Base and head.
    cells : sequence of GateCell
    folder : Path
        The folder for the workloads, which the processes read.
    seed : int
        The seed of the orders.
    """

    def __init__(self, builds: tuple[Build, Build], cells: Sequence[GateCell], folder: Path, seed: int = 0) -> None:
        self._builds = builds
        self._folder = folder
        self._rng = np.random.default_rng(seed)
        self._round = 0
        self._cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self._calls: dict[str, int] = {}
        self._workloads: list[Recipe] = []
        for cell in cells:
            self._save(cell)

    def round(self, cells: Sequence[GateCell]) -> Round:
        """Measure one round of some cells and the control.

        Raises
        ------
        BuildError
        """
        if missing := [cell for cell in cells if cell.text not in self._calls]:
            self._calibrate(missing)
        self._round += 1
        lead = self._round % 2
        least: Round = ({}, {})
        for build in self._builds:
            redraw(build.site)
        with ExitStack() as stack:
            todo: list[GateCell | None] = [None, *cells]
            # The leader is started first, too: whoever is, tends to keep one and the same CPU.
            started = {side: stack.enter_context(self.process(self._builds[side])) for side in (lead, 1 - lead)}
            processes = [started[0], started[1]]
            self._prepare(processes, todo)
            cpu = int(self._rng.choice(self._cpus))
            for side in (0, 1):
                self._ask(side, processes[side], None, "hold_to", cpu)
            for turn in range(passes(len(todo))):
                sides = (lead, 1 - lead) if turn % 2 == 0 else (1 - lead, lead)
                for key in self._rng.permutation(len(todo)):
                    cell = todo[key]
                    name = _name(cell)
                    for side in sides:
                        seconds = self._ask(side, processes[side], cell, "visit", int(key), self._calls[name], SAMPLES)
                        least[side][name] = min(seconds, least[side].get(name, np.inf))
        return least

    def process(self, build: Build) -> Child:
        """Return a fresh process that holds a build. The caller ends it."""
        return build_process(build.site, self._folder, dict(build.extra))

    def workload(self, cell: GateCell) -> int:
        """Return the index of a cell's workload among the saved ones."""
        return self._workloads.index(_recipe(cell))

    def recipe(self, workload: int) -> Recipe:
        """Return the recipe of a saved workload."""
        return self._workloads[workload]

    def _save(self, cell: GateCell) -> None:
        if _recipe(cell) not in self._workloads:
            made = workload(_recipe(cell))
            np.savez(self._folder / f"{len(self._workloads)}.npz", logits=made.logits, labels=made.targets)
            self._workloads.append(_recipe(cell))

    def _calibrate(self, cells: Sequence[GateCell]) -> None:
        """Find the number of calls in a sample of each cell, the same for both builds. The times are not kept."""
        todo: list[GateCell | None] = [None, *cells]
        with ExitStack() as stack:  # both, so that both have compiled what they compile
            processes = [stack.enter_context(self.process(build)) for build in self._builds]
            self._prepare(processes, todo)
            for key, cell in enumerate(todo):
                self._calls[_name(cell)] = self._ask(0, processes[0], cell, "calibrate", key, SAMPLE_SECONDS)

    def _prepare(self, processes: Sequence[Child], cells: Sequence[GateCell | None]) -> None:
        """Warm up both builds in parallel. Nothing is timed yet."""
        for key, cell in enumerate(cells):
            what = (None, "", 0) if cell is None else (cell.backend, cell.operation, self.workload(cell))
            for process in processes:
                process.send("prepare", key, *what)
            for build, process in zip(self._builds, processes, strict=True):
                with _blamed(build, _name(cell)):
                    process.answer()

    def _ask(self, side: int, process: Child, cell: GateCell | None, question: str, *arguments: object) -> Any:
        with _blamed(self._builds[side], _name(cell)):
            return process.ask(question, *arguments)


def passes(count: int) -> int:
    """Return the number of passes that a round makes over so many cells and the control. It is always even: ABBA."""
    return PASSES * min(4, max(1, _VISITS // count))


def redraw(site: Path) -> None:
    """Write a build's shared objects anew, with the same names and dates.

    Their pages lie in memory where they were put when the file was written, for all processes that load it: of two
    copies of one build, one took 2 % longer for tiny calls, in round after round.
    """
    for path in (site / "softmax_ce").rglob("*.so"):
        copy = path.with_name(f"{path.name}.new")
        shutil.copy2(path, copy)
        os.replace(copy, path)


def workload(recipe: Recipe) -> Workload:
    """Return the arrays of a recipe. The same recipe gives the same arrays."""
    name, rows, classes, dtype = recipe
    return workloads.synthetic(Shape(name, rows, classes, ""), dtype)


def _recipe(cell: GateCell) -> Recipe:
    return cell.workload, cell.rows, cell.classes, cell.dtype


def _name(cell: GateCell | None) -> str:
    return CONTROL if cell is None else cell.text


@contextmanager
def _blamed(build: Build, what: str) -> Iterator[None]:
    try:
        yield
    except ProcessError as error:
        raise BuildError(f"{build.side}: {what}: {error}") from None
