"""``softmax-ce show``: show the tables of a stored run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from softmax_ce_bench.report import comparison, markdown, pages, record
from softmax_ce_bench.report.printable import printable
from softmax_ce_bench.terminal.console import Refused
from softmax_ce_bench.terminal.outputs import CommandOutputs, Destination, OutputFile


@click.command(short_help="Show a stored run.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Show every figure, in a row for each candidate and operation.")
@click.option("--markdown", "markdown_file", type=OutputFile(), help="Write the tables to a Markdown file.")
@click.option("--html", "html_file", type=OutputFile(), help="Write an HTML page with pictures and tables.")
def show(file: Path, verbose: bool, markdown_file: Destination | None, html_file: Destination | None) -> None:
    """Show the tables of a record that `softmax-ce compare --json` wrote.

    If an output is named -, it goes to standard output, and the tables go to standard error.

    The exit code is 0, or 2 if FILE cannot be read or an output cannot be written.
    """
    outputs = CommandOutputs({"--markdown": markdown_file, "--html": html_file}, (file,))
    try:
        run = record.load(file)
    except record.RecordError as error:
        raise Refused(str(error)) from None
    outputs.console().print(comparison.whole(printable(run), verbose=verbose), crop=False)
    outputs.write("--markdown", partial(markdown.whole, run))
    outputs.write("--html", partial(pages.comparison, run))
    outputs.close()
