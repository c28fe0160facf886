"""Peak memory of a linear layer with its loss against the number of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.measure import memory
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import Mark, colour, marks
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import MOST_SLICES, slices

_MISSING = (
    "This picture needs several numbers of classes with the same number of rows: --op linear --set vocabularies would "
    "measure them. Peak memory is known on Linux only."
)


def part(run: Run) -> PictureGroup | None:
    """Return the pictures, the reason why there are none, or None if no operation takes a linear layer."""
    operation = operation_of(run)
    if operation is None:
        return None
    wanted = [(each, cells) for each in slices(run) for cells in _groups(each.cells, operation)][:MOST_SLICES]
    drawn = [_picture(run, each.title, cells, operation, k) for k, (each, cells) in enumerate(wanted)]
    return PictureGroup("vocabulary", "Memory of a linear layer", drawn, "" if drawn else _MISSING)


def operation_of(run: Run) -> str | None:
    """Return the last operation of a run that takes a linear layer, or None."""
    return next((each for each in reversed(run.settings.operations) if TABLE[each].takes_layer), None)


def peak(cell: ComparedCell, name: str, operation: str) -> int | None:
    """Return the peak memory of a candidate in a cell, or None. That of a wrong candidate is never drawn."""
    for entry in cell.entries:
        timing = entry.timings.get(operation)
        if entry.name == name and entry.status != "rejected" and timing is not None:
            size = timing.peak_memory
            return size if size is not None and 0 < size < 2**60 else None
    return None


def names_in(run: Run, cells: Iterable[ComparedCell], operation: str) -> list[str]:
    """Return the candidates with a known peak, in the run's order."""
    pool = tuple(cells)
    return [c.name for c in run.candidates if any(peak(cell, c.name, operation) for cell in pool)]


def draw(panel: Axes, cells: Sequence[ComparedCell], known: Mapping[str, Mark], operation: str, ink: str) -> None:
    """Draw the candidates, and the size of all logits in one dotted line.

    Parameters
    ----------
    panel : Axes
    cells : sequence of ComparedCell
        From few to many classes.
    known : mapping
        Name -> its mark, for each candidate that is drawn.
    operation : str
    ink : str
        The colour of the dotted line.
    """
    for name in reversed([*known]):  # the first lies on top
        mark = known[name]
        points = [(cell.inputs.classes, size) for cell in cells if (size := peak(cell, name, operation))]
        panel.plot(
            *zip(*points, strict=True), linestyle=mark.line, color=mark.colour, marker=mark.marker,
            markerfacecolor=mark.face,
        )  # fmt: skip
    logits = [_logits(cell) for cell in cells]
    panel.plot([cell.inputs.classes for cell in cells], logits, ":", color=ink, linewidth=1.2)
    sizes = [size for cell in cells for name in known if (size := peak(cell, name, operation))] + logits
    axes.sizes(panel.xaxis, [cell.inputs.classes for cell in cells])
    axes.logarithmic(panel.yaxis, memory.size, min(sizes), max(sizes))
    panel.set(xlabel="classes", ylabel="peak memory of a call")


def _logits(cell: ComparedCell) -> int:
    return memory.array(cell.inputs.rows * cell.inputs.classes, cell.inputs.dtype)


def _groups(cells: Iterable[ComparedCell], operation: str) -> list[list[ComparedCell]]:
    """Return the cells of each number of rows and features with several numbers of classes, fewest classes first."""
    found: dict[tuple[int, int | None], list[ComparedCell]] = {}
    for cell in cells:
        if any(peak(cell, entry.name, operation) for entry in cell.entries):
            found.setdefault((cell.inputs.rows, cell.inputs.features), []).append(cell)
    ordered = [sorted(group, key=lambda cell: cell.inputs.classes) for group in found.values()]
    return [group for group in ordered if len({cell.inputs.classes for cell in group}) > 1]


def widest(run: Run) -> tuple[str, list[ComparedCell]] | None:
    """Return the operation and the cells of the group with the most numbers of classes, or None if there is none."""
    operation = operation_of(run)
    groups = [] if operation is None else [g for each in slices(run) for g in _groups(each.cells, operation)]
    return None if operation is None or not groups else (operation, max(groups, key=len))


def _picture(run: Run, title: str, cells: Sequence[ComparedCell], operation: str, number: int) -> Picture:
    all_marks = marks(run)
    known = {name: all_marks[name] for name in names_in(run, cells, operation)}
    inputs = cells[0].inputs
    with svg.style():
        drawn = svg.figure(6.4, 3.8)
        panel = drawn.subplots()
        svg.bare(panel)
        draw(panel, cells, known, operation, colour("ink"))
        axes.legend(drawn, known, known, Line2D([], [], color=colour("ink"), linestyle=":", label="all logits"))
        key = f"vocabulary-{number}"
        heading = f"Peak memory against classes: {operation}, {inputs.rows:,} rows, {inputs.features} features, {title}"
        shown = svg.inline(drawn, key, heading, _description(cells, known, operation))
    caption = (
        "Resident in one call beyond arguments and buffers, in a fresh process; lower is better. Both axes are "
        "logarithmic. Dotted: the size of all logits, which are held at once by whatever is not computed in blocks. "
        "Dashed lines with hollow marks are other libraries; their gradients are counted."
    )
    return Picture(f"figure-{key}", heading, caption, shown)


def _description(cells: Sequence[ComparedCell], names: Iterable[str], operation: str) -> str:
    said = []
    for cell in (cells[0], cells[-1]):
        each = ", ".join(f"{name} {memory.size(size)}" for name in names if (size := peak(cell, name, operation)))
        said.append(f"With {cell.inputs.classes} classes: {each}.")
    return " ".join(said)
