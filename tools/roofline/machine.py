"""The last-level cache, on which the sizes of the cases depend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softmax_ce import tuning
from softmax_ce_bench import ceilings
from softmax_ce_bench.measure import git

# 4 x 32 MiB, just: larger arrays find nothing more, and peers hold several of them.
ARRAY_MB = 140.0
OUT_OF_CACHE = 4  # times the last-level cache
_ASSUMED = 32 << 20
_PLAUSIBLE = 1 << 30  # a virtual machine may report a whole rack's


def last_level_cache() -> int | None:
    """Return the size in bytes of the largest cache of the first CPU, or None if the system does not report it."""
    return max(tuning.reported_caches().values(), default=None)


def collect(array_mb: float) -> dict[str, Any]:
    """Return the cache size and the array sizes that exceed it.

    Parameters
    ----------
    array_mb : float
        Largest array, in 10**6 bytes.

    Returns
    -------
    dict
    """
    reported = last_level_cache()
    cache = reported if reported is not None and reported <= _PLAUSIBLE else _ASSUMED
    room = int(array_mb * 1e6)
    wanted = OUT_OF_CACHE * cache
    array_bytes = min(room, wanted)
    return {
        "cache_reported": reported,
        "cache_bytes": cache,
        "array_bytes": array_bytes,
        # A row less than the array still counts.
        "large_bytes": int(0.97 * array_bytes),
        "ceilings": ceilings.instruction_set(),
        "ceilings_why_unavailable": ceilings.why_unavailable,
        "copy": ceilings.best_copy(),
        "commit": git.commit(Path(__file__).parent),
    }
