"""Peak memory in each cell, and cold starts."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import softmax_ce as sce
from softmax_ce_bench.measure import cold_start
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, Ratio, paired_ratio

MEMORY_SECONDS = (
    1.2  # about what one measurement of memory takes: a process that imports, and compiled code from a cache
)
RESOLUTION = 1 << 17  # bytes that a peak varies by from one process to the next
_PROCESSES, _WHERE_IT_COMPILES = 7, 2  # compiling takes seconds, and then no third process is needed to tell


@dataclass(frozen=True, slots=True)
class StartCost:
    """Import and first call in fresh processes, in seconds.

    Attributes
    ----------
    cold : Ratio
        Nothing cached: median and interval.
    cached : float
        Compiled code in its cache: the median.
    """

    cold: Ratio
    cached: float


def cold_starts(names: Iterable[str], run: cold_start.Runner = cold_start.fresh_process) -> dict[str, StartCost]:
    """Return the cold starts of several backends, interleaved. A backend whose process fails is left out.

    Parameters
    ----------
    names : iterable of str
    run : callable
        The function to use instead of :func:`softmax_ce_bench.measure.cold_start.fresh_process`.

    Returns
    -------
    dict
        By name.
    """
    ahead = {name: sce.get_backend(name).info.ahead_of_time for name in names}
    quick = {name: True for name, compiled in ahead.items() if compiled}

    def guarded(name: str, cache: Path) -> Sequence[float]:
        try:
            return run(name, cache)
        except (RuntimeError, OSError, subprocess.SubprocessError):
            return math.nan, math.nan, math.nan

    rounds = cold_start.measure(ahead, _WHERE_IT_COMPILES, run=guarded)
    more = {each.backend: each for each in cold_start.measure(quick, _PROCESSES - _WHERE_IT_COMPILES, run=guarded)}
    found = {}
    for start in rounds:
        times = start.joined(more[start.backend]) if start.backend in more else start
        cold, cached = times.until_first, times.until_first_cached
        if np.isfinite(cold).all() and np.isfinite(cached).all():
            found[start.backend] = StartCost(interval(cold), float(np.median(cached)))
    return found


def interval(seconds: NDArray[np.float64]) -> Ratio:
    """Return the median with its interval, or with the range if there are too few samples for an interval."""
    if len(seconds) < FEWEST_ROUNDS:
        return Ratio(float(np.exp(np.median(np.log(seconds)))), float(seconds.min()), float(seconds.max()))
    return paired_ratio(seconds, np.ones(len(seconds)))


def memory_cost(found: int) -> Ratio:
    """Return a peak as a cost, with the uncertainty of a peak."""
    return Ratio(found, max(0, found - RESOLUTION), found + RESOLUTION)
