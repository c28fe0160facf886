"""The two pictures of docs/measurements/gate.md: the ratios of two equal builds, and the power curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from softmax_ce_bench.gate.decision import CLAIM, MISSED, SLOWER
from tools.gate_credentials.summary import Summary

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "softmax-ce", "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.6, "grid.color": "#d9dde2", "legend.frameon": False,
}  # fmt: skip
_WIDEST = 0.20  # of the slowdowns drawn: beyond, all are caught
_BLUE, _RED, _ORANGE, _GREY = "#0069b4", "#b3261e", "#c2410c", "#6b7178"


def alike(summary: Summary, path: Path, caption: str) -> None:
    """Draw the histogram of the cells' median ratios in real A/A runs."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(7.5, 3.8), layout="constrained")
        panel = drawn.subplots()
        ratios = np.exp(summary.alike)
        edge = max(SLOWER - 1 + 0.02, float(np.abs(ratios - 1).max()) + 0.005)
        panel.hist(ratios, bins=np.arange(1 - edge, 1 + edge, 0.0025).tolist(), color=_BLUE)
        panel.axvline(1, color="black", linewidth=1)
        panel.axvline(SLOWER, color=_RED, linewidth=1.2, linestyle="--")
        panel.annotate(f"counts as slower\n({SLOWER:.3g})", (SLOWER, 0.95), xycoords=("data", "axes fraction"),
                       xytext=(6, 0), textcoords="offset points", ha="left", va="top", color=_RED)  # fmt: skip
        panel.set_yscale("symlog", linthresh=1)
        panel.set_ylim(0)
        panel.set_xlabel("median over the rounds of head / base, one a cell and run")
        panel.set_ylabel("cells of runs")
        panel.set_title(f"Two equal builds: {ratios.size} medians", loc="left", fontweight="bold")
        _save(drawn, path, caption)


def power(summary: Summary, path: Path, caption: str) -> None:
    """Draw the power against the slowdown: curves are resampled from A/A scatter, points are real runs of slower
    builds.
    """
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(7.5, 4.2), layout="constrained")
        panel = drawn.subplots()
        slowdowns, median, worst = (100 * np.array(values) for values in zip(*summary.curve, strict=True))
        panel.plot(slowdowns, median, color=_BLUE, label="resampled, the median cell")
        panel.plot(slowdowns, worst, color=_ORANGE, label="resampled, the worst cell")
        drawn_bins = [each for each in summary.by_slowdown if each[1] <= _WIDEST]
        for k, (least, most, rate) in enumerate(drawn_bins):
            low, high = rate.interval
            panel.errorbar(
                50 * (least + most), 100 * rate.value, xerr=50 * (most - least),
                yerr=[[100 * (rate.value - low)], [100 * (high - rate.value)]],
                fmt="o", color="black", markersize=4, capsize=3, elinewidth=1,
                label="real runs of slowed builds (95 %)" if k == 0 else None,
            )  # fmt: skip
        panel.axhline(100 * (1 - MISSED), color=_GREY, linewidth=1, linestyle=":")
        panel.axvline(100 * (CLAIM - 1), color=_GREY, linewidth=1, linestyle=":")
        panel.axvline(100 * (SLOWER - 1), color=_RED, linewidth=1.2, linestyle="--", label="counts as slower")
        panel.set_xlim(0, 100 * _WIDEST)
        panel.set_ylim(-3, 103)
        panel.set_xlabel("slowdown, %; that of real runs is measured over all of them")
        panel.set_ylabel("called slower twice, %")
        panel.set_title("How often a slower cell is caught", loc="left", fontweight="bold")
        panel.legend(loc="center right")
        _save(drawn, path, caption)


def _save(drawn: Figure, path: Path, caption: str) -> None:
    drawn.supxlabel(caption, fontsize=6.5, color=_GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, metadata={"Date": None})
