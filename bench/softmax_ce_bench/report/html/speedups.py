"""Speed-ups over the base with their intervals, one line per candidate and cell."""

from __future__ import annotations

from collections.abc import Sequence

from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.report import words
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import colour, marks, short
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import drawn_names, ends, timing

_MOST_CELLS = 30


def part(run: Run) -> PictureGroup:
    """Return the picture, or the reason why there is none."""
    base, operations = run.settings.base, run.settings.operations
    cells = [cell for cell in run.cells if _others(run, [cell])][:_MOST_CELLS]
    title = f"Speed-up over {base}"
    if not cells:
        missing = f"Only {base} was timed: --backend and --peers name others to measure beside it."
        return PictureGroup("speedups", title, (), missing)
    names = _others(run, cells)
    known = marks(run)
    shown = [operation for operation in operations if drawn_names(run, cells, [operation])]
    step = 0.8 / len(names)
    with svg.style():
        height = 1.2 + len(cells) * max(0.34, 0.115 * len(names) + 0.06)
        drawn = svg.figure(3.0 * len(shown) + 1.6, height)
        panels = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        points = [_points(cells, names, operation) for operation in shown]
        values = [value for found in points for _, _, *each in found for value in each] + [1.0]
        for panel, operation, found in zip(panels, shown, points, strict=True):
            svg.bare(panel)
            for k in range(0, len(cells), 2):
                panel.axhspan(k - 0.5, k + 0.5, color=colour("band"), linewidth=0, zorder=0)
            panel.axvline(1.0, color=colour("ink"), linewidth=1)
            for k, name, median, low, high in found:
                mark, y = known[name], k - 0.4 + step * (names.index(name) + 0.5)
                panel.plot([low, high], [y, y], "-", color=mark.colour, linewidth=1.6)
                panel.plot(median, y, mark.marker, color=mark.colour, markerfacecolor=mark.face, markersize=4.5)
            axes.logarithmic(panel.xaxis, axes.short_times, min(values), max(values))
            panel.grid(visible=False, axis="y")
            panel.set_title(operation, loc="left")
            panel.set_xlabel(f"speed-up over {short(base)}")
        axes.at(panels[0].yaxis, range(len(cells)), [short(words.sized_label(run, cell), 40) for cell in cells])
        panels[0].set_ylim(len(cells) - 0.5, -0.5)
        axes.legend(drawn, names, known, line=False)
        shown_svg = svg.inline(drawn, "speedup", title, _description(run, cells, names, shown[-1]))
    confidence = f"{run.settings.confidence:.0%}"
    caption = (
        f"Medians of the paired ratios with their {confidence} intervals, logarithmic; right of the line is faster "
        f"than {base}. Wrong results are not drawn."
    )
    if len(run.cells) > len(cells):
        caption += f" {len(cells)} of {len(run.cells)} workloads are drawn."
    return PictureGroup("speedups", title, [Picture("figure-speedup", title, caption, shown_svg)])


def _others(run: Run, cells: Sequence[ComparedCell]) -> list[str]:
    return [name for name in drawn_names(run, cells, run.settings.operations) if name != run.settings.base]


def _points(
    cells: Sequence[ComparedCell], names: Sequence[str], operation: str
) -> list[tuple[int, str, float, float, float]]:
    """Return the place of the cell, the candidate, the median and the interval of each speed-up."""
    return [
        (k, name, found.speedup.median, *ends(found.speedup))
        for k, cell in enumerate(cells)
        for name in names
        if (found := timing(cell, name, operation)) is not None
    ]


def _description(run: Run, cells: Sequence[ComparedCell], names: Sequence[str], operation: str) -> str:
    said = []
    for name in names:
        found = [own.speedup.median for cell in cells if (own := timing(cell, name, operation)) is not None]
        if found:
            said.append(f"{name} from {words.times(min(found))} to {words.times(max(found))}")
    return f"In {operation}: {'; '.join(said)}."
