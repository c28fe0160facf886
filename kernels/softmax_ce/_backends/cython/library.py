"""Load the extension. Faults that would kill the process, or raise an unclear error, are found before it is mapped."""

from __future__ import annotations

import struct
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    """Return the extension module with this full name.

    Raises
    ------
    ImportError
        The extension is missing, was built for another Python, or is truncated. The message says which.
    """
    folder = Path(__file__).parent
    spec = find_spec(name)
    if spec is None:
        note = folder / "build_error.txt"  # written by setup.py when the compilation failed
        if note.exists():
            raise ImportError(f"the extension was not built: {note.read_text(encoding='utf-8').strip()}")
        others = sorted(path.name for path in folder.glob(name.rpartition(".")[2] + ".*") if path.suffix in _SUFFIXES)
        if others:
            raise ImportError(f"the extension was built for another Python: {', '.join(others)}")
        raise ImportError(f"the extension is missing: no {name.rpartition('.')[2]} in {folder}")
    if spec.origin is not None and (missing := missing_bytes(Path(spec.origin))):
        raise ImportError(f"the extension is truncated: {spec.origin} lacks {missing} bytes")
    return import_module(name)


_SUFFIXES = (".so", ".pyd")


def missing_bytes(library: Path) -> int:
    """Return how many of the bytes that its program headers map an ELF file lacks.

    The system's loader does not check this: it maps the pages, and the process dies of SIGBUS at the first missing one.
    For other formats, and for files too short to have headers, the loader reports the fault itself, and this returns 0.
    """
    with library.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or not head.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
            return 0
        (table,) = struct.unpack_from("<Q", head, 32)
        entry, count = struct.unpack_from("<HH", head, 54)
        file.seek(table)
        headers = file.read(entry * count)
        size = file.seek(0, 2)
    ends = [table + entry * count]
    for at in range(0, len(headers) - 39, max(entry, 1)):
        offset, *_, length = struct.unpack_from("<4Q", headers, at + 8)
        ends.append(offset + length)
    return max(0, max(ends) - size)
