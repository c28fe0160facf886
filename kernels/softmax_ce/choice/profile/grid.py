"""Derive a choice for any shape from the measured cells.

The logarithm of each backend's cost is interpolated over log rows and log classes: first along the rows within each
measured class count, then between the two neighbouring class counts. On a full grid this is bilinear, and a grid with
missing corners needs no special case. Outside the measured range, the nearest edge decides. The choices are stored once
in a table over the shapes, with STEPS entries for each doubling and one for each measured size, so that a call costs
two bisections.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softmax_ce.choice.profile.model import Cell, Profile

STEPS = 4  # each entry has the figures of a shape at most 9 % away in either direction

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The part of a profile that decides for one shape.

    Attributes
    ----------
    rows, classes : int
        The shape of the figures: within half a step of the table from the shape in question, or at the nearest edge
        of the measured range.
    cells : tuple of (Cell, float)
        The measured cells that count here, and their weights; a single one if the shape itself was measured.
    costs : dict
        From a backend to its interpolated cost in seconds or bytes, for backends that are eligible at every cell.
    choice : str or None
        The chosen backend; None if no backend is eligible at every cell.
    """

    rows: int
    classes: int
    cells: tuple[tuple[Cell, float], ...]
    costs: dict[str, float]
    choice: str | None


class Grid:
    """The cells of one dtype, operation and number of threads, as a table of choices.

    Parameters
    ----------
    profile : Profile
        Its objective, tie and order are used.
    cells : iterable of Cell
        At least one.
    without : set of str
        Backends that may not be chosen.

    Attributes
    ----------
    row_edges, class_edges : list of int
        The sizes at which the table's entries begin, from the second entry on.
    choices : list of list of (str or None)
        ``choices[bisect_right(row_edges, rows)][bisect_right(class_edges, classes)]``.
    """

    def __init__(self, profile: Profile, cells: Iterable[Cell], without: frozenset[str] = frozenset()) -> None:
        by_classes: dict[int, list[Cell]] = {}
        for cell in sorted(cells, key=lambda cell: (cell.classes, cell.rows)):
            by_classes.setdefault(cell.classes, []).append(cell)
        self._columns = list(by_classes.values())
        self._objective = profile.objective
        self._tie = math.log1p(profile.tie)
        self._names = [name for name in profile.order if name not in without]
        self._class_grid = _logs(by_classes)
        self._row_grids = [_logs(cell.rows for cell in column) for column in self._columns]
        # For each backend and column, the log cost in each cell, and whether the backend won there.
        self._costs = [[self._log_costs(column, name) for column in self._columns] for name in self._names]
        self._wins = [[_wins(column, name) for column in self._columns] for name in self._names]
        self.row_edges, self._row_sizes = _axis({cell.rows for column in self._columns for cell in column})
        self.class_edges, self._class_sizes = _axis(set(by_classes))
        chosen, _ = self._choose(self._row_sizes, self._class_sizes)
        names = [*self._names, None]  # -1 is the last
        self.choices = [[names[index] for index in line] for line in chosen.tolist()]

    def around(self, rows: int, classes: int) -> Neighbourhood:
        """Return the cells and costs behind the table's entry for this shape."""
        row, column = bisect_right(self.row_edges, rows), bisect_right(self.class_edges, classes)
        at_rows, at_classes = self._row_sizes[row], self._class_sizes[column]
        _, logs = self._choose([at_rows], [at_classes])
        by_name = {name: float(log[0, 0]) for name, log in zip(self._names, logs, strict=True)}
        costs = {name: self._cost(log, at_rows, at_classes) for name, log in by_name.items() if not math.isnan(log)}
        cells = self._cells_around(at_rows, at_classes)
        return Neighbourhood(at_rows, at_classes, cells, costs, self.choices[row][column])

    def _choose(self, rows: Sequence[int], classes: Sequence[int]) -> tuple[NDArray[np.intp], list[Floats]]:
        """Return the index of the chosen name, -1 for none, and each name's log cost; all of shape (rows, classes).

        If the cells around a shape have one winner, it is chosen: ties were settled when they were measured. Otherwise
        the simplest backend whose cost ties with the lowest is chosen.
        """
        log_rows, log_classes = _logs(rows), _logs(classes)
        costs = [self._interpolate(log_rows, log_classes, own) for own in self._costs]
        chosen = np.full((log_rows.size, log_classes.size), -1)
        if costs:
            lowest = np.fmin.reduce(costs)  # a NaN is a backend that is not eligible
            for index in reversed(range(len(costs))):
                chosen[costs[index] <= lowest + self._tie] = index
        for index, own in enumerate(self._wins):
            chosen[self._interpolate(log_rows, log_classes, own) == 1] = index
        return chosen, costs

    def _interpolate(self, log_rows: Floats, log_classes: Floats, columns: list[Floats]) -> Floats:
        """Interpolate the values of the cells, given column by column, at every shape."""
        lines = [_linear(log_rows, grid, own) for grid, own in zip(self._row_grids, columns, strict=True)]
        return _linear(log_classes, self._class_grid, np.stack(lines)).T

    def _log_costs(self, column: list[Cell], name: str) -> Floats:
        return np.array([self._log_cost(cell, name) for cell in column])

    def _log_cost(self, cell: Cell, name: str) -> float:
        """Return the log of a cost, or NaN if the backend is not eligible.

        Times are for each element, so that beyond the edge they grow with the work.
        """
        measured = cell.of(name)
        cost = None if measured is None or measured.rejected is not None else measured.cost(self._objective)
        if cost is None:
            return math.nan
        if self._objective == "memory":
            return math.log1p(cost)  # 0 bytes are possible
        return math.log(cost) - (math.log(cell.rows * cell.classes) if self._objective == "time" else 0.0)

    def _cost(self, log: float, rows: int, classes: int) -> float:
        """Return the cost at a shape for a value of :meth:`_log_cost`."""
        if self._objective == "memory":
            return math.expm1(log)
        return math.exp(log) * (rows * classes if self._objective == "time" else 1)

    def _cells_around(self, rows: int, classes: int) -> tuple[tuple[Cell, float], ...]:
        found = []
        for column, share in _shares(classes, self._class_grid):
            for cell, part in _shares(rows, self._row_grids[column]):
                found.append((self._columns[column][cell], share * part))
        return tuple(found)


def _axis(measured: set[int]) -> tuple[list[int], list[int]]:
    """Return the sizes at which the table's entries begin, from the second on, and the size each entry stands for."""
    sizes = sorted(measured)
    edges, stands_for = [], [sizes[0]]
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        edges.append(size)
        stands_for.append(size)
        first = size + 1
        if following is None:
            edges.append(first)
            stands_for.append(size)
        elif first < following:
            count = math.ceil(STEPS * math.log2(following / first))
            starts = sorted({int(first * (following / first) ** (step / count)) for step in range(count)})
            stops = [*starts[1:], following]
            edges += starts
            stands_for += [round(math.sqrt(start * (stop - 1))) for start, stop in zip(starts, stops, strict=True)]
    return edges, stands_for


def _logs(sizes: Iterable[int]) -> Floats:
    """Return the logs of sizes. They are all from math.log, so that a measured size lies exactly on the grid."""
    return np.array([math.log(size) for size in sizes])


def _wins(column: list[Cell], name: str) -> Floats:
    return np.array([float(cell.winner == name) for cell in column])


def _place(points: Floats, grid: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return, for each point, the grid point at or below it, and its position towards the next one, 0 to 1."""
    if grid.size == 1:
        return np.zeros(points.size, np.intp), np.zeros(points.size)
    low = np.clip(np.searchsorted(grid, points, side="right") - 1, 0, grid.size - 2)
    return low, np.clip((points - grid[low]) / (grid[low + 1] - grid[low]), 0.0, 1.0)


def _linear(points: Floats, grid: Floats, values: Floats) -> Floats:
    """Interpolate linearly along the first axis, constant beyond the ends. Values of weight 0 may be NaN."""
    low, weight = _place(points, grid)
    weight = weight.reshape(weight.size, *[1] * (values.ndim - 1))
    below, above = values[low], values[np.minimum(low + 1, grid.size - 1)]
    return np.where(weight == 0, below, np.where(weight == 1, above, below + (above - below) * weight))


def _shares(size: int, grid: Floats) -> list[tuple[int, float]]:
    """Return the grid points that count for one size, and their weights."""
    low, weight = _place(_logs([size]), grid)
    first, part = int(low[0]), float(weight[0])
    return [(index, share) for index, share in ((first, 1 - part), (first + 1, part)) if share > 0]
