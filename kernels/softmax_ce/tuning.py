"""Sizes that kernels adapt to: the caches that the machine reports, and what was measured for each instruction set.

The one place for them: the compiled backend is given its thresholds when it is loaded, and the Numba backend reads the
same. No result depends on them, only the time that it takes.

Two kinds of CPU were measured, float32, fused: Zen 5 (AVX-512; 1 MiB of L2 a core, 32 MiB of L3) and Zen 3 (AVX2;
512 KiB, 32 MiB). `docs/measurements/performance.md` has the figures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from softmax_ce.variables import whole_number, word

_KIB, _MIB = 1 << 10, 1 << 20
_CPU0 = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Caches:
    """Bytes of the data caches that one CPU can use.

    Attributes
    ----------
    level2, level3 : int
        The second level, and the last one that several CPUs share (or the second again where there is none).
    """

    level2: int
    level3: int


USUAL_CACHES = Caches(512 * _KIB, 8 * _MIB)  # where the system says nothing, or what cannot be


@dataclass(frozen=True, slots=True)
class Tuning:
    """Thresholds of one instruction set.

    Attributes
    ----------
    keep_bytes : int
        A row's exponentials are kept for its gradient up to this size, and computed again beyond it.
    stream_bytes : int
        A gradient of at least this size is written past the caches.
    shared_stream_bytes : int
        The same where threads share rows.
    serial_elements : int
        Logits below which two threads take longer than one.
    """

    keep_bytes: int
    stream_bytes: int
    shared_stream_bytes: int
    serial_elements: int


def for_isa(name: str, caches: Caches | None = None) -> Tuning:
    """The thresholds for an instruction set, on a machine with these caches.

    Parameters
    ----------
    name : str
        As the compiled backend calls it; an unknown one is taken for the baseline.
    caches : Caches, optional
        None: this machine's.

    Returns
    -------
    Tuning
    """
    caches = caches or machine_caches()
    if name == "avx512":
        return Tuning(
            # Arithmetic is plentiful: moving an exponential between L1 and L2 took longer than computing it again.
            keep_bytes=8 * _KIB,
            # Writing to L3 took up to 1.7 times as long as past it.
            stream_bytes=2 * caches.level2,
            # Two threads that share rows wrote 2 to 16 MB to the caches in 0.8 to 0.95 of the time past them, and 32 MB
            # in 1.07.
            shared_stream_bytes=caches.level3,
            serial_elements=500_000,  # 130 us on one thread, as on two
        )
    # Arithmetic is short: kept in L3, rows of 128256 classes take 0.70 of the time, and those of 32000 in L2 0.55.
    # Gradients that fit into L3 beside their logits were written to it in 0.93 to 0.98 of the time past it.
    return Tuning(
        keep_bytes=caches.level3 // 8,
        stream_bytes=caches.level3 // 2,
        shared_stream_bytes=caches.level3,
        # Two threads took this much of one thread's time, elements being counted with 24 more a row: rows of 10 classes
        # 1.20 for 218 000 and 0.85 for 435 000; of 100 classes 1.07 for 79 000 and 0.76 for 310 000; of 1000 classes
        # 0.99 for 131 000 and 0.84 for 256 000; of 32000 classes 1.06 for 128 000 and 0.95 for 224 000.
        serial_elements=250_000,
    )


@functools.cache
def machine_caches(folder: Path = _CPU0) -> Caches:
    """What the system reports of the first CPU's caches; what is missing or cannot be is taken to be usual.

    Parameters
    ----------
    folder : Path
        Where Linux describes them; elsewhere there is no such folder.

    Returns
    -------
    Caches
    """
    sizes: dict[int, int] = {}
    for cache in folder.glob("index*"):
        try:
            level = int((cache / "level").read_text())
            if (cache / "type").read_text().strip() != "Instruction":
                sizes[level] = max(sizes.get(level, 0), _bytes((cache / "size").read_text().strip()))
        except (OSError, ValueError):
            continue
    level2 = sizes.get(2, 0)
    if not 64 * _KIB <= level2 <= 64 * _MIB:
        level2 = USUAL_CACHES.level2
    level3 = max((size for level, size in sizes.items() if level > 2), default=level2)
    if not level2 <= level3 <= 4096 * _MIB:
        level3 = max(level2, USUAL_CACHES.level3)
    return Caches(level2, level3)


def stream_bytes_asked_for() -> int | None:
    """SOFTMAX_CE_STREAM_BYTES, which is there for tests: the size from which on a gradient goes past the caches.

    Returns
    -------
    int or None
        None where it is unset or empty; with a warning, where it is not a number.
    """
    name = "SOFTMAX_CE_STREAM_BYTES"
    asked = whole_number(name, word(name), "the default number of bytes is used")
    return None if asked is None else max(1, asked)


def _bytes(text: str) -> int:
    """A size as Linux writes it, such as 512K."""
    factor = {"K": _KIB, "M": _MIB, "G": 1024 * _MIB}.get(text[-1:])
    return int(text[:-1]) * factor if factor else int(text)
