"""The console, errors in one line, and the choice of backends."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

import softmax_ce as sce
from softmax_ce_bench.report.printable import text
from softmax_ce_bench.terminal.group import INTERRUPTED

WIDTH = 100  # of tables in a file or a pipe
_WIDTH_OF_NONE = 80  # where COLUMNS is 0
_NARROWEST, _WIDEST = 40, 10_000  # in less, a table has columns that nothing is seen of


class Refused(click.ClickException):
    """A request cannot be met. The message is one line and says why."""

    exit_code = 2


def console(width: int = WIDTH, *, stderr: bool = False) -> Console:
    """Return standard output or standard error as a console. In a pipe or a file it is as wide as COLUMNS says, or
    `width`.

    Characters that a terminal would obey are shown as escape sequences.
    """
    stream = sys.stderr if stderr else sys.stdout
    columns = _columns() or (None if stream.isatty() else width)
    # Without what rich would read itself: it takes 0 as it stands, and fails on digits such as a superscript.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    made = Console(stderr=stderr, width=columns, highlight=False, soft_wrap=False, _environ=environment)
    made.push_render_hook(_Escaping())
    return made


def _columns() -> int | None:
    """Return the width that COLUMNS asks for, or None."""
    asked = os.environ.get("COLUMNS", "")
    if not re.fullmatch(r"[0-9]{1,9}", asked):  # longer ones are no widths either
        return None
    return min(max(int(asked), _NARROWEST), _WIDEST) if int(asked) else _WIDTH_OF_NONE


class _Escaping(RenderHook):
    """Escapes control characters in what a console prints."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap each object."""
        return [_Escaped(each) for each in renderables]


class _Escaped:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _escaped(console.render(self._inner, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment if segment.control else Segment(text(segment.text), segment.style)


def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the backends that were asked for, each once, or all available ones."""
    if not names:
        return tuple(info.name for info in sce.backends() if info.available)
    for name in names:
        try:
            sce.get_backend(name)
        except (ValueError, sce.BackendUnavailableError) as error:
            raise Refused(str(error)) from None
    return tuple(dict.fromkeys(names))


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """On Ctrl-C, print a message and exit as a shell expects."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted. {message}", err=True)
        sys.exit(INTERRUPTED)
