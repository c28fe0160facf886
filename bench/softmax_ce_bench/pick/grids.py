"""The default shapes, and the workloads of stored cells."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.compare.budget import Budget
from softmax_ce_bench.compare.request import Source
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.pick.figures import MEMORY_SECONDS

ROUNDS = 12  # a cell should get


@dataclass(frozen=True, slots=True)
class ShapeGrid:
    """All combinations of some row counts and class counts, except those that are too large."""

    rows: tuple[int, ...]
    classes: tuple[int, ...]
    most_elements: int

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Return (rows, classes) in order of size."""
        found = (
            shape for shape in itertools.product(self.rows, self.classes) if math.prod(shape) <= self.most_elements
        )
        return tuple(sorted(found, key=lambda shape: (math.prod(shape), shape)))


# From fine to coarse. Costs change with the classes (vectors, passes, chunks) more than with the rows, whose number
# matters through the call's overhead and the second thread: hence the steps. The largest are beyond most caches.
GRIDS = (
    ShapeGrid(
        (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536),
        (2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 128_000),
        1 << 25,
    ),
    ShapeGrid(
        (1, 16, 128, 1024, 16_384),
        (2, 5, 10, 20, 50, 100, 200, 500, 1000, 3000, 10_000, 30_000, 128_000),
        1 << 23,
    ),
    ShapeGrid((1, 32, 1024, 32_768), (2, 10, 30, 100, 300, 1000, 10_000, 100_000), 1 << 22),
    ShapeGrid((1, 64, 4096), (10, 100, 1000, 32_000), 1 << 22),
    ShapeGrid((16, 1024), (10, 1000), 1 << 20),
)


def seconds(grid: ShapeGrid, dtypes: int, threads: int, labels: list[str], memories: int) -> float:
    """Return an estimate of the seconds that a grid takes.

    Parameters
    ----------
    grid : ShapeGrid
    dtypes, threads : int
        How many of each.
    labels : list of str
        The names of the calls that are timed in a round.
    memories : int
        Measurements of memory in a cell.
    """
    budget = Budget(0.0, time.perf_counter)
    each = (
        budget.fixed(rows * classes) + ROUNDS * budget.a_round(rows * classes, labels) + memories * MEMORY_SECONDS
        for rows, classes in grid.shapes
    )
    return dtypes * threads * sum(each)


def fitting(
    left: float, dtypes: tuple[str, ...], threads: int, labels: list[str], memories: int = 0
) -> tuple[Source, ...]:
    """Return the finest grid that can be measured in so many seconds, or the coarsest if none can."""
    chosen = next((grid for grid in GRIDS if seconds(grid, len(dtypes), threads, labels, memories) <= left), GRIDS[-1])
    return tuple(planning.of_shapes(chosen.shapes, dtypes))


def distinct(sources: Iterable[Source]) -> tuple[Source, ...]:
    """Return the first source of each shape and dtype. A profile does not distinguish further."""
    found: dict[tuple[int, int, str], Source] = {}
    for source in sources:
        found.setdefault((source.shape.rows, source.shape.classes, source.dtype), source)
    return tuple(found.values())


def again(rows: int, classes: int, dtype: str, sets: Iterable[str]) -> Source:
    """Return the source of a stored cell, from the sets that it was measured on, or else wide logits of its shape."""
    named = (source for name in sets if name in workloads.SETS for source in planning.built_in(name, (dtype,)))
    for source in named:
        if (source.shape.rows, source.shape.classes) == (rows, classes) and source.shape is not planning.DIGITS:
            return source
    return next(planning.of_shapes(((rows, classes),), (dtype,)))
