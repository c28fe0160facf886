"""Estimates of the memory that a cell needs and that is available, made before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_MIB = 1 << 20
_SPARE = 256 * _MIB  # for interpreters, libraries and the checks
_OF_A_PEER = 5  # logits, log-probabilities, gradient and two temporaries


def array(elements: int, dtype: str) -> int:
    """Return the number of bytes of an array with so many logits."""
    return elements * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)


def needed(elements: int, dtype: str, *, soft: bool = False, more: int = 0) -> int:
    """Return the number of bytes that a cell needs in this process.

    These are logits, gradient, soft targets, so many more arrays of their size, and the float32 numbers that become
    them.
    """
    return array(elements, dtype) * ((3 if soft else 2) + more) + 4 * elements * (2 if soft else 1) + _SPARE


def needed_by_peer(elements: int, dtype: str) -> int:
    """Return the number of bytes that a peer's process needs."""
    return _OF_A_PEER * array(elements, dtype) + 4 * elements + 2 * _SPARE


def available(meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the number of bytes available on the machine and within the container's limit, or None if unknown."""
    found = [free for free in (_machine(meminfo), _container(groups)) if free is not None]
    return min(found, default=None)


def _machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container(groups: Path) -> int | None:
    for limit, used, statistics in (
        (groups / "memory.max", groups / "memory.current", groups / "memory.stat"),
        (
            groups / "memory/memory.limit_in_bytes",
            groups / "memory/memory.usage_in_bytes",
            groups / "memory/memory.stat",
        ),
    ):
        try:
            left = int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii"))
            lines = statistics.read_text(encoding="ascii").splitlines()
            cached = dict(line.split() for line in lines).get("inactive_file", "0")
            return max(0, left + int(cached))  # cached files count as used, and make room
        except (OSError, ValueError):  # "max": without a limit
            continue
    return None


def size(count: float) -> str:
    """Return a number of bytes as text, with three digits and a unit.

    Examples
    --------
    >>> size(823_422_976), size(1024)
    ('823 MB', '1.02 kB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.9995 * unit:
            return f"{float(f'{count / unit:.3g}'):g} {name}"
    return f"{count:.0f} B"
