"""Matplotlib's figures as SVG in a page. Text stays text, colours are the page's, and equal input gives equal bytes."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softmax_ce_bench.report.html.palette import colour, in_css

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text can be read aloud, found and copied
    "svg.hashsalt": "softmax-ce",  # ids are drawn from it: without, two runs would differ
    "text.parse_math": False,  # a name may hold $
    "axes.unicode_minus": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
}


@contextmanager
def style() -> Iterator[None]:
    """Let Matplotlib draw in the style of the page for a while, whatever the user's settings are."""
    ink, muted, grid = colour("ink"), colour("muted"), colour("grid")
    inks: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), ink
    )
    lines: dict[Any, Any] = {"axes.edgecolor": muted, "xtick.color": muted, "ytick.color": muted, "grid.color": grid}
    with mpl.rc_context(), warnings.catch_warnings():
        # A name in letters that Matplotlib's font lacks is laid out by guess, and drawn by the reader's browser.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, **inks, **lines})
        yield


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def bare(axes: Axes) -> None:
    """Leave the background to the page."""
    axes.set_facecolor("none")


def inline(drawn: Figure, key: str, title: str, description: str) -> Markup:
    """Return a figure as an <svg> element.

    Parameters
    ----------
    drawn : Figure
    key : str
        Put before every id, which must be unique in the page.
    title, description : str
        The text for readers who do not see the picture.
    """
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) == "metadata":
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): _owned(_local(name), value, key) for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    width = float(drawn.get_figwidth()) * 96
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({
        "role": "img", "aria-labelledby": f"{key}-title {key}-description",
        "style": f"max-width:{width:.0f}px;min-width:{min(width, max(480, 0.75 * width)):.0f}px",
    })  # fmt: skip
    for place, (name, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(name, {"id": f"{key}-{'title' if name == 'title' else 'description'}"})
        element.text = text
        root.insert(place, element)
    return Markup(in_css(ET.tostring(root, encoding="unicode")))  # ElementTree has escaped it


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _owned(name: str, value: str, key: str) -> str:
    """Return the value of an attribute with its ids made unique to the figure."""
    if name == "id":
        return f"{key}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{key}-{value[1:]}"
    return value.replace("url(#", f"url(#{key}-")
