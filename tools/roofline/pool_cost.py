"""The cost of waking threads: a few microseconds of work on one thread, on the project's pool and with OpenMP.

The work is a chain of multiplications in C, so that neither memory nor the allocator has a say; the pool calls it
through ctypes, which releases the GIL as the kernels do. The same chain under ``#pragma omp parallel for`` is
compiled when this runs, if there is a compiler that can; nothing else in the project needs OpenMP.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce import threads as pool
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.stats import Ratio, paired_ratio

KEY = "pool"
THREADS = 2
MICROSECONDS = (50, 100, 200, 500)
_CLASSES, _ELEMENTS_A_US = 1000, 4000  # rows as a kernel has them: 0.25 ns an element
_SETTLE_SECONDS = 5e-3  # OpenMP's helpers spin on for a while after a region, on a CPU that the next one needs

_SOURCE = """
#include <stdint.h>
/* Dependent multiplications (Knuth's MMIX generator): nothing to vectorise, nothing to skip. */
static uint64_t chain(uint64_t x, long steps) {
    while (steps-- > 0)
        x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}
volatile uint64_t sink;
void serial(long steps) { sink = chain(1, steps); }
void parallel(long steps, int threads) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int k = 0; k < threads; k++)
        serial(steps / threads);
#endif
}
"""


@dataclass(frozen=True, slots=True)
class PoolCost:
    """The measured cost.

    Attributes
    ----------
    why_missing : str or None
        Why nothing could be measured.
    why_no_openmp : str or None
    rows : tuple of dict
        ``work``: seconds of work on one thread; ``pool`` and, with OpenMP, ``openmp``: seconds on two;
        ``pool_speedup``, ``openmp_speedup``: the :class:`Ratio` to one thread.
    """

    why_missing: str | None = None
    why_no_openmp: str | None = None
    rows: tuple[dict[str, Any], ...] = ()


class _Settling(timing.Local):
    """A sampler that sleeps after each sample."""

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""
        taken = timing.Local.sample(self, calls)
        time.sleep(_SETTLE_SECONDS)
        return taken


def measure(seconds: float, most_rounds: int = timing.MOST_ROUNDS) -> PoolCost:
    """Measure for about so many seconds.

    Parameters
    ----------
    seconds : float
    most_rounds : int

    Returns
    -------
    PoolCost
    """
    if pool.available_cpus() < THREADS:
        return PoolCost(why_missing=f"fewer than {THREADS} CPUs")
    with tempfile.TemporaryDirectory(prefix="softmax-ce-") as folder:
        library, openmp = _compile(Path(folder), "-fopenmp"), True
        if library is None:
            library, openmp = _compile(Path(folder)), False
    if library is None:
        return PoolCost(why_missing="no C compiler (gcc or clang)")
    library.serial.argtypes, library.serial.restype = (ctypes.c_long,), None
    library.parallel.argtypes, library.parallel.restype = (ctypes.c_long, ctypes.c_int), None
    calls: dict[str, timing.Sampler] = {}
    a_microsecond = _steps_a_microsecond(library)
    for work in MICROSECONDS:
        rows = work * _ELEMENTS_A_US // _CLASSES
        a_row = max(1, round(a_microsecond * work / rows))
        task = partial(_rows, library.serial, a_row)
        calls[f"serial {work}"] = _Settling(partial(library.serial, a_row * rows))
        calls[f"pool {work}"] = _Settling(partial(pool.run, task, rows, _CLASSES, THREADS))
        if openmp:
            calls[f"openmp {work}"] = _Settling(partial(library.parallel, a_row * rows, THREADS))
    samples = timing.measure(calls, seconds=seconds, most_seconds=3 * seconds, most_rounds=most_rounds)
    return PoolCost(
        why_no_openmp=None if openmp else "the C compiler has no -fopenmp",
        rows=tuple(_row(samples.seconds, work, openmp) for work in MICROSECONDS),
    )


def _row(seconds: Any, work: int, openmp: bool) -> dict[str, Any]:
    def median(name: str) -> float:
        return float(np.median(seconds[f"{name} {work}"]))

    row: dict[str, Any] = {"work": median("serial")}
    for name in ("pool", "openmp") if openmp else ("pool",):
        speedup: Ratio = paired_ratio(seconds[f"serial {work}"], seconds[f"{name} {work}"])
        row |= {name: median(name), f"{name}_speedup": speedup}
    return row


def _rows(serial: Any, steps: int, start: int, stop: int) -> None:
    serial(steps * (stop - start))


def _steps_a_microsecond(library: Any) -> float:
    steps = 200_000
    library.serial(steps)
    return 1e-6 * steps / min(timing.sample(partial(library.serial, steps), 1) for _ in range(20))


def _compile(folder: Path, *flags: str) -> Any:
    """Return the loaded library, or None."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = folder / "chain.c", folder / f"chain{len(flags)}.so"
    source.write_text(_SOURCE, encoding="ascii")
    command = [compiler, "-O2", "-shared", "-fPIC", *flags, str(source), "-o", str(library)]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None
