"""Error against time, which sets fast but wrong candidates apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.axes import Axes

from softmax_ce_bench.compare.result import REJECTED, Run
from softmax_ce_bench.report import words
from softmax_ce_bench.report.comparison import rated
from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import colour, marks, short
from softmax_ce_bench.report.html.picture import Picture, PictureGroup
from softmax_ce_bench.report.html.selection import can_be_drawn, timing

_TITLE = "Accuracy against time"


@dataclass(frozen=True, slots=True)
class _Point:
    """A candidate in one cell. `slower` is its time over the fastest time there, or None if it was not timed."""

    name: str
    error: float
    slower: float | None


def part(run: Run) -> PictureGroup:
    """Return the picture, or the reason why there is none."""
    found = _points(run)
    if not found:
        return PictureGroup(
            "accuracy", _TITLE, (), "No errors were measured: a longer --time-budget leaves time for them."
        )
    known, operation = marks(run), rated(run)
    names = [candidate.name for candidate in run.candidates if any(point.name == candidate.name for point in found)]
    wrong = [name for name in names if any(p.name == name and p.slower is None for p in found)]
    times = [point.slower for point in found if point.slower is not None] or [1.0]
    finite = [point.error for point in found if can_be_drawn(point.error)] + [1.0]
    low, high = min(finite), max(finite)
    top = high * 10 ** (0.12 * max(1.0, math.log10(high / low)) + 0.3)  # where infinite errors are drawn
    has_infinite = any(math.isinf(point.error) for point in found)
    with svg.style():
        share = 0.35 + 0.75 * len(wrong)
        drawn = svg.figure(5.4 + share, 4.2)
        widths = [5.0, share] if wrong else [1.0]
        panels = drawn.subplots(1, 1 + bool(wrong), squeeze=False, sharey=True, width_ratios=widths)[0]
        main = panels[0]
        for panel in panels:
            svg.bare(panel)
            panel.axhline(1.0, color=colour("warn"), linewidth=1.2)
        axes.logarithmic(main.xaxis, axes.short_times, min(times), max(times))
        axes.logarithmic(main.yaxis, axes.short_number, low, top if has_infinite else high)
        for point in found:
            mark = known[point.name]
            y = top if math.isinf(point.error) else min(max(point.error, low), high)
            panel = main if point.slower is not None else panels[-1]
            x = point.slower if point.slower is not None else wrong.index(point.name)
            look = {"markerfacecolor": mark.face, "alpha": 0.85, "markersize": 5.5, "clip_on": False}
            panel.plot(x, y, mark.marker, color=mark.colour, **look)
        main.set_xlabel(f"time of {operation} over the fastest's on the same workload")
        main.set_ylabel("worst error over its bound")
        if has_infinite:
            main.axhline(top, color=colour("grid"), linewidth=0.8)
            main.annotate(
                "infinite or NaN", (0, top), xycoords=("axes fraction", "data"), xytext=(3, 3),
                textcoords="offset points", fontsize=8, color=colour("muted"),
            )  # fmt: skip
        main.annotate(
            "the bound", (1, 1), xycoords=("axes fraction", "data"), xytext=(-3, 3), textcoords="offset points",
            fontsize=8, ha="right", color=colour("warn"),
        )  # fmt: skip
        if wrong:
            _dress_wrong(panels[-1], found, wrong)
        axes.legend(drawn, names, known, line=False)
        shown = svg.inline(drawn, "accuracy", _TITLE, _description(found, names))
    caption = (
        "Each mark is one candidate on one workload; left is faster, lower is more accurate. A backend is "
        "correct up to 1. Other libraries have no known bound and are compared with that of a plain kernel."
    )
    if wrong:
        caption += " At the right are results so wrong that they were not timed: rejected, whatever their speed."
    return PictureGroup("accuracy", _TITLE, [Picture("figure-accuracy", _TITLE, caption, shown)])


def _dress_wrong(panel: Axes, found: list[_Point], wrong: list[str]) -> None:
    counts = [sum(p.name == name and p.slower is None for p in found) for name in wrong]
    axes.at(
        panel.xaxis, range(len(wrong)), [f"{short(name, 10)}\n{n} times" for name, n in zip(wrong, counts, strict=True)]
    )
    panel.set_xlim(-0.6, len(wrong) - 0.4)
    panel.grid(visible=False, axis="x")
    panel.set_title("rejected", loc="left", color=colour("warn"))
    panel.tick_params(left=False, labelleft=False)


def _points(run: Run) -> list[_Point]:
    operation = rated(run)
    found = []
    for cell in run.cells:
        if not cell.telling_rows:
            continue
        timed = {entry.name: timing(cell, entry.name, operation) for entry in cell.entries}
        ranked = [own.time.median for own in timed.values() if own is not None]
        for entry in cell.entries:
            own = timed[entry.name]
            if entry.errors is None or (own is None and entry.status != REJECTED):
                continue
            slower = own.time.median / min(ranked) if own is not None else None
            if slower is None or can_be_drawn(slower):
                found.append(_Point(entry.name, entry.errors.over_bound, slower))
    return found


def _description(found: list[_Point], names: list[str]) -> str:
    said = []
    for name in names:
        right = [point.error for point in found if point.name == name and point.slower is not None]
        rejected = sum(point.name == name and point.slower is None for point in found)
        at_most = f"at most {words.number(max(right))} of the bound" if right else ""
        wrong = f"rejected on {rejected} workloads" if rejected else ""
        said.append(f"{name}: {', '.join(filter(None, (at_most, wrong)))}")
    return f"{'; '.join(said)}."
