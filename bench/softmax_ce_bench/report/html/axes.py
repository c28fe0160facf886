"""Axes, legends and ticks that the pictures share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from softmax_ce_bench.report.html.palette import Mark


def logarithmic(axis: Axis, text: Callable[[float], str], low: float, high: float) -> None:
    """Set a logarithmic axis over a little more than the values, with ticks that read as the tables do."""
    low, high = low / 1.3, high * 1.3
    decades = math.log10(high / low)
    _span(axis, low, high)
    digits = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0, 3.0) if decades < 3.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=digits, numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _place: text(value)))
    axis.set_minor_formatter(NullFormatter())


def _span(axis: Axis, low: float, high: float) -> None:
    if axis is axis.axes.xaxis:
        axis.axes.set(xscale="log", xlim=(low, high))
    else:
        axis.axes.set(yscale="log", ylim=(low, high))


def at(axis: Axis, places: Iterable[float], texts: Iterable[str]) -> None:
    """Set ticks at given places."""
    wanted, shown = list(places), list(texts)
    axis.set_major_locator(FixedLocator(wanted))
    axis.set_major_formatter(FuncFormatter(lambda _value, place: shown[place] if place is not None else ""))
    axis.set_minor_locator(NullLocator())


def sizes(axis: Axis, values: Iterable[int]) -> None:
    """Set a logarithmic axis with a tick at each measured size, except those that would touch."""
    known = sorted(set(values))
    kept: list[int] = []
    for value in known:
        if not kept or math.log(value / kept[-1]) > math.log(known[-1] / known[0]) / 5.5:
            kept.append(value)
    _span(axis, known[0] / 1.3, known[-1] * 1.3)
    at(axis, kept, [short_count(value) for value in kept])


def short_duration(seconds: float) -> str:
    """Return a duration for a tick, with no more digits than it needs."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * unit:
            return f"{seconds / unit:,.0f} {name}" if seconds >= 1000 else f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"


def short_count(count: float) -> str:
    """Return a number of rows, classes or calls for a tick."""
    if count < 1e4:
        return f"{count:,.0f}"
    unit, name = next((unit, name) for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= unit)
    return f"{count / unit:.4g}{name}"


def short_times(ratio: float) -> str:
    """Return a ratio for a tick."""
    return f"{ratio:.3g}x"


def short_number(value: float) -> str:
    """Return a number for a tick."""
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")


def handle(mark: Mark, *, line: bool = True) -> Line2D:
    """Return the legend entry of a candidate."""
    options: dict[str, Any] = {"linestyle": mark.line if line else "none"}
    return Line2D([], [], color=mark.colour, marker=mark.marker, markerfacecolor=mark.face, label=mark.label, **options)


def legend(drawn: Figure, names: Iterable[str], marks: Mapping[str, Mark], *more: Line2D, line: bool = True) -> None:
    """Draw one legend above all panels."""
    handles = [handle(marks[name], line=line) for name in names] + list(more)
    lengths = [len(str(each.get_label())) for each in handles]
    fits = sum(lengths) * 0.075 + len(lengths) * 0.6 < drawn.get_figwidth()  # inches, about
    columns = len(handles) if fits else max(1, int(drawn.get_figwidth() / (max(lengths) * 0.075 + 0.6)))
    drawn.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.4, handletextpad=0.5)


def hidden(panel: Axes) -> None:
    """Hide a place of the grid that has no panel."""
    panel.set_visible(False)
