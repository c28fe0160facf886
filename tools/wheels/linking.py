"""What the dynamic loader looks for: only the C library, and in no folder of the building machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools.wheels.commands import run

# glibc's and musl's, which every Linux has; `libc.musl-x86_64.so.1` too.
_EVERYWHERE = re.compile(r"(libc|libm|libpthread|ld-linux[\w-]*)\.so\.\d+|libc\.so|libc\.musl-\w+\.so\.1")
_ENTRY = re.compile(r"\((NEEDED|RPATH|RUNPATH)\).*\[(.*)\]")


def faults(library: Path) -> Iterator[str]:
    """Yield each search path, and each library that not every Linux has."""
    for kind, value in _ENTRY.findall(run("readelf", "--dynamic", "--wide", library)):
        if kind != "NEEDED":
            yield f"{library.name} carries a search path of the building machine: {kind} {value}"
        elif not _EVERYWHERE.fullmatch(value):
            yield f"{library.name} needs {value}, which not every machine has"
