"""A profile's bytes: read with suspicion, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce.choice.profile.errors import ProfileError

MOST_BYTES = 8 << 20  # some 6000 cells of four backends; parsing them takes a second
MOST_DEPTH = 32  # a profile needs 6

# A string, closed or not: possessive and without a way to fail, so that no input takes quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)


def read_json(path: Path) -> Any:
    """Plain values from a file that nobody vouches for.

    Only a regular file of at most 8 MiB is read, never a device or a pipe, which could block. Nothing in it is
    executed. NaN, infinities, duplicate fields and deep nesting are errors.

    Raises
    ------
    ProfileError
        Without the path, which the caller knows.
    """
    try:
        data = _read_regular(path)
    except ProfileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ProfileError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if _depth(data) > MOST_DEPTH:  # before the parser, whose recursion may exhaust a stack that the user enlarged
        raise ProfileError(f"it is nested deeper than {MOST_DEPTH} levels")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(f"it is not UTF-8: byte {data[error.start]:#04x} at position {error.start}") from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except ProfileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"it is not JSON: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file so that whoever looks, at whatever moment, finds the old one or the new one, whole.

    A temporary file beside it, its data on disk, then a rename, then the rename on disk. A writer that is killed may
    leave the temporary file behind. The file gets the permissions that any new one gets (0666 less the umask).

    What is no regular file (a device, a pipe, /dev/stdout) is not replaced: the text is written to it.

    Parameters
    ----------
    path : Path
        Its folder must exist. A symbolic link stays one: what it points to is replaced.

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
    """Find out whether :func:`write_text` could write a file, by making one beside it, which is removed again.

    What is no regular file is left alone.

    Raises
    ------
    OSError
        Why it could not.
    """
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        folder, found = os.stat(path.parent), os.stat(path)
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, found.st_uid):
            raise PermissionError(errno.EPERM, "it is somebody else's file in a folder where only they replace it")
    temporary = _beside(path)
    os.close(_create(temporary))
    temporary.unlink()


def open_special(path: Path) -> int | None:
    """Open what is no regular file for writing.

    Parameters
    ----------
    path : Path
        A name such as /dev/stdout or /dev/fd/3 stands for what this process has open, at the place where that is.

    Returns
    -------
    int or None
        A descriptor, which the caller closes; None where there is a regular file, or nothing yet.

    Raises
    ------
    OSError
        It is a folder, or a pipe that nobody has open for reading: waiting for somebody might take for ever.
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
    """The number of what this process has open, where a path is a name for one, or a link to such a name."""
    own = re.compile(rf"/dev/fd|/proc/{os.getpid()}(?:/task/\d+)?/fd")
    name = os.path.abspath(path)
    for _ in range(40):  # links, at most, as the system counts them
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
    start = os.fsdecode(os.fsencode(path.name)[:100])  # a name has at most 255 bytes
    return path.with_name(f".{start}.{secrets.token_hex(8)}.part")


def _replace(temporary: Path, path: Path, data: bytes) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # It is mounted by itself, as one file of a container may be, and cannot but be written to.
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
        except BlockingIOError:  # it was opened so, or another process has made it so
            select.select([], [handle], [])


def _sync_folder(folder: Path) -> None:
    """Put a rename on disk, where the system knows how. The file is whole without it, too."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_regular(path: Path) -> bytes:
    # Asked before it is opened, since opening alone may block or act on a device; and again, since it may have changed.
    _check_regular(os.stat(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _check_regular(os.fstat(handle))
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ProfileError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return data


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise ProfileError(f"it is {kind}, not a file")
    if found.st_size > MOST_BYTES:
        raise ProfileError(f"it is larger than {MOST_BYTES >> 20} MiB ({found.st_size} bytes)")


def _depth(data: bytes) -> int:
    """How deep brackets are nested, outside strings."""
    codes = np.frombuffer(_STRING.sub(b"", data), np.uint8) | 0x20  # [ and {, ] and } differ in this bit alone
    steps = (codes == ord("{")).astype(np.int32) - (codes == ord("}"))
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProfileError("a field occurs twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ProfileError(f"{name} is not a number that JSON has")
