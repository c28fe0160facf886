"""What the package knows about caches: their sizes, and the blocks and thresholds that follow from them.

The compiled backend gets its thresholds when it is loaded, and the Numba backend reads the same ones. The C sources
have constants of their own, in `_backends/cython/sizes.h`. Only the time of a call depends on these, never its result.

Two kinds of CPU were measured, with fused calls in float32: Zen 5 (AVX-512; 1 MiB of L2 for each core, 32 MiB of L3)
and Zen 3 (AVX2; 512 KiB, 32 MiB). The figures are in `docs/measurements/performance.md`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from softmax_ce.variables import whole_number, word

_KIB, _MIB = 1 << 10, 1 << 20
_CPU0 = Path("/sys/devices/system/cpu/cpu0/cache")

LINE_BYTES = 64

# Elements of a block that stays in L2 with two others of its size, such as staged logits, targets and gradient.
STAGED_ELEMENTS = 1 << 16

# Elements of a block in the NumPy backend. A block takes some forty NumPy calls. Each costs 1 or 2 us once the elements
# fill the inner caches, where an element costs 2 ns. Measured with 512 KiB of L2, relative to this size: blocks of 32 K
# elements took 1.2 to 1.4 times as long, 64 K 1.1 to 1.15 times, 128 K 1.05 times, and 512 K just as long.
NUMPY_BLOCK_ELEMENTS = 1 << 18

# How far ahead of the loop the Numba backend prefetches logits, and how much of the next row while a row is written.
PREFETCH_BYTES = 8192
NEXT_ROW_BYTES = 1 << 16


class FewClasses(NamedTuple):
    """The most classes for which the Numba backend computes several rows at once, as measured.

    Attributes
    ----------
    float32, float64 : int
        The limit for rows of this dtype with hard labels. It is about where their tiles no longer fit in L1.
    soft : int
        The limit for soft labels, which have tiles of their own.
    """

    float32: int
    float64: int
    soft: int


FEW_CLASSES = FewClasses(float32=256, float64=160, soft=128)

# What Numba's machine code depends on. The name of the folder that caches the code contains it.
COMPILED = (LINE_BYTES, PREFETCH_BYTES, NEXT_ROW_BYTES, FEW_CLASSES)


@dataclass(frozen=True, slots=True)
class Caches:
    """The sizes, in bytes, of the data caches that one CPU can use.

    Attributes
    ----------
    level2, level3 : int
        The second level, and the last level that several CPUs share, or the second again if there is none.
    """

    level2: int
    level3: int


USUAL_CACHES = Caches(512 * _KIB, 8 * _MIB)  # if the system reports nothing, or impossible sizes


@dataclass(frozen=True, slots=True)
class Tuning:
    """The thresholds for one instruction set.

    Attributes
    ----------
    keep_bytes : int
        The exponentials of a row are kept for its gradient up to this size, and computed again beyond it.
    stream_bytes : int
        A gradient of at least this size is written past the caches.
    shared_stream_bytes : int
        A gradient of at least this size is written past the caches even if threads share rows.
    serial_elements : int
        The number of logits below which two threads take longer than one.
    """

    keep_bytes: int
    stream_bytes: int
    shared_stream_bytes: int
    serial_elements: int


def for_isa(name: str, caches: Caches | None = None) -> Tuning:
    """Return the thresholds for an instruction set on a machine with these caches.

    Parameters
    ----------
    name : str
        The compiled backend's name for it. An unknown name has the thresholds of the baseline.
    caches : Caches, optional
        By default, this machine's.

    Returns
    -------
    Tuning
    """
    caches = caches or machine_caches()
    if name == "avx512":
        return Tuning(
            # Arithmetic is plentiful: moving an exponential between L1 and L2 took longer than computing it again.
            keep_bytes=8 * _KIB,
            # Writing into L3 took up to 1.7 times as long as writing past it.
            stream_bytes=2 * caches.level2,
            # With two threads that share rows, writing 2 to 16 MB into the caches took 0.8 to 0.95 times as long as
            # writing past them, and 32 MB took 1.07 times as long.
            shared_stream_bytes=caches.level3,
            serial_elements=500_000,  # 130 us on one thread, as on two
        )
    # Arithmetic is scarce: with exponentials kept, rows of 128256 classes (in L3) take 0.70 of the time, and rows of
    # 32000 (in L2) take 0.55. If a gradient fits into L3 beside its logits, writing it there takes 0.93 to 0.98 of the
    # time of writing past it.
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
    """Return the first CPU's caches as the system reports them. Missing and impossible sizes have the usual value.

    Parameters
    ----------
    folder : Path
        Where Linux describes the caches. Other systems have no such folder.

    Returns
    -------
    Caches
    """
    sizes = reported_caches(folder)
    level2 = last = sizes.get(2, 0)  # the second level may be the last one
    if not 64 * _KIB <= level2 <= 64 * _MIB:
        level2, last = USUAL_CACHES.level2, USUAL_CACHES.level3
    level3 = max((size for level, size in sizes.items() if level > 2), default=last)
    if not level2 <= level3 <= 4096 * _MIB:
        level3 = max(level2, USUAL_CACHES.level3)
    return Caches(level2, level3)


def reported_caches(folder: Path = _CPU0) -> dict[int, int]:
    """Return the sizes of the first CPU's data caches, as the system reports them.

    Parameters
    ----------
    folder : Path
        Where Linux describes the caches. Other systems have no such folder.

    Returns
    -------
    dict
        From the level to the number of bytes. What cannot be read is missing.
    """
    sizes: dict[int, int] = {}
    for cache in folder.glob("index*"):
        try:
            level = int((cache / "level").read_text())
            if (cache / "type").read_text().strip() != "Instruction":
                sizes[level] = max(sizes.get(level, 0), _bytes((cache / "size").read_text().strip()))
        except (OSError, ValueError):
            continue
    return sizes


def stream_bytes_asked_for() -> int | None:
    """Return SOFTMAX_CE_STREAM_BYTES, which tests set: the size from which a gradient is written past the caches.

    Returns
    -------
    int or None
        None if the variable is unset or empty, and, with a warning, if it is not a number.
    """
    name = "SOFTMAX_CE_STREAM_BYTES"
    asked = whole_number(name, word(name), "the default number of bytes is used")
    return None if asked is None else max(1, asked)


def _bytes(text: str) -> int:
    """Return the number of bytes of a size in Linux's notation, such as 512K."""
    factor = {"K": _KIB, "M": _MIB, "G": 1024 * _MIB}.get(text[-1:])
    return int(text[:-1]) * factor if factor else int(text)
