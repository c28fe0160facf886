"""Peak memory, cold start and break-even."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from softmax_ce_bench.compare.result import ColdStart, ComparedCell, Run
from softmax_ce_bench.measure import memory
from softmax_ce_bench.report import words
from softmax_ce_bench.report.comparison import rated
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import colour, marks, short
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import can_be_drawn, timing

_MISSING = "There are no figures: --cold-start measures them, in fresh processes."
_NO_MEMORY = "Peak memory was not measured, and is known on Linux only: --cold-start measures it, in fresh processes."
_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # bytes
_CALLS = 1e6


def memory_part(run: Run) -> PictureGroup:
    """Return the picture of peak memory, or the reason why there is none."""
    title = "Peak memory"
    found = [(start, start.peak_memory) for start in run.cold_starts if start.peak_memory is not None]
    found = [(start, size) for start, size in found if 0 <= size < 1e18]
    if not found:
        return PictureGroup("memory", title, (), _NO_MEMORY)
    known = marks(run)
    cell = next((each for each in run.cells if each.key == found[0][0].peak_memory_cell), None)
    one_gradient = _gradient(cell)
    unit, scale = _unit(max(size for _, size in found))
    with svg.style():
        drawn = svg.figure(7.2, 0.9 + 0.3 * len(found))
        panel = drawn.subplots()
        svg.bare(panel)
        most = max(max(size for _, size in found), one_gradient or 0, 1)
        for k, (start, size) in enumerate(found):
            mark = known.get(start.name)
            look = mark.colour if mark else colour("muted")
            is_peer = mark is not None and not mark.filled
            panel.barh(k, size / scale, 0.66, color=look, alpha=0.35 if is_peer else 0.8, linewidth=0)
            panel.text(size / scale + most / scale / 100, k, memory.size(size), va="center", fontsize=8.5)
        if one_gradient:
            panel.axvline(one_gradient / scale, color=colour("ink"), linestyle=":", linewidth=1.2)
            panel.annotate(
                "one gradient", (one_gradient / scale, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", fontsize=8, color=colour("ink"),
            )  # fmt: skip
        axes.at(panel.yaxis, range(len(found)), [short(start.name) for start, _ in found])
        panel.set(
            ylim=(len(found) - 0.4, -0.6),
            xlim=(0, most / scale * 1.14),
            xlabel=f"{unit} beyond what was resident before",
        )
        panel.grid(visible=False, axis="y")
        said = ", ".join(f"{start.name} {memory.size(size)}" for start, size in found)
        shown = svg.inline(drawn, "memory", title, f"{said}.")
    where = f" on {found[0][0].peak_memory_cell}" if found[0][0].peak_memory_cell else ""
    caption = (
        f"Resident in one {rated(run)} call{where}, beyond logits, targets and buffers handed in: temporaries, "
        "scratch, and results that the call allocates. Pale: other libraries, which allocate their gradients."
    )
    if one_gradient:
        caption += " Dotted: the size of one gradient."
    return PictureGroup("memory", title, [Picture("figure-memory", title, caption, shown)])


def _gradient(cell: ComparedCell | None) -> int | None:
    if cell is None or cell.inputs.dtype not in _SIZES or not 0 < cell.inputs.rows * cell.inputs.classes < 2**50:
        return None
    return cell.inputs.rows * cell.inputs.classes * _SIZES[cell.inputs.dtype]


def _unit(largest: float) -> tuple[str, float]:
    return next(((name, one) for name, one in (("GB", 1e9), ("MB", 1e6)) if largest >= one), ("kB", 1e3))


def cold_part(run: Run) -> PictureGroup:
    """Return the pictures of cold start and break-even, or the reason why there are none."""
    title = "Cold start and break-even"
    starts = [start for start in run.cold_starts if _is_whole(start)]
    if not starts:
        return PictureGroup("cold", title, (), _MISSING)
    even = _break_even(run, starts)
    return PictureGroup("cold", title, [_first_calls(run, starts), *([even] if even else [])])


def _is_whole(start: ColdStart) -> bool:
    times = (start.import_seconds, start.first_call_cold, start.first_call_cached, start.second_call)
    return all(value is not None and can_be_drawn(value) for value in times)


def _first_calls(run: Run, starts: list[ColdStart]) -> Picture:
    title = "Import, first calls, second call"
    kinds = (
        ("import", "import_seconds", "s"), ("first call", "first_call_cold", "O"),
        ("first call, cached", "first_call_cached", "D"), ("second call", "second_call", "^"),
    )  # fmt: skip
    known = marks(run)
    with svg.style():
        drawn = svg.figure(7.2, 1.4 + 0.3 * len(starts))
        panel = drawn.subplots()
        svg.bare(panel)
        every = [getattr(start, field) for start in starts for _, field, _ in kinds]
        for k, start in enumerate(starts):
            look = known[start.name].colour if start.name in known else colour("muted")
            own = [getattr(start, field) for _, field, _ in kinds]
            panel.plot([min(own), max(own)], [k, k], "-", color=look, alpha=0.35, linewidth=2)
            for (_, _, marker), value in zip(kinds, own, strict=True):
                panel.plot(value, k, color=look, **_look(marker, look))
        axes.logarithmic(panel.xaxis, axes.short_duration, min(every), max(every))
        axes.at(panel.yaxis, range(len(starts)), [short(start.name) for start in starts])
        panel.set_ylim(len(starts) - 0.5, -0.5)
        handles = [
            Line2D([], [], linestyle="none", color=colour("muted"), label=label, **_look(marker, colour("muted")))
            for label, _, marker in kinds
        ]  # fmt: skip
        drawn.legend(handles=handles, loc="outside upper left", ncols=4)
        said = "; ".join(
            f"{start.name}: import {words.duration(start.import_seconds or 0)}, "
            f"first call {words.duration(start.first_call_cold or 0)}"
            for start in starts
        )
        shown = svg.inline(drawn, "starts", title, f"{said}.")
    caption = (
        "Measured in fresh processes with NumPy imported. The first call has 1 x 10 logits and loads or compiles the "
        "backend. cached: in a later process, which finds compiled code on disk. Logarithmic."
    )
    return Picture("figure-starts", title, caption, shown)


def _look(marker: str, filling: str) -> dict[str, Any]:
    """Return the style of a marker: larger for capital letters, so that another marker can lie inside."""
    is_large = marker.isupper() and marker != "D"
    face = "none" if is_large or marker == "s" else filling
    return {
        "marker": marker.lower() if is_large else marker,
        "markerfacecolor": face,
        "markersize": 10 if is_large else 6,
    }


def _break_even(run: Run, starts: list[ColdStart]) -> Picture | None:
    """Return the total time after so many calls, on the smallest and the largest workload."""
    operation, known = rated(run), marks(run)
    timed = [cell for cell in run.cells if sum(bool(timing(cell, s.name, operation)) for s in starts) > 1]
    if not timed:
        return None
    by_size = sorted(timed, key=lambda cell: cell.inputs.rows * cell.inputs.classes)
    cells = [by_size[0], by_size[-1]] if len(by_size) > 1 else by_size
    title = f"Total time after a number of {operation} calls"
    with svg.style():
        drawn = svg.figure(4.1 * len(cells) + 0.4, 3.9)
        panels = drawn.subplots(1, len(cells), squeeze=False)[0]
        calls = np.geomspace(1, _CALLS, 61)
        names = [
            start.name
            for start in starts
            if start.name in known and any(timing(c, start.name, operation) for c in cells)
        ]
        has_cached = False
        for panel, cell in zip(panels, cells, strict=True):
            svg.bare(panel)
            every = []
            for start in reversed(starts):
                own = timing(cell, start.name, operation)
                if own is None or start.name not in known:
                    continue
                mark = known[start.name]
                firsts = dict.fromkeys((start.first_call_cold or 0.0, start.first_call_cached or 0.0))
                for k, first in enumerate(firsts):
                    total = (start.import_seconds or 0.0) + first + (calls - 1) * own.time.median
                    has_cached |= k > 0
                    line = "-" if k == 0 else (0, (1, 1))
                    panel.plot(
                        calls, total, color=mark.colour, linestyle=line, linewidth=1.8 if mark.filled else 1.0,
                        marker=mark.marker, markerfacecolor=mark.face, markevery=(3 * (starts.index(start) % 5), 15),
                    )  # fmt: skip
                    every += [total[0], total[-1]]
            axes.logarithmic(panel.xaxis, axes.short_count, 1, _CALLS)
            axes.logarithmic(panel.yaxis, axes.short_duration, min(every), max(every))
            panel.set_title(short(words.sized_label(run, cell), 40), loc="left")
            panel.set_xlabel("calls")
        panels[0].set_ylabel("import and all calls")
        axes.legend(drawn, names, known)
        shown = svg.inline(drawn, "break-even", title, _said(run, starts, cells, operation))
    caption = (
        "Import, first call, and every later call at its median. Where two lines cross, the slower start has paid off."
    )
    if has_cached:
        caption += " Dotted: with compiled code found on disk."
    if len(cells) > 1:
        caption += " The smallest workload and the largest."
    return Picture("figure-break-even", title, caption, shown)


def _said(run: Run, starts: list[ColdStart], cells: list[ComparedCell], operation: str) -> str:
    said = []
    for cell in cells:
        each = [
            f"{start.name} after {words.break_even(start, cell.key, operation)}"
            for start in starts
            if any((even.cell, even.operation) == (cell.key, operation) for even in start.break_even)
        ]
        if each:
            said.append(
                f"On {words.label(run, cell)}, a start slower than {run.settings.base}'s pays off: "
                f"{', '.join(each)} calls"
            )
    return f"{'. '.join(said)}." if said else "Import, first call and later calls added up."
