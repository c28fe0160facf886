"""Draw the main cells over the commits, each step with its size."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: no display is needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

import softmax_ce as sce
from softmax_ce_bench.report import figures
from tools.history.results import History, HistoryError, Series
from tools.history.steps import steps

# Title, benchmark, shape as asv has it, and what a value is divided by to be the y axis's unit.
_PANELS = (
    ("One prediction, 1 × 10", "time_hundred_calls", "tiny, 1 x 10", 100e-6, "µs a call"),
    ("Boosting, 4096 × 10", "InCache.time_call", "boosting, 4096 x 10", 4096e-8, "ns an element"),
    ("Vision, 64 × 1000", "InCache.time_call", "vision, 64 x 1000", 64e-6, "ns an element"),
    ("Language model, 4 × 32000", "InCache.time_call", "language model, 4 x 32000", 128e-6, "ns an element"),
    ("Language model, 320 × 32000, two threads", "time_two_threads", "language model, 320 x 32000", 10.24e-3,
     "ns an element"),
    ("Boosting, 1000000 × 10", "BeyondCaches.time_call", "boosting, 1000000 x 10", 10e-3, "ns an element"),
    ("Vision, 10000 × 1000", "BeyondCaches.time_call", "vision, 10000 x 1000", 10e-3, "ns an element"),
    ("Language model, 320 × 32000", "BeyondCaches.time_call", "language model, 320 x 32000", 10.24e-3, "ns an element"),
)  # fmt: skip


def main_cells(history: History, backend: str) -> list[Series]:
    """Return a backend's series for each panel of the figure: fused, float32.

    Raises
    ------
    HistoryError
        The suite has other cells than this was written for.
    """
    found = []
    for _title, benchmark, shape, _unit, _label in _PANELS:
        params = {"backend": backend, "shape": shape}
        if benchmark != "time_two_threads":
            params |= {"operation": "fused", "dtype": "float32"}
        found.append(history.find(benchmark, **params))
    return found


def draw(history: History, path: Path) -> None:
    """Write the figure. The suffix of the file names the format.

    Parameters
    ----------
    history : History
    path : Path
    """
    with plt.rc_context(figures.style(9)):
        figure = _figure(history)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
        plt.close(figure)


def _figure(history: History) -> Figure:
    figure, grid = plt.subplots(2, 4, figsize=(15, 7.6), layout="constrained", sharex=True)
    where = range(len(history.commits))
    for k, info in enumerate(info for info in sce.backends() if info.stable):
        try:
            cells = main_cells(history, info.name)
        except HistoryError:
            continue  # a backend that was added after these commits were measured
        for axes, (_title, _benchmark, _shape, unit, _label), series in zip(grid.flat, _PANELS, cells, strict=True):
            _line(axes, series, unit, info.name, k)
    for axes, (title, _benchmark, _shape, _unit, label) in zip(grid.flat, _PANELS, strict=True):
        axes.set(title=title, yscale="log")
        axes.set_ylabel(label)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xticks(where, [commit.hash[:7] for commit in history.commits], rotation=90, family="monospace")
        axes.margins(y=0.12)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    figure.suptitle("Fused loss and gradient, float32, over the commits; upper row within the caches", x=0.35)
    figure.supxlabel(textwrap.fill(caption(history), 190), fontsize=8, color=figures.GREY)
    return figure


def _line(axes: Any, series: Series, unit: float, name: str, k: int) -> None:
    points = [(j, value / unit) for j, value in enumerate(series.values) if value is not None]
    if not points:
        return
    look = figures.line(k)
    x, y = zip(*points, strict=True)
    axes.plot(x, y, label=name, **look, markersize=4, linewidth=1.4)
    bands = [(j, low / unit, high / unit) for j, (low, high) in enumerate(zip(series.low, series.high, strict=True))
             if low is not None and high is not None]  # fmt: skip
    if bands:
        axes.fill_between(*zip(*bands, strict=True), color=look["color"], alpha=0.25, linewidth=0)
    for step in steps(series):
        at = step.after / unit
        axes.annotate(f"{step.ratio - 1:+.0%}", (step.commit, at), (3, 5), textcoords="offset points", fontsize=7.5,
                      color=look["color"])  # fmt: skip


def caption(history: History) -> str:
    """Return machine, versions, date and the meaning of a point, in one line."""
    machine, when = history.machine, sorted(commit.measured for commit in history.commits)
    versions = ", ".join(f"{'Python' if name == 'python' else name} {v}" for name, v in history.environment.items())
    system = machine.get("os", "").partition("-")[0]  # without the distribution's own numbering
    dates = " to ".join(dict.fromkeys(f"{moment:%Y-%m-%d}" for moment in (when[0], when[-1])))
    return (
        f"{machine.get('cpu', '')}, {machine.get('num_cpu', '?')} CPUs, {system}; {versions}; {dates}; "
        f"one thread unless two are named. Points: asv's medians, bands: their 99 % intervals, "
        f"numbers: steps that asv's detector finds."
    )
