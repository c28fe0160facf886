"""The page of several machines: for each operation a panel a machine, and the tables."""

from __future__ import annotations

from dataclasses import replace

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report import machines, templates, words
from softmax_ce_bench.report.html import assets, ratios
from softmax_ce_bench.report.html.palette import marks, short
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import ends, timing
from softmax_ce_bench.report.html.tables import Field, PageTable
from softmax_ce_bench.report.machines import SideBySide
from softmax_ce_bench.report.printable import printable

_MOST_CELLS, _MOST_MACHINES = 30, 6


def page(found: SideBySide) -> str:
    """Return records of several machines as one HTML page that loads nothing."""
    found = printable(found)
    return templates.load(assets.HERE / "machines.html.jinja").render(
        **assets.style_and_script(),
        names=[*found.runs],
        warnings=machines.verdicts(found),
        facts=_facts(found),
        parts=[_part(found, operation) for operation in found.operations],
        tables=[_table(found, o, what) for o in found.operations for what in (machines.SPEEDUP, machines.TIME)],
        notes=machines.notes(found),
        measured_with=[f"{name}: {words.figure_line(run)}" for name, run in found.runs.items()],
    )


def _facts(found: SideBySide) -> PageTable:
    rows = [
        [Field(text) for text in (
            name, run.machine.cpu, " ".join(run.machine.instruction_sets) or "(not known)",
            str(run.machine.cpus_available), run.machine.os, run.machine.softmax_ce, run.date,
        )]
        for name, run in found.runs.items()
    ]  # fmt: skip
    headings = ("machine", "processor", "instruction sets", "CPUs used", "system", "softmax-ce", "measured")
    return PageTable("machines", "The machines.", headings, frozenset((3,)), rows)


def _table(found: SideBySide, operation: str, what: str) -> PageTable:
    names = found.timed(operation)
    rows = []
    for key, machine, cell in found.cells(operation):
        figures = [machines.figure(cell, name, operation, what) for name in names]
        fields = [Field(each.text, each.value, "fastest" if each.fastest else "") for each in figures]
        rows.append([Field(found.labels[key]), Field(machine), *fields])
    headings = ("workload", "machine", *names)
    key = f"{operation}-{what}"
    caption = f"{machines.heading(found, operation, what)}."
    return PageTable(key, caption, headings, frozenset(range(2, len(headings))), rows, filtered=len(rows) > 12)


def _part(found: SideBySide, operation: str) -> PictureGroup:
    """Return the picture of one operation: a panel for each machine, all with one scale."""
    title = f"{operation}: speed-up over {short(found.base)}, machine by machine"
    keys = list(dict.fromkeys(key for key, _, _ in found.cells(operation)))[:_MOST_CELLS]
    drawn_machines = dict(list(found.runs.items())[:_MOST_MACHINES])
    points = {name: _points(run, keys, operation) for name, run in drawn_machines.items()}
    names = [name for name in found.timed(operation) if any(name == each[1] for own in points.values() for each in own)]
    if not names:
        return PictureGroup(operation, title, (), "No candidate was timed that can be drawn.")
    drawn = ratios.picture(
        operation, title, f"On {words.listed(list(points))}: {words.listed(names)}.",
        [(short(machine), own) for machine, own in points.items()], [found.labels[key] for key in keys], names,
        marks(replace(next(iter(found.runs.values())), candidates=found.candidates)), width=2.6 * len(points) + 2.0,
    )  # fmt: skip
    caption = "Medians of the paired ratios with their intervals, logarithmic; each panel is one machine by itself."
    if len(points) < len(found.runs):
        caption += f" {len(points)} of {len(found.runs)} machines are drawn."
    if len(keys) < len(found.labels):
        caption += f" {len(keys)} of {len(found.labels)} workloads are drawn."
    return PictureGroup(operation, title, [Picture(f"figure-{operation}", title, caption, drawn)])


def _points(run: Run, keys: list[str], operation: str) -> list[ratios.Point]:
    """Return the point of each speed-up."""
    return [
        (keys.index(cell.key), entry.name, timed.speedup.median, *ends(timed.speedup))
        for cell in run.cells
        if cell.key in keys
        for entry in cell.entries
        if entry.name != run.settings.base and (timed := timing(cell, entry.name, operation)) is not None
    ]
