"""Read files that nobody vouches for, and write files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce.documents import DocumentError

MOST_BYTES = 8 << 20  # of a profile: some 6000 cells with four backends each, which take a second to parse
MOST_DEPTH = 32  # a record needs 9

# A string, closed or not. The pattern is possessive and cannot fail, so that no input takes quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)


def read_json(path: Path, most_bytes: int | None = None, *, pipes: bool = False) -> Any:
    """Return the plain values of an untrusted JSON file. Nothing in it is executed.

    NaN, infinities, duplicate fields and deep nesting are errors.

    Parameters
    ----------
    path : Path
    most_bytes : int, optional
        The largest size that is read; by default 8 MiB.
    pipes : bool
        Also read a pipe to its end. By default, only a regular file is read. A device is never read: it could block.

    Raises
    ------
    DocumentError
        The file cannot be used. The message says why; it does not have the path, which the caller knows.
    """
    try:
        data = _read(path, MOST_BYTES if most_bytes is None else most_bytes, pipes)
    except DocumentError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DocumentError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise DocumentError("it is empty")
    if _depth(data) > MOST_DEPTH:  # before the parser, whose recursion may overflow a stack with a raised limit
        raise DocumentError(f"it is nested deeper than {MOST_DEPTH} levels")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8: byte {data[error.start]:#04x} at position {error.start}") from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is not JSON, or not all of it is there: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: at any moment, a reader finds the whole old file or the whole new one.

    The text is written to a temporary file in the same folder and synced to disk. The file is then renamed, and the
    rename is synced. A writer that is killed may leave the temporary file behind. The file has the permissions of any
    new file (0666 less the umask).

    A device, a pipe or /dev/stdout is not replaced: the text is written to it.

    Parameters
    ----------
    path : Path
        Its folder must exist. If it is a symbolic link, the file that it points to is replaced.

    Raises
    ------
    OSError
    """
    data = text.encode("utf-8")
    handle = open_special(path)
    if handle is not None:
        try:
            _write_all(handle, data)
        finally:
            os.close(handle)
        return
    path = Path(os.path.realpath(path))
    temporary = _beside(path)
    try:
        with os.fdopen(_create(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path, data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Check that :func:`write_text` could write a file, by creating and removing one in the same folder.

    Raises
    ------
    OSError
        The file could not be written. The error says why.
    """
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        folder, found = os.stat(path.parent), os.stat(path)
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, found.st_uid):
            raise PermissionError(errno.EPERM, "it is another user's file, and in this folder only they can replace it")
    temporary = _beside(path)
    os.close(_create(temporary))
    temporary.unlink()


def open_special(path: Path) -> int | None:
    """Open a device, a pipe or an open descriptor for writing.

    Parameters
    ----------
    path : Path
        A name such as /dev/stdout or /dev/fd/3 stands for a file that this process has open, at its current position.

    Returns
    -------
    int or None
        A descriptor, which the caller must close; None if the path is a regular file or does not exist.

    Raises
    ------
    OSError
        It is a folder, or a pipe that nobody has open for reading: to wait for a reader might take forever.
    """
    number = descriptor(path)
    if number is not None:
        return os.dup(number)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    try:
        return os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            what = "a pipe that nobody reads from" if stat.S_ISFIFO(found.st_mode) else "a socket or an absent device"
            raise OSError(error.errno, f"it is {what}") from None
        raise


def descriptor(path: Path) -> int | None:
    """Return the descriptor that a path names, directly or through links, or None if it names none of this process."""
    own = re.compile(rf"/dev/fd|/proc/{os.getpid()}(?:/task/\d+)?/fd")
    name = os.path.abspath(path)
    for _ in range(40):  # the system's own limit on links
        folder, last = os.path.split(name)
        if last.isascii() and last.isdigit() and own.fullmatch(os.path.realpath(folder)):
            return int(last)
        try:
            name = os.path.normpath(os.path.join(folder, os.readlink(name)))
        except (OSError, ValueError):
            return None
    return None


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def _beside(path: Path) -> Path:
    import secrets  # here: readers do without

    start = os.fsdecode(os.fsencode(path.name)[:100])  # a name has at most 255 bytes
    return path.with_name(f".{start}.{secrets.token_hex(8)}.part")


def _replace(temporary: Path, path: Path, data: bytes) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # The file itself is a mount point, as a single file in a container may be: it can be written but not replaced.
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            _write_all(handle, data)
        finally:
            os.close(handle)
        temporary.unlink()


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(handle, left) :]
        except BlockingIOError:  # it was opened as non-blocking, or another process has made it so
            select.select([], [handle], [])


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk if the system can. The file is whole without it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(path: Path, most_bytes: int, pipes: bool) -> bytes:
    # Checked before it is opened, since opening may block or act on a device, and again after, in case it has changed.
    _check_kind(os.stat(path), most_bytes, pipes)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _check_kind(os.fstat(handle), most_bytes, pipes)
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise DocumentError(f"it is larger than {_size(most_bytes)}")
    return data


def _check_kind(found: os.stat_result, most_bytes: int, pipes: bool) -> None:
    """Check that this is a file of a size that is read, or a pipe."""
    is_pipe = stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode)
    if not (stat.S_ISREG(found.st_mode) or (pipes and is_pipe)):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device" if pipes else "a pipe, socket or device"
        raise DocumentError(f"it is {kind}, not a file")
    if found.st_size > most_bytes:
        raise DocumentError(f"it is larger than {_size(most_bytes)} ({found.st_size} bytes)")


def _size(most_bytes: int) -> str:
    return f"{most_bytes >> 20} MiB" if most_bytes >= 1 << 20 else f"{most_bytes} bytes"


def _depth(data: bytes) -> int:
    """Return how deep brackets are nested, outside strings."""
    codes = np.frombuffer(_STRING.sub(b"", data), np.uint8) | 0x20  # [ and {, ] and } differ only in this bit
    steps = (codes == ord("{")).astype(np.int32) - (codes == ord("}"))
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DocumentError("a field occurs twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise DocumentError(f"{name} is not a JSON number")
