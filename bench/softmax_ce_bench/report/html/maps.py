"""Maps of rows against classes: the fastest backend, and the cost of using one backend everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from softmax_ce_bench.compare.result import BACKEND, RANKED, REJECTED, ComparedCell, Run
from softmax_ce_bench.report import words
from softmax_ce_bench.report.comparison import rated
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import BINS, Mark, colour, marks, short
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import MOST_SLICES, Slice, regrets, slices

_EDGES = (0.03, 0.10, 0.30, 1.0)  # of the regret's colours
_MOST = 14  # rows or classes in a map
_MISSING = (
    "A map of rows against classes needs at least two of each: "
    "--shapes 64x10,64x1000,4096x10,4096x1000 would measure one."
)


def part(run: Run) -> PictureGroup:
    """Return the pictures, or the reason why there are none."""
    drawn = []
    wanted = [each for each in slices(run) if _is_map(each)]
    for k, each in enumerate(wanted[:MOST_SLICES]):
        drawn.append(_winners(run, each, k))
        names = _choosable(run, each)
        if len(names) > 1:
            drawn.append(_regrets(run, each, names, k))
    return PictureGroup(
        "maps", "The fastest candidate by shape, and the cost of one backend for all", drawn, "" if drawn else _MISSING
    )


def _is_map(each: Slice) -> bool:
    return all(len(set(values)) > 1 for values in _sides(each))


def _sides(each: Slice) -> tuple[list[int], list[int]]:
    return [cell.inputs.rows for cell in each.cells], [cell.inputs.classes for cell in each.cells]


def _choosable(run: Run, each: Slice) -> list[str]:
    """Return the backends that production could use: those that are ranked somewhere."""
    return [
        candidate.name
        for candidate in run.candidates
        if candidate.kind == BACKEND and candidate.stable
        and any(own.name == candidate.name and own.status == RANKED for cell in each.cells for own in cell.entries)
    ]  # fmt: skip


class _Map:
    """A grid of squares, one per shape."""

    def __init__(self, each: Slice) -> None:
        self.rows, self.classes = (sorted(set(values))[:_MOST] for values in _sides(each))
        self.cells: dict[tuple[int, int], list[ComparedCell]] = {}
        for cell in each.cells:
            if cell.inputs.rows in self.rows and cell.inputs.classes in self.classes:
                self.cells.setdefault((cell.inputs.rows, cell.inputs.classes), []).append(cell)

    def size(self, panels: int) -> tuple[float, float]:
        """Return the size of the figure in inches."""
        return panels * (0.72 * len(self.classes) + 0.25) + 0.9, 0.46 * len(self.rows) + 1.5

    def dress(self, panel: Axes, title: str, *, first: bool) -> None:
        """Draw everything except the squares."""
        svg.bare(panel)
        panel.set(xlim=(-0.5, len(self.classes) - 0.5), ylim=(-0.5, len(self.rows) - 0.5))
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        axes.at(panel.xaxis, range(len(self.classes)), [axes.short_count(value) for value in self.classes])
        axes.at(panel.yaxis, range(len(self.rows)), [axes.short_count(value) for value in self.rows])
        panel.set_title(title, loc="left")
        panel.set_xlabel("classes")
        if first:
            panel.set_ylabel("rows")
        for y in range(len(self.rows)):
            for x in range(len(self.classes)):
                if (self.rows[y], self.classes[x]) not in self.cells:
                    panel.text(x, y, "·", ha="center", va="center", color=colour("muted"))

    def place(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the place of a shape's square."""
        return self.classes.index(shape[1]), self.rows.index(shape[0])


def _square(panel: Axes, x: int, y: int, text: str, ink: str, size: float = 8.0, **options: Any) -> None:
    panel.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, **options))
    panel.text(x, y, text, ha="center", va="center", color=ink, fontsize=size, linespacing=1.05)


def _winners(run: Run, each: Slice, number: int) -> Picture:
    known = marks(run)
    grid = _Map(each)
    operations = [o for o in run.settings.operations if any(o in cell.operations for cell in each.cells)]
    said, met = [], set()
    with svg.style():
        drawn = svg.figure(*grid.size(len(operations)))
        panels = drawn.subplots(1, len(operations), sharey=True, squeeze=False)[0]
        for k, (panel, operation) in enumerate(zip(panels, operations, strict=True)):
            grid.dress(panel, operation, first=k == 0)
            for shape, cells in grid.cells.items():
                names = _fastest(cells, operation)
                met.update(names)
                _draw_winner(panel, *grid.place(shape), names, known)
                if operation == rated(run):
                    said.append(f"{shape[0]} rows, {shape[1]} classes: {words.listed(names) if names else 'none'}")
        handles = [
            Patch(facecolor=mark.colour, alpha=0.4, label=mark.label) for name, mark in known.items() if name in met
        ]
        handles.append(Patch(facecolor="none", edgecolor=colour("muted"), hatch="////", label="tie"))
        drawn.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        key, title = f"winners-{number}", f"Fastest by rows and classes: {each.title}"
        shown = svg.inline(drawn, key, title, f"Fastest in {rated(run)}. {'; '.join(said)}.")
    caption = (
        f"The fastest correct candidate. Hatched: a tie, with the names of all that tie (intervals overlap, "
        f"or the gap is below {run.settings.tie:.0%}). A dot: not measured."
    )
    return Picture(f"figure-{key}", title, caption + _several(grid), shown)


def _draw_winner(panel: Axes, x: int, y: int, names: Sequence[str], known: Mapping[str, Mark]) -> None:
    if not names:
        _square(panel, x, y, "none", colour("muted"), facecolor="none", edgecolor=colour("grid"))
        return
    first = known[names[0]].colour
    panel.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=first, alpha=0.4, linewidth=0))
    tie = {"hatch": "////", "edgecolor": colour("ink"), "alpha": 0.4} if len(names) > 1 else {"edgecolor": "none"}
    panel.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor="none", linewidth=0, **tie))
    shown = [short(name, 11) for name in names[:2]] + ([f"+{len(names) - 2}"] if len(names) > 2 else [])
    panel.text(x, y, "\n".join(shown), ha="center", va="center", fontsize=8 if len(shown) < 3 else 7, linespacing=1.0)


def _fastest(cells: Sequence[ComparedCell], operation: str) -> list[str]:
    """Return the candidates that are fastest, or tie with the fastest, in all cells of a shape."""
    found = [cell.operations[operation].fastest for cell in cells if operation in cell.operations]
    if not found:
        return []
    return [name for name in found[0] if all(name in each for each in found[1:])]


def _regrets(run: Run, each: Slice, names: Sequence[str], number: int) -> Picture:
    grid, operation = _Map(each), rated(run)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    width, height = grid.size(columns)
    said = []
    with svg.style():
        drawn = svg.figure(width, (height - 0.6) * lines + 0.6)
        panels = drawn.subplots(lines, columns, sharey=True, squeeze=False)
        for k, panel in enumerate(panels.flat):
            if k >= len(names):
                axes.hidden(panel)
                continue
            grid.dress(panel, short(names[k]), first=k % columns == 0)
            worst = []
            for shape, cells in grid.cells.items():
                found = [own for cell in cells if (own := regrets(cell, operation).get(names[k])) is not None]
                _draw_regret(panel, *grid.place(shape), found, cells, names[k])
                worst += found
            if worst:
                said.append(f"{names[k]}: {_percent(max(worst))} at worst")
        low = ("0%", *(f"{edge:.0%}" for edge in _EDGES))
        labels = [f"{low[k]} to {low[k + 1]}" if k + 1 < len(low) else f"above {low[k]}" for k in range(BINS)]
        handles = [Patch(facecolor=colour(f"bin-{k}"), edgecolor=colour("grid"), label=labels[k]) for k in range(BINS)]
        drawn.legend(
            handles=handles, loc="outside upper left", ncols=BINS, title="slower than the fastest by", alignment="left"
        )
        key, title = f"regret-{number}", f"Regret of one backend for all: {operation}, {each.title}"
        shown = svg.inline(drawn, key, title, f"Slower than the fastest. {'; '.join(said)}.")
    caption = (
        "The extra time of each backend over the fastest correct candidate: 0% if it is the "
        "fastest, 3x where it takes three times as long. "
        "wrong: rejected there. A dot: not measured."
    )
    return Picture(f"figure-{key}", title, caption + _several(grid, "; the worst of them is shown"), shown)


def _draw_regret(panel: Axes, x: int, y: int, found: Sequence[float], cells: Sequence[ComparedCell], name: str) -> None:
    if any(entry.name == name and entry.status == REJECTED for cell in cells for entry in cell.entries):
        _square(panel, x, y, "wrong", colour("warn"), facecolor="none", edgecolor=colour("warn"))
    elif found:
        worst = max(found)
        k = sum(worst >= edge for edge in _EDGES)
        _square(panel, x, y, _percent(worst), colour(f"on-bin-{k}"), facecolor=colour(f"bin-{k}"), linewidth=0)


def _percent(regret: float) -> str:
    return f"{regret:.0%}" if regret < 0.995 else f"{1 + regret:.2g}x" if regret < 99 else f"{1 + regret:.0f}x"


def _several(grid: _Map, more: str = "") -> str:
    if all(len(cells) == 1 for cells in grid.cells.values()):
        return ""
    more = more or " and name only who is fastest in all of them"
    return f" Some squares stand for several workloads of one shape{more}."
