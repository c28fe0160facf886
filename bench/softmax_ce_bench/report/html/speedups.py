"""Speed-ups over the base with their intervals, one line per candidate and cell."""

from __future__ import annotations

from collections.abc import Sequence

from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.report import words
from softmax_ce_bench.report.html import ratios
from softmax_ce_bench.report.html.palette import marks, short
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
    shown = [operation for operation in operations if drawn_names(run, cells, [operation])]
    drawn = ratios.picture(
        "speedup", title, _description(run, cells, names, shown[-1]),
        [(operation, _points(cells, names, operation)) for operation in shown],
        [words.sized_label(run, cell) for cell in cells], names, marks(run),
        width=3.0 * len(shown) + 1.6, xlabel=f"speed-up over {short(base)}",
    )  # fmt: skip
    confidence = f"{run.settings.confidence:.0%}"
    caption = (
        f"Medians of the paired ratios with their {confidence} intervals, logarithmic; right of the line is faster "
        f"than {base}. Wrong results are not drawn."
    )
    if len(run.cells) > len(cells):
        caption += f" {len(cells)} of {len(run.cells)} workloads are drawn."
    return PictureGroup("speedups", title, [Picture("figure-speedup", title, caption, drawn)])


def _others(run: Run, cells: Sequence[ComparedCell]) -> list[str]:
    return [name for name in drawn_names(run, cells, run.settings.operations) if name != run.settings.base]


def _points(cells: Sequence[ComparedCell], names: Sequence[str], operation: str) -> list[ratios.Point]:
    """Return the point of each speed-up."""
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
