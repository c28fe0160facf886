"""HTML pages. The modules that make them are imported when needed, since Matplotlib takes a while to load."""

from __future__ import annotations

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report.machines import SideBySide


def comparison(run: Run) -> str:
    """Return a comparison as an HTML page."""
    from softmax_ce_bench.report import html

    return html.page(run)


def machines(found: SideBySide) -> str:
    """Return the records of several machines as an HTML page."""
    from softmax_ce_bench.report import html

    return html.machines_page(found)
