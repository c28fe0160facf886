"""What can be drawn of a record: cells that may share a picture, and numbers that fit on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from softmax_ce_bench.compare.result import RANKED, ComparedCell, Run, Timing
from softmax_ce_bench.measure.stats import Ratio

MOST_SLICES = 4  # pictures of one kind; more would bury the reader
_LARGEST = 2**50  # rows or classes: no array has more


@dataclass(frozen=True, slots=True)
class Slice:
    """Cells that differ only in rows, classes and values.

    Attributes
    ----------
    title : str
        The properties that the cells share: dtype, kind of targets, options, threads.
    cells : tuple of ComparedCell
    """

    title: str
    cells: tuple[ComparedCell, ...]


def slices(run: Run) -> list[Slice]:
    """Return a run's cells in groups that may share a picture, in the order of measurement."""
    found: dict[object, list[ComparedCell]] = {}
    for cell in run.cells:
        if 1 <= cell.inputs.rows <= _LARGEST and 1 <= cell.inputs.classes <= _LARGEST:
            found.setdefault((cell.inputs.dtype, cell.inputs.targets, cell.options, cell.threads), []).append(cell)
    return [Slice(_title(cells[0]), tuple(cells)) for cells in found.values()]


def _title(cell: ComparedCell) -> str:
    soft = ", soft targets" if cell.inputs.targets == "soft" else ""
    shared = "".join(f", {part}" for part in cell.key.split(", ")[1:])
    return f"{cell.inputs.dtype}{soft}{shared}"


def can_be_drawn(value: float) -> bool:
    """Return whether a number fits on a logarithmic axis."""
    return 1e-30 < value < 1e30


def timing(cell: ComparedCell, name: str, operation: str) -> Timing | None:
    """Return a candidate's timing in a cell if it exists and can be drawn. That of a wrong candidate is never drawn."""
    for entry in cell.entries:
        if entry.name == name and entry.status != "rejected":
            found = entry.timings.get(operation)
            if found and all(map(can_be_drawn, (found.time.median, found.speedup.median, found.gb_per_s))):
                return found
    return None


def regrets(cell: ComparedCell, operation: str) -> dict[str, float]:
    """Return by how much each ranked candidate is slower than the fastest: 0 is the fastest, 1 takes twice as long."""
    speeds = {
        entry.name: found.speedup.median
        for entry in cell.entries
        if entry.status == RANKED and (found := timing(cell, entry.name, operation)) is not None
    }
    best = max(speeds.values(), default=0.0)
    return {name: best / speed - 1 for name, speed in speeds.items()}


def drawn_names(run: Run, cells: Iterable[ComparedCell], operations: Iterable[str]) -> list[str]:
    """Return the candidates with a timing in one of the cells, in the run's order."""
    wanted = tuple(operations)
    pool = tuple(cells)
    return [
        candidate.name
        for candidate in run.candidates
        if any(timing(cell, candidate.name, operation) for cell in pool for operation in wanted)
    ]


def ends(ratio: Ratio) -> tuple[float, float]:
    """Return the ends of an interval, or the median twice if there are too few rounds for one or it cannot be drawn."""
    if can_be_drawn(ratio.low) and can_be_drawn(ratio.high):
        return ratio.low, ratio.high
    return ratio.median, ratio.median
