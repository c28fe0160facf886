"""A comparison as Markdown, for a pull request or a page: the same tables as in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.report import comparison, machines, words
from softmax_ce_bench.report.machines import SideBySide
from softmax_ce_bench.report.printable import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|])")


def whole(run: Run) -> str:
    """Return everything that is shown of a run."""
    run = printable(run)
    base = run.settings.base
    parts = ["# softmax-ce comparison", ""]
    warning = words.verdict(run)
    parts += [f"**{_safe(warning)}**", ""] if warning else []
    parts += [f"- {_safe(cell.key)}: {_safe(words.finding(cell, base))}." for cell in run.cells]
    parts += [f"- {_safe(each.key)}: not measured; {_safe(each.reason)}." for each in run.not_measured]
    parts += [f"- {_safe(line)}" for line in comparison.missing_lines(run)]
    for cell in run.cells:
        parts += ["", *_cell(cell, base)]
    if run.cold_starts:
        parts += ["", *_cold(run)]
    parts += ["", "## How it was measured", ""]
    for line in words.provenance(run):
        parts += [f"- {_safe(line.strip())}" if line.startswith("  ") else f"{_safe(line)}\n"]
    return "\n".join(parts).rstrip() + "\n"


def side_by_side(found: SideBySide) -> str:
    """Return the records of several machines as Markdown."""
    found = printable(found)
    parts = ["# softmax-ce comparison, machines side by side", ""]
    parts += [f"**{_safe(line)}**\n" for line in machines.verdicts(found)]
    for operation in found.operations:
        names = found.timed(operation)
        for what in (machines.SPEEDUP, machines.TIME):
            title = _safe(machines.heading(found, operation, what))
            parts += [f"## {title}", "", *_heading("workload", "machine", *map(_safe, names))]
            for key, machine, cell in found.cells(operation):
                figures = (_safe(machines.figure(cell, name, operation, what).text) for name in names)
                parts.append(_row((_safe(found.labels[key]), _safe(machine), *figures)))
            parts.append("")
    parts += [f"- {_safe(line)}" for line in machines.notes(found)]
    parts += [f"- {_safe(name)}: {_safe(words.figure_line(run))}" for name, run in found.runs.items()]
    return "\n".join(parts) + "\n"


def _cell(cell: ComparedCell, base: str) -> list[str]:
    headings = comparison.long_headings([cell])
    lines = [f"## {_safe(comparison.title(cell))}", "", *_heading("operation", "", *headings)]
    for operation, facts in cell.operations.items():
        for entry in comparison.shown_in(cell, operation):
            name = f"**{_safe(entry.name)}**" if entry.name in facts.fastest else _safe(entry.name)
            lines.append(_row((operation, name, *map(_safe, comparison.long_row(entry, operation, base, headings)))))
    notes = [entry for entry in cell.entries if entry.reason]
    return lines + [""] * bool(notes) + [f"- {_safe(entry.name)}: {_safe(entry.reason or '')}" for entry in notes]


def _cold(run: Run) -> list[str]:
    operation = comparison.rated(run)
    headings = ["", "import", "first call, cold", "first call, cached", "peak memory"]
    rows = [
        (start.name, *comparison.cold_row(run, start.name, operation)) for start in run.cold_starts if not start.failed
    ]
    more = max((len(row) for row in rows), default=len(headings)) - len(headings)
    headings += [_safe(f"even after, {cell.inputs.name}") for cell in run.cells[:more]] if more > 1 else ["even after"]
    return ["## Before the first call", "", *_heading(*headings), *(_row(map(_safe, row)) for row in rows)]


def _heading(*names: str) -> list[str]:
    return [_row(names), _row("---" for _ in names)]


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _safe(text: str) -> str:
    """Return text with Markdown's special characters escaped."""
    return _SPECIAL.sub(r"\\\1", text)
