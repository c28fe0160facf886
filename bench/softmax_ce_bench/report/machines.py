"""Records of several machines side by side: the same workloads, with ratios within each machine only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.text import Text

from softmax_ce_bench.compare.request import BASE
from softmax_ce_bench.compare.result import RANKED, REJECTED, Candidate, ComparedCell, Entry, Run
from softmax_ce_bench.measure.stats import paired_ratio
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

SPEEDUP, TIME = "speed-up", "time"


class MachinesError(ValueError):
    """Raised if records cannot be shown side by side. The message is one line and says why."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The records of several machines, cut down to what they have in common.

    Attributes
    ----------
    runs : dict
        From the name of a machine to its run, with the workloads of `labels` alone. Speed-ups are over `base`.
    base : str
        The candidate that all speed-ups are relative to.
    labels : dict
        From the key of each workload that at least two machines have to what it is called.
    left_out : tuple of str
        The keys of workloads that one machine alone has.
    """

    runs: dict[str, Run]
    base: str
    labels: dict[str, str]
    left_out: tuple[str, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """Every operation that some machine has, in the order measured."""
        return tuple(dict.fromkeys(o for run in self.runs.values() for cell in run.cells for o in cell.operations))

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate, once."""
        return tuple({each.name: each for run in self.runs.values() for each in run.candidates}.values())

    def timed(self, operation: str) -> list[str]:
        """Return the candidates that some machine timed in an operation."""
        cells = [cell for run in self.runs.values() for cell in run.cells]
        found = {entry.name for cell in cells for entry in cell.entries if operation in entry.timings}
        return [each.name for each in self.candidates if each.name in found]

    def cells(self, operation: str) -> Iterable[tuple[str, str, ComparedCell]]:
        """Return each workload with an operation: its key, a machine, and the cell there; machines below each other."""
        for key in self.labels:
            for name, run in self.runs.items():
                for cell in run.cells:
                    if cell.key == key and operation in cell.operations:
                        yield key, name, cell


def side_by_side(runs: Mapping[str, Run]) -> SideBySide:
    """Put the records of several machines side by side.

    Parameters
    ----------
    runs : mapping
        From a name for each machine to its run.

    Raises
    ------
    MachinesError
        No two of them have a workload in common, or no candidate that speed-ups could be relative to.
    """
    places: dict[str, list[str]] = {}
    for name, run in runs.items():
        for cell in run.cells:
            places.setdefault(cell.key, []).append(name)
    shared = {key for key, names in places.items() if len(names) > 1}
    if not shared:
        raise MachinesError("no two of the records have a workload in common; measure them with the same options")
    bases = {run.settings.base for run in runs.values()}
    base = bases.pop() if len(bases) == 1 else BASE
    cut = {name: _over(base, run, shared) for name, run in runs.items()}
    labels = {
        cell.key: words.sized_label(run, cell)
        for key in places
        for run in cut.values()
        for cell in run.cells
        if cell.key == key
    }
    return SideBySide(cut, base, labels, tuple(key for key in places if key not in shared))


def _over(base: str, run: Run, keys: set[str]) -> Run:
    """Return a run with some of its cells, and with speed-ups over a base of its own rounds."""
    cells = [cell for cell in run.cells if cell.key in keys]
    if run.settings.base == base:
        return replace(run, cells=cells)
    return replace(run, cells=[_cell_over(base, cell) for cell in cells], settings=replace(run.settings, base=base))


def _cell_over(base: str, cell: ComparedCell) -> ComparedCell:
    basis = next((entry.timings for entry in cell.entries if entry.name == base), {})
    entries = []
    for entry in cell.entries:
        timings = {
            operation: replace(timing, speedup=paired_ratio(basis[operation].seconds, timing.seconds))
            for operation, timing in entry.timings.items()
            if operation in basis
        }
        entries.append(replace(entry, timings=timings))
    operations = {operation: facts for operation, facts in cell.operations.items() if operation in basis}
    return replace(cell, entries=tuple(entries), operations=operations)


@dataclass(frozen=True, slots=True)
class Figure:
    """What a candidate reached on one workload and machine.

    Attributes
    ----------
    text : str
        As it is shown.
    value : float or None
        To sort by; None if it was not timed.
    fastest, ranked : bool
        Whether it is the fastest there, or ties with it; and whether it may be.
    """

    text: str
    value: float | None
    fastest: bool
    ranked: bool


def figure(cell: ComparedCell, name: str, operation: str, what: str) -> Figure:
    """Return the speed-up or the time of a candidate in a cell."""
    entry: Entry | None = next((each for each in cell.entries if each.name == name), None)
    timing = entry.timings.get(operation) if entry else None
    if entry is None or timing is None or entry.status == REJECTED:
        return Figure("rejected" if entry and entry.status == REJECTED else "-", None, False, False)
    value = timing.speedup.median if what == SPEEDUP else timing.time.median
    fastest = name in cell.operations[operation].fastest
    shown = words.times(value) if what == SPEEDUP else words.duration(value)
    ranked = entry.status == RANKED
    return Figure(f"{shown} *" if fastest else shown if ranked else f"({shown})", value, fastest, ranked)


def whole(found: SideBySide) -> Group:
    """Return the tables for the terminal: one for each operation, with a column for each machine."""
    parts: list[RenderableType] = []
    for operation in found.operations:
        title = f"{operation}: speed-up over {found.base}, and time of a call"
        parts += ["", Text(title, style="bold"), _table(found, operation)]
    lines = [f"{name}: {words.figure_line(run)}" for name, run in found.runs.items()]
    warnings = [Text(line, style="bold red") for line in verdicts(found)]
    return Group(*parts, "", *warnings, *(Text(line, style="dim") for line in (*notes(found), *lines)))


def _table(found: SideBySide, operation: str) -> RenderableType:
    table = plain_table()
    table.add_column("", no_wrap=True)
    for machine in found.runs:
        table.add_column(Text(machine), justify="right", no_wrap=True)
    cells: dict[str, dict[str, ComparedCell]] = {}
    for key, machine, cell in found.cells(operation):
        cells.setdefault(key, {})[machine] = cell
    for key, by_machine in cells.items():
        table.add_row(Text(found.labels[key], style="bold"))
        for name in found.timed(operation):
            texts = [_both(by_machine.get(machine), name, operation) for machine in found.runs]
            if any(each.plain != "-" for each in texts):
                table.add_row(Text(f"  {name}"), *texts)
    return table


def _both(cell: ComparedCell | None, name: str, operation: str) -> Text:
    """Return a candidate's speed-up and time on one machine."""
    if cell is None:
        return Text("-")
    ratio, seconds = (figure(cell, name, operation, what) for what in (SPEEDUP, TIME))
    if ratio.value is None:
        return Text(ratio.text, style="dim")
    text = f"{ratio.text}, {seconds.text.strip('() *')}"
    return Text(text, style="bold green" if ratio.fastest else "" if ratio.ranked else "dim")


def heading(found: SideBySide, operation: str, what: str) -> str:
    """Return the heading of a table."""
    return f"{operation}: {what}" + (f" over {found.base}" if what == SPEEDUP else " of a call")


def verdicts(found: SideBySide) -> list[str]:
    """Return a warning for each machine that was not quiet."""
    return [f"{name}: {said}" for name, run in found.runs.items() if (said := words.verdict(run))]


def notes(found: SideBySide) -> list[str]:
    """Return how to read the tables, and what is not in them."""
    said = [
        f"Ratios are within each machine only: the time of {found.base} over that of the candidate, paired within "
        "rounds. Times of two machines are not comparable unless they ran alike. *: fastest there, or tied with it. In "
        "parentheses: right, but not ranked, since it overflows by design."
    ]
    if found.left_out:
        said.append(f"Measured on one machine alone, and left out: {'; '.join(found.left_out)}.")
    return said
