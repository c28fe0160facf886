"""What the commands share: the console, files, errors in one line, and which backends were asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

import softmax_ce as sce
from softmax_ce.profile.files import write_text
from softmax_ce_bench.compare.model import Run

WIDTH = 100  # of tables in a file or a pipe
_FOR_A_PAGE = ("jinja2", "matplotlib")
INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Refused(click.ClickException):
    """What was asked for cannot be done; one line says why."""

    exit_code = 2


def console(width: int = WIDTH) -> Console:
    """Standard output. In a pipe or a file it is as wide as COLUMNS says, else `width`."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=width if piped else None, highlight=False, soft_wrap=False)


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


def write(option: str, path: Path, text: str) -> None:
    """Write a file, wholly or not at all."""
    try:
        write_text(path, text)
    except OSError as error:
        raise Refused(f"{option} {path}: {error.strerror or error}") from None


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
