"""What a search leaves behind however its process ends: its progress, the current case, and its outcome."""

from __future__ import annotations

import json
import mmap
import os
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.fuzz.explore import Failure, Outcome

_HEADER = struct.Struct("<qI")  # cases begun; the length of the one in hand
_ROOM = 1 << 16  # bytes; cases are descriptions of a few hundred
_OUTCOME = "outcome.json"


class Progress:
    """A memory-mapped file. What was written to it stays if the process dies.

    Parameters
    ----------
    folder : Path
        The folder of the file, which is made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "progress"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(handle).st_size < _ROOM:
                os.ftruncate(handle, _ROOM)
            self._file = mmap.mmap(handle, _ROOM)
        finally:
            os.close(handle)

    def begin(self, case: Any) -> None:
        """Record the case that is about to be tried."""
        text = json.dumps(case).encode()
        if len(text) > _ROOM - _HEADER.size:
            raise ValueError(f"a case of {len(text)} bytes; there is room for {_ROOM}")
        begun = _HEADER.unpack_from(self._file)[0]
        self._file[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(self._file, 0, begun + 1, len(text))

    @property
    def begun(self) -> int:
        """Return the number of cases that were started."""
        return int(_HEADER.unpack_from(self._file)[0])

    def case(self) -> Any:
        """Return the current case, or None before the first."""
        _, length = _HEADER.unpack_from(self._file)
        text = bytes(self._file[_HEADER.size : _HEADER.size + length])
        return json.loads(text) if text else None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Save the outcome of a search that has ended."""
    (folder / _OUTCOME).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def read_outcome(folder: Path) -> Outcome | None:
    """Return the saved outcome, or None if the process died before."""
    path = folder / _OUTCOME
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(found["executions"], found["failure"] and Failure(**found["failure"]))
