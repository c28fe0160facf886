"""The page, put together by a template that escapes every string."""

from __future__ import annotations

import base64
import hashlib
import shlex
from pathlib import Path

from markupsafe import Markup

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report import comparison, templates, words
from softmax_ce_bench.report.html import curves, errors, findings, maps, speedups, starts, tables
from softmax_ce_bench.report.html.picture import PictureGroup
from softmax_ce_bench.report.printable import printable

_HERE = Path(__file__).parent


def page(run: Run) -> str:
    """Return a run as one HTML page.

    Parameters
    ----------
    run : Run
        With one cell at least.

    Returns
    -------
    str
        The same for the same run.
    """
    run = printable(run)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return templates.load(_HERE / "page.html.jinja").render(
        run=run,
        operation=comparison.rated(run),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        warning=words.verdict(run),
        findings=findings.findings(run),
        each_cell=[(words.label(run, cell), words.finding(cell, run.settings.base)) for cell in run.cells],
        missing=comparison.missing_lines(run),
        parts=parts(run),
        tables=tables.everything(run),
        measured_with=words.figure_line(run),
        provenance=[line.strip() for line in words.provenance(run)],
        command=shlex.join(("softmax-ce", *run.command)),
    )


def parts(run: Run) -> list[PictureGroup]:
    """Return all pictures, or the option that measures what they need."""
    return [
        curves.part(run), speedups.part(run), maps.part(run), errors.part(run), starts.memory_part(run),
        starts.cold_part(run),
    ]  # fmt: skip
