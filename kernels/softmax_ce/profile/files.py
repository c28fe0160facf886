"""A profile's bytes: read with suspicion, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce.profile.errors import ProfileError

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

    Parameters
    ----------
    path : Path
        Its folder must exist. A symbolic link stays one: what it points to is replaced.

    Raises
    ------
    OSError
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
