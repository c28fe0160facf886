"""The style of figures that are written to files."""

from __future__ import annotations

from typing import Any

# Okabe and Ito: told apart with any colour vision; each line has a marker of its own besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000", "#7F3C8D")
MARKERS = "osD^vP*Xh"
GREY = "#444444"


def style(size: float) -> dict[Any, Any]:
    """Return Matplotlib's settings for a font size in points."""
    return {
        "font.size": size,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#dddddd",
        "svg.fonttype": "path",
        "svg.hashsalt": "softmax-ce",  # ids are drawn from it: without, two runs would differ
    }


def line(k: int) -> dict[str, str]:
    """Return the colour and the marker of the k-th line."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
