"""``softmax-ce show``: a stored run again."""

from __future__ import annotations

from pathlib import Path

import click

from softmax_ce.profile.files import write_text
from softmax_ce_bench.cli.common import Refused, check_folder, console
from softmax_ce_bench.report import comparison, markdown, record


@click.command(short_help="Show a stored run again.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="A row for each candidate and operation, with all there is.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the tables as Markdown.")  # fmt: skip
def show(file: Path, verbose: bool, markdown_file: Path | None) -> None:
    """Show the tables of FILE, a record that `softmax-ce compare --json` wrote.

    Exits with 0, or with 2 when it cannot be read.
    """
    check_folder("--markdown", markdown_file)
    try:
        run = record.load(file)
    except record.RecordError as error:
        raise Refused(str(error)) from None
    console().print(comparison.whole(run, verbose=verbose), crop=False)
    if markdown_file is not None:
        try:
            write_text(markdown_file, markdown.whole(run))
        except OSError as error:
            raise Refused(f"--markdown {markdown_file}: {error.strerror or error}") from None
