"""``softmax-ce show``: a stored run again."""

from __future__ import annotations

from pathlib import Path

import click

from softmax_ce_bench.cli.common import Refused, as_page, check_folder, check_page, console, write
from softmax_ce_bench.report import comparison, markdown, record


@click.command(short_help="Show a stored run again.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="A row for each candidate and operation, with all there is.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the tables as Markdown.")  # fmt: skip
@click.option("--html", "html_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a page with pictures and tables.")  # fmt: skip
def show(file: Path, verbose: bool, markdown_file: Path | None, html_file: Path | None) -> None:
    """Show the tables of FILE, a record that `softmax-ce compare --json` wrote.

    Exits with 0, or with 2 when it cannot be read.
    """
    check_folder("--markdown", markdown_file)
    check_page(html_file)
    try:
        run = record.load(file)
    except record.RecordError as error:
        raise Refused(str(error)) from None
    console().print(comparison.whole(run, verbose=verbose), crop=False)
    for option, path, made in (("--markdown", markdown_file, markdown.whole), ("--html", html_file, as_page)):
        if path is not None:
            write(option, path, made(run))
