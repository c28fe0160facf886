"""The outputs of a command. They are checked before anything is measured, and each is written on its own."""

from __future__ import annotations

import os
import stat
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from softmax_ce.choice.profile import files
from softmax_ce_bench.report.printable import printable, text
from softmax_ce_bench.terminal.console import WIDTH, Refused, console
from softmax_ce_bench.terminal.group import ERROR

_FOR_A_PAGE = ("jinja2", "matplotlib")
_STANDARD = {1: "standard output", 2: "standard error"}


@dataclass(frozen=True, slots=True)
class Destination:
    """The name of a file as it was given, or ``-`` for standard output."""

    name: str

    @property
    def path(self) -> Path:
        """Return the path of the file. It has no meaning for standard output."""
        return Path(self.name)

    @property
    def is_stdout(self) -> bool:
        """Return whether this is standard output, under any name."""
        return self.name == "-" or files.descriptor(self.path) == 1

    def __str__(self) -> str:
        return printable(self.name)


class OutputFile(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """The name of a file to write, or ``-``."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as a :class:`Destination`."""
        if isinstance(value, Destination):
            return value
        name = os.fspath(value)
        if not name:
            self.fail("a file's name cannot be empty; - is standard output", param, ctx)
        if name.endswith(("/", os.sep)):
            self.fail(f"{printable(name)} names a folder, not a file", param, ctx)
        return Destination(name)


class CommandOutputs:
    """The outputs of a command.

    Parameters
    ----------
    wanted : mapping
        Option -> where its output goes, or None.
    read : iterable of path
        The files that the command reads, and so must not write.

    Raises
    ------
    Refused
        One cannot be written, or two are one file.
    """

    def __init__(self, wanted: Mapping[str, Destination | None], read: Iterable[Path | None] = ()) -> None:
        self._wanted = {option: where for option, where in wanted.items() if where is not None}
        self._pipes: list[int] = []  # open until the end, lest a reader take the first look for all there is
        self._failed = False
        taken = _taken(read)
        for option, where in self._wanted.items():
            if option == "--html":
                _check_page()
            if where.name != "-":
                check_folder(option, where.path)
            _check_not_taken(option, where, taken)
        for option, where in self._wanted.items():
            self._check(option, where)

    def console(self, width: int = WIDTH) -> Console:
        """Return the console for tables: standard output, unless an output goes there."""
        return console(width, stderr=any(where.is_stdout for where in self._wanted.values()))

    def write(self, option: str, make: Callable[[], str]) -> Destination | None:
        """Write one output if it is wanted, and report a failure.

        Parameters
        ----------
        option : str
        make : callable
            Makes the text.

        Returns
        -------
        Destination or None
            The place it was written to, or None if it was not written.
        """
        where = self._wanted.get(option)
        if where is None:
            return None
        try:
            self._write(where, make())
        except Exception as error:  # whatever it is, the other outputs are still to be written
            self._failed = True
            if isinstance(error, OSError):
                reason = str(error.strerror or error)
            else:
                click.echo(text(traceback.format_exc()), err=True, nl=False)
                reason = type(error).__name__
            click.echo(text(f"Error: {option} {where} was not written: {reason}"), err=True)
            return None
        return where

    def close(self) -> None:
        """Exit with 2 if an output was not written. Call this after the last output."""
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes.clear()
        if self._failed:
            sys.exit(ERROR)

    def _check(self, option: str, where: Destination) -> None:
        if where.is_stdout:
            return
        try:
            number = files.descriptor(where.path)
            if number is not None:
                _check_descriptor(number)
                return
            handle = files.open_special(where.path)
            if handle is None:
                files.check_writable(where.path)
            elif stat.S_ISFIFO(os.fstat(handle).st_mode):
                self._pipes.append(handle)
            else:
                os.close(handle)
        except OSError as error:
            raise Refused(f"{option} {where} cannot be written: {error.strerror or error}") from None

    @staticmethod
    def _write(where: Destination, made: str) -> None:
        if not where.is_stdout:
            sys.stdout.flush()  # it may be what /dev/fd/3 names, too
            files.write_text(where.path, made)
            return
        sys.stdout.flush()
        sys.stdout.buffer.write(made.encode("utf-8"))
        sys.stdout.buffer.flush()


def _check_page() -> None:
    missing = [name for name in _FOR_A_PAGE if find_spec(name) is None]
    if missing:
        raise Refused(f"--html needs {' and '.join(missing)}, not installed here: pip install 'softmax-ce[bench]'")


def check_folder(option: str, path: Path | None) -> None:
    """Refuse a file in a folder that does not exist, before anything is measured."""
    if path is not None and not path.absolute().parent.is_dir():
        raise Refused(f"{option} {path}: there is no folder {path.absolute().parent}")


def _check_descriptor(number: int) -> None:
    os.fstat(number)  # it is open
    with suppress(ImportError):  # not on Windows
        import fcntl

        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(0, "it is open for reading only")


def _taken(read: Iterable[Path | None]) -> dict[Any, str]:
    """Return the places that no output may go to, with what they are."""
    taken: dict[Any, str] = {}
    for path in read:
        if path is not None and (key := _key(Destination(os.fspath(path)))) is not None:
            taken[key] = "it is an input file"
    for number, name in _STANDARD.items():
        with suppress(OSError):
            found = os.fstat(number)
            if stat.S_ISREG(found.st_mode):
                taken[found.st_dev, found.st_ino] = f"{name} goes there"
    return taken


def _check_not_taken(option: str, where: Destination, taken: dict[Any, str]) -> None:
    key = "-" if where.is_stdout else _key(where)
    if key is None:
        return
    if key in taken:
        raise Refused(f"{option} {where}: {taken[key]}")
    taken[key] = f"{option} names the same file"


def _key(where: Destination) -> Any:
    """Return a key that is equal for two names of one file, or None for a file that several outputs may write to."""
    try:
        number = files.descriptor(where.path)
        if number == 2:  # what is written there comes after what was
            return number
        found = os.fstat(number) if number is not None else os.stat(where.path)
    except OSError:
        real = Path(os.path.realpath(where.path))
        with suppress(OSError):
            folder = os.stat(real.parent)
            return folder.st_dev, folder.st_ino, os.path.normcase(real.name)
        return real
    return None if stat.S_ISCHR(found.st_mode) else (found.st_dev, found.st_ino)
