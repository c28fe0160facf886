"""Panels of speed-ups with their intervals, one line per candidate and row, side by side on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from markupsafe import Markup

from softmax_ce_bench.report.html import axes, svg
from softmax_ce_bench.report.html.palette import Mark, colour, short

Point: TypeAlias = tuple[int, str, float, float, float]  # row, candidate, median, and the ends of the interval


def picture(
    key: str, title: str, description: str, panels: Sequence[tuple[str, Sequence[Point]]], rows: Sequence[str],
    names: Sequence[str], known: Mapping[str, Mark], *, width: float, xlabel: str = "",
) -> Markup:  # fmt: skip
    """Return the drawing.

    Parameters
    ----------
    key, title, description : str
        As for :func:`softmax_ce_bench.report.html.svg.inline`.
    panels : sequence of (str, sequence of Point)
        The title and the points of each.
    rows : sequence of str
        The label of each row.
    names : sequence of str
        The candidates, in the order of their lines in a row.
    known : mapping
        Candidate -> mark.
    width : float
        In inches.
    xlabel : str
    """
    step = 0.8 / len(names)
    values = [value for _, points in panels for _, _, *each in points for value in each] + [1.0]
    with svg.style():
        height = 1.2 + len(rows) * max(0.34, 0.115 * len(names) + 0.06)
        drawn = svg.figure(width, height)
        places = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, (heading, points) in zip(places, panels, strict=True):
            svg.bare(panel)
            for k in range(0, len(rows), 2):
                panel.axhspan(k - 0.5, k + 0.5, color=colour("band"), linewidth=0, zorder=0)
            panel.axvline(1.0, color=colour("ink"), linewidth=1)
            for k, name, median, low, high in points:
                mark, y = known[name], k - 0.4 + step * (names.index(name) + 0.5)
                panel.plot([low, high], [y, y], "-", color=mark.colour, linewidth=1.6)
                panel.plot(median, y, mark.marker, color=mark.colour, markerfacecolor=mark.face, markersize=4.5)
            axes.logarithmic(panel.xaxis, axes.short_times, min(values), max(values))
            panel.grid(visible=False, axis="y")
            panel.set_title(heading, loc="left")
            panel.set_xlabel(xlabel)
        axes.at(places[0].yaxis, range(len(rows)), [short(row, 40) for row in rows])
        places[0].set_ylim(len(rows) - 0.5, -0.5)
        axes.legend(drawn, names, known, line=False)
        return svg.inline(drawn, key, title, description)
