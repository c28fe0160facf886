"""The page, put together by a template that escapes every string."""

from __future__ import annotations

import shlex

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report import comparison, templates, words
from softmax_ce_bench.report.html import assets, curves, errors, findings, maps, speedups, starts, tables, vocabulary
from softmax_ce_bench.report.html.picture import PictureGroup
from softmax_ce_bench.report.printable import printable


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
    return templates.load(assets.HERE / "page.html.jinja").render(
        **assets.style_and_script(),
        run=run,
        operation=comparison.rated(run),
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
    of_layer = vocabulary.part(run)
    return [
        curves.part(run), speedups.part(run), maps.part(run), errors.part(run), *([of_layer] if of_layer else []),
        starts.memory_part(run), starts.cold_part(run),
    ]  # fmt: skip
