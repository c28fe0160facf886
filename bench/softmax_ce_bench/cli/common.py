"""What the commands share: the console, progress, errors in one line, and which backends were asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import softmax_ce as sce
from softmax_ce_bench.compare.model import Run

WIDTH = 100  # of tables in a file or a pipe
_FOR_A_PAGE = ("jinja2", "matplotlib")
INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Refused(click.ClickException):
    """What was asked for cannot be done; one line says why."""

    exit_code = 2


def console() -> Console:
    """Standard output. In a pipe or a file it is as wide as COLUMNS says, else `WIDTH`."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH if piped else None, highlight=False, soft_wrap=False)


def progress(shown_on: Console) -> Progress:
    """A bar that is drawn when it is told to; nothing in a pipe. The field `left` says how long it will take."""
    return Progress(
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
        console=shown_on,
        transient=True,
        auto_refresh=False,  # else a thread would draw in the middle of what is being timed
        disable=not shown_on.is_terminal,
    )


def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """The backends asked for, each once; without any, all that are available."""
    if not names:
        return tuple(info.name for info in sce.backends() if info.available)
    for name in names:
        try:
            sce.get_backend(name)
        except (ValueError, sce.BackendUnavailableError) as error:
            raise Refused(str(error)) from None
    return tuple(dict.fromkeys(names))


def check_folder(option: str, path: Path | None) -> None:
    """Refuse a file in a folder that is not there, before anything is measured for it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise Refused(f"{option} {path}: there is no folder {path.absolute().parent}")


def check_page(path: Path | None) -> None:
    """Refuse --html before anything is measured for it, where it could not be written."""
    check_folder("--html", path)
    missing = [name for name in _FOR_A_PAGE if path is not None and find_spec(name) is None]
    if missing:
        raise Refused(f"--html needs {' and '.join(missing)}, not installed here: pip install 'softmax-ce[bench]'")


def as_page(run: Run) -> str:
    """A run as an HTML page."""
    from softmax_ce_bench.report import html  # here: Matplotlib takes a while, and is not needed for anything else

    return html.page(run)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """On Ctrl-C, say so and exit as a shell expects."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted. {message}", err=True)
        sys.exit(INTERRUPTED)
