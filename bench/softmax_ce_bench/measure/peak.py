"""How much memory one call takes at most: the resident set's high-water mark in a fresh process, C scratch included.

Logits, targets and buffers that are handed in are resident before, and not counted; what a call allocates is, results,
temporaries and scratch alike. Linux alone can set the mark back, so that elsewhere nothing is told.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import peers
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.process import Child, spawned

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)
_SLACK = 1 << 20  # bytes that the mark may be above what is resident just after it was set back
_SECONDS = 300.0


def measure(
    name: str, is_peer: bool, make: Callable[[], Any], threads: int | None, operation: str, options: dict[str, Any],
    allocate: bool,
) -> int | None:  # fmt: skip
    """Bytes that one call of a candidate takes beyond what was there, measured in a fresh process.

    Parameters
    ----------
    name : str
        A backend's or a peer's.
    is_peer : bool
    make : callable
        Makes the workload; can be pickled.
    threads : int or None
    operation : str
    options : dict
        Of the call.
    allocate : bool
        A backend makes its results in the call, in place of writing into buffers.

    Returns
    -------
    int or None
        None where the system does not tell.

    Raises
    ------
    ProcessError
        The process failed; the message says how.
    """
    with Child(spawned(PeakService), seconds=_SECONDS) as child:
        found = child.ask("measure", name, is_peer, make, threads, operation, options, allocate)
    return None if found is None else int(found)


def of_call(call: Callable[[], object]) -> int | None:
    """Bytes that a function, called once more, takes beyond what is resident; None where the system does not tell."""
    call()  # compiles, loads and starts what must be
    gc.collect()
    _give_back()
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        before, mark = _kib("VmRSS:"), _kib("VmHWM:")
    except (OSError, KeyError):
        return None
    if mark > before + _SLACK:
        return None
    kept = call()  # held until the mark has been read
    peak = _kib("VmHWM:")
    del kept
    return max(0, peak - before)


class PeakService:
    """What the fresh process can be asked."""

    def measure(
        self, name: str, is_peer: bool, make: Callable[[], Any], threads: int | None, operation: str,
        options: dict[str, Any], allocate: bool,
    ) -> int | None:  # fmt: skip
        """Make the workload, and return what one call takes beyond it."""
        return of_call(_call(name, is_peer, make(), threads, operation, options, allocate))


def _call(
    name: str,
    is_peer: bool,
    workload: Any,
    threads: int | None,
    operation: str,
    options: dict[str, Any],
    allocate: bool,
) -> Callable[[], object]:
    if is_peer:
        x, y = workload.logits, workload.targets
        prepared = peers.BY_NAME[name].prepare(x, y, threads or available_cpus())
        return prepared.calls[operation]
    workload = workloads.in_memory(workload)  # a mapped file becomes resident as it is read
    buffers = None if allocate else operations.Buffers(workload.logits, options["reduction"])
    return operations.call(
        sce, operation, workload.logits, workload.targets, buffers, backend=name, threads=threads, **options
    )


def _give_back() -> None:
    """Ask the C library for what it keeps of freed memory, which would hide what a call takes."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _kib(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise KeyError(field)
