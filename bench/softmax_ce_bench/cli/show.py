"""``softmax-ce show``: show the tables of a stored run, or those of several machines side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.report import comparison, machines, markdown, pages, record
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.console import Refused
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile


@click.command(short_help="Show a stored run, or those of several machines side by side.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Show every figure, in a row for each candidate and operation.")
@click.option("--markdown", "markdown_file", type=OutputFile(), help="Write the tables to a Markdown file.")
@click.option("--html", "html_file", type=OutputFile(), help="Write an HTML page with pictures and tables.")
def show(
    files: tuple[Path, ...], verbose: bool, markdown_file: Destination | None, html_file: Destination | None
) -> None:
    """Show the tables of a record that `softmax-ce compare --json` wrote.

    With several records, from several machines, show the workloads that they share side by side. Each machine is named
    after its file. Ratios are within each machine only.

    If an output is named -, it goes to standard output, and the tables go to standard error.

    The exit code is 0, or 2 if a FILE cannot be read, the records have no workload in common, or an output cannot be
    written.
    """
    if verbose and len(files) > 1:
        raise Refused("--verbose shows every figure of one record; give one FILE")
    outputs = CommandOutputs({"--markdown": markdown_file, "--html": html_file}, files)
    try:
        runs = [record.load(file) for file in files]
        found = machines.side_by_side(dict(zip(_names(files), runs, strict=True))) if len(files) > 1 else None
    except (record.RecordError, machines.MachinesError) as error:
        raise Refused(str(error)) from None
    if found is None:
        _show_one(runs[0], outputs, verbose)
    else:
        outputs.console().print(machines.whole(printable(found)), crop=False)
        outputs.write("--markdown", partial(markdown.side_by_side, found))
        outputs.write("--html", partial(pages.machines, found))
    outputs.close()


def _show_one(run: Run, outputs: CommandOutputs, verbose: bool) -> None:
    outputs.console().print(comparison.whole(printable(run), verbose=verbose), crop=False)
    outputs.write("--markdown", partial(markdown.whole, run))
    outputs.write("--html", partial(pages.comparison, run))


def _names(files: Sequence[Path]) -> list[str]:
    """Return a name for each file: without folder and ending where that tells them apart, else with a number."""
    stems = [file.stem for file in files]
    return [stem if stems.count(stem) == 1 else f"{stem} ({k})" for k, stem in enumerate(stems, 1)]
