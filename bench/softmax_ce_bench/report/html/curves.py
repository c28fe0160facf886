"""Time and data rate against the number of classes, with the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from softmax_ce_bench.compare.result import Ceiling, ComparedCell, Run
from softmax_ce_bench.report import words
from softmax_ce_bench.report.comparison import rated
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import Mark, colour, marks
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import (
    MOST_SLICES,
    Slice,
    can_be_drawn,
    drawn_names,
    ends,
    slices,
    timing,
)

_MOST_PANELS = 6
_MISSING = (
    "These pictures need several numbers of classes with the same number of rows: "
    "--shapes 64x10,64x100,64x1000 would measure them."
)


def part(run: Run) -> PictureGroup:
    """Return the pictures, or the reason why there are none."""
    operation = rated(run)
    drawn: list[Picture] = []
    wanted = [(each, panels) for each in slices(run) if (panels := _panels(run, each, operation))]
    for k, (each, panels) in enumerate(wanted[:MOST_SLICES]):
        drawn += [_picture(run, each, panels, operation, k, is_rate=is_rate) for is_rate in (False, True)]
    return PictureGroup("curves", "Time and rate against classes", drawn, "" if drawn else _MISSING)


def _panels(run: Run, each: Slice, operation: str) -> list[list[ComparedCell]]:
    """Return the cells of each number of rows with at least two numbers of classes, fewest classes first."""
    by_rows: dict[int, list[ComparedCell]] = {}
    for cell in each.cells:
        if drawn_names(run, [cell], [operation]):
            by_rows.setdefault(cell.inputs.rows, []).append(cell)
    found = [sorted(by_rows[rows], key=lambda cell: cell.inputs.classes) for rows in sorted(by_rows)]
    return [cells for cells in found if len({cell.inputs.classes for cell in cells}) > 1][:_MOST_PANELS]


def _picture(
    run: Run, each: Slice, panels: Sequence[Sequence[ComparedCell]], operation: str, number: int, *, is_rate: bool
) -> Picture:
    known = marks(run)
    names = drawn_names(run, [cell for cells in panels for cell in cells], [operation])
    with svg.style():
        columns = min(3, len(panels))
        lines = -(-len(panels) // columns)
        drawn = svg.figure(3.1 * columns + (1.2 if columns == 1 else 0.2), 2.7 * lines + 0.6)
        grid = drawn.subplots(lines, columns, squeeze=False, sharey=True)
        low, high = _span(names, panels, operation, is_rate=is_rate)
        has_ceiling = False
        for k, panel in enumerate(grid.flat):
            if k >= len(panels):
                axes.hidden(panel)
                continue
            _draw(panel, panels[k], names, known, operation, is_rate=is_rate)
            has_ceiling |= _draw_ceiling(panel, panels[k], operation, is_rate=is_rate)
            axes.sizes(panel.xaxis, [cell.inputs.classes for cell in panels[k]])
            axes.logarithmic(panel.yaxis, axes.short_number if is_rate else axes.short_duration, low, high)
            panel.tick_params(labelleft=k % columns == 0)
            rows = panels[k][0].inputs.rows
            panel.set_title(f"{rows:,} row{'s' * (rows > 1)}", loc="left")
            if k + columns >= len(panels):
                panel.set_xlabel("classes")
        grid[0, 0].set_ylabel("GB/s" if is_rate else "time of a call")
        ceiling = [Line2D([], [], color=colour("ink"), linestyle=":", label="ceiling")] if has_ceiling else []
        axes.legend(drawn, names, known, *ceiling)
        key = f"{'rate' if is_rate else 'time'}-{number}"
        title = f"{'GB/s' if is_rate else 'Time'} against classes: {operation}, {each.title}"
        shown = svg.inline(drawn, key, title, _description(panels, names, operation, is_rate=is_rate))
    return Picture(f"figure-{key}", title, _caption(has_ceiling, is_rate=is_rate), shown)


def _caption(has_ceiling: bool, *, is_rate: bool) -> str:
    said = "Bytes that must be moved over the time; higher is better." if is_rate else "Lower is better."
    said += " Both axes are logarithmic; bands are the intervals of the medians, mostly narrower than the lines."
    if has_ceiling:
        what = "the rate of a C loop that only moves bytes" if is_rate else "a C loop that only moves those bytes"
        said += f" Dotted: {what}, on the same arrays in the same rounds."
    return said + " Wrong results are not drawn. Dashed lines with hollow marks are other libraries."


def _description(
    panels: Sequence[Sequence[ComparedCell]], names: Sequence[str], operation: str, *, is_rate: bool
) -> str:
    said = []
    for cells in panels:
        cell = cells[-1]
        found = {name: timing(cell, name, operation) for name in names}
        each = ", ".join(
            f"{name} {words.number(own.gb_per_s) + ' GB/s' if is_rate else words.duration(own.time.median)}"
            for name, own in found.items()
            if own
        )
        said.append(f"With {cell.inputs.rows} rows and {cell.inputs.classes} classes: {each}.")
    return " ".join(said)


def _values(cell: ComparedCell, name: str, operation: str, *, is_rate: bool) -> tuple[float, float, float] | None:
    """Return the median and the ends of the interval."""
    found = timing(cell, name, operation)
    if found is None:
        return None
    low, high = ends(found.time)
    if not is_rate:
        return found.time.median, low, high
    scale = found.gb_per_s * found.time.median
    return found.gb_per_s, scale / high, scale / low


def _draw(
    panel: Axes,
    cells: Sequence[ComparedCell],
    names: Sequence[str],
    known: Mapping[str, Mark],
    operation: str,
    *,
    is_rate: bool,
) -> None:
    svg.bare(panel)
    for name in reversed(names):  # the first lies on top
        mark = known[name]
        found = [(cell.inputs.classes, _values(cell, name, operation, is_rate=is_rate)) for cell in cells]
        points = [(classes, values) for classes, values in found if values]
        if not points:
            continue
        x = [classes for classes, _ in points]
        median, low, high = zip(*(values for _, values in points), strict=True)
        panel.fill_between(x, low, high, color=mark.colour, alpha=0.25, linewidth=0)
        width = 1.8 if mark.filled else 1.0
        panel.plot(
            x, median, mark.line, color=mark.colour, marker=mark.marker, markerfacecolor=mark.face, linewidth=width
        )


def _draw_ceiling(panel: Axes, cells: Sequence[ComparedCell], operation: str, *, is_rate: bool) -> bool:
    points = [(cell, found) for cell in cells if (found := _ceiling(cell, operation)) is not None]
    if not points:
        return False
    x = [cell.inputs.classes for cell, _ in points]
    values = []
    for cell, found in points:
        moved = cell.operations[operation].bytes
        low, high = (end / found.time.median for end in ends(found.time))
        middle = found.gb_per_s if is_rate else moved / found.gb_per_s / 1e9
        values.append((middle, middle / high, middle / low) if is_rate else (middle, middle * low, middle * high))
    median, low_end, high_end = zip(*values, strict=True)
    panel.fill_between(x, low_end, high_end, color=colour("ink"), alpha=0.12, linewidth=0)
    panel.plot(x, median, ":", color=colour("ink"), marker=".", markersize=4)
    return True


def _ceiling(cell: ComparedCell, operation: str) -> Ceiling | None:
    facts = cell.operations[operation]
    for found in cell.ceilings:
        ok = can_be_drawn(found.gb_per_s) and can_be_drawn(found.time.median) and can_be_drawn(facts.bytes)
        if found.loop == facts.ceiling and ok:
            return found
    return None


def _span(
    names: Sequence[str], panels: Sequence[Sequence[ComparedCell]], operation: str, *, is_rate: bool
) -> tuple[float, float]:
    """Return the smallest and the largest value of all panels."""
    found = []
    for cell in (cell for cells in panels for cell in cells):
        found += [values[0] for name in names if (values := _values(cell, name, operation, is_rate=is_rate))]
        ceiling = _ceiling(cell, operation)
        if ceiling is not None:
            moved = cell.operations[operation].bytes
            found.append(ceiling.gb_per_s if is_rate else moved / ceiling.gb_per_s / 1e9)
    return min(found), max(found)
