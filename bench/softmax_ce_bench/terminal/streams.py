"""Standard output and error that never raise. A failed write is reported once, at the end.

A full disk or a closed pipe is no reason to lose minutes of measuring, nor may it look like a verdict: Python's exit
code for an error is 1, which `diff` and `gate` give for "slower".
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Raw(io.RawIOBase):
    """The bytes of a stream. It keeps its first error and ignores all further writes."""

    def __init__(self, inner: Any, error: OSError | None = None) -> None:
        self._inner = inner
        self.error = error

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.error is None and bool(self._inner.isatty())

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def write(self, data: Any) -> int:
        with memoryview(data) as view:
            written = None
            while written is None and self.error is None:
                try:
                    written = self._inner.write(view)
                    if written is None:  # another process has made it one that does not wait
                        select.select([], [self._inner], [])
                except OSError as error:
                    self.error = error
            return view.nbytes if written is None else int(written)


@contextmanager
def guarded() -> Iterator[_Raw]:
    """Replace `sys.stdout` and `sys.stderr` by such streams, and restore them at the end.

    Characters that an encoding lacks are written as escape sequences.

    Yields
    ------
    raw
        The stream behind standard output. Once it is flushed, its `error` says why writing failed.
    """
    before = sys.stdout, sys.stderr
    raws, texts = zip(*(_guard(stream, number) for number, stream in enumerate(before, 1)), strict=True)
    sys.stdout, sys.stderr = texts
    try:
        yield raws[0]
    finally:
        for text in texts:
            with suppress(OSError, ValueError):
                text.flush()
        sys.stdout, sys.stderr = before


def is_gone(error: OSError) -> bool:
    """Return whether an error says that the reader has left, as `head` does once it has enough."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


def _guard(stream: TextIO | None, number: int) -> tuple[_Raw, TextIO]:
    if stream is None:  # closed before this process began: no file that is opened later may get its number
        handle = os.open(os.devnull, os.O_WRONLY)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)
        raw = _Raw(io.FileIO(number, "w", closefd=False), OSError(errno.EBADF, "it is closed"))
        return raw, io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    stream.flush()
    raw = _Raw(getattr(stream.buffer, "raw", stream.buffer))
    lines = bool(getattr(stream, "line_buffering", False))
    return raw, io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
