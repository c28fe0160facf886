"""Peak memory of one call: the high-water mark of the resident set in a fresh process, C scratch included.

Logits, targets and buffers that are handed in are resident before, and not counted; what a call allocates is, results,
temporaries and scratch alike. Only Linux can set the mark back; elsewhere the result is None.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import candidates
from softmax_ce_bench.measure.candidates import SharedArrays
from softmax_ce_bench.measure.process import Child, spawned
from softmax_ce_bench.measure.timing import Call

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)
_SLACK = 1 << 20  # bytes that the mark may be above what is resident just after it was set back
_SECONDS = 300.0


def measure(
    name: str, is_peer: bool, make: Callable[[], Any], threads: int | None, operation: str, options: dict[str, Any],
    allocate: bool,
) -> int | None:  # fmt: skip
    """Return the number of bytes that one call of a candidate needs beyond what was resident, measured in a fresh
    process.

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
        The options of the call.
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
    """Return the number of bytes that one more call needs beyond what is resident, or None if that is unknown."""
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
    """The questions that the fresh process answers."""

    def measure(
        self, name: str, is_peer: bool, make: Callable[[], Any], threads: int | None, operation: str,
        options: dict[str, Any], allocate: bool,
    ) -> int | None:  # fmt: skip
        """Make the workload, and return the bytes that one call needs beyond it."""
        return of_call(_call(name, is_peer, make(), threads, operation, options, allocate))


def _call(
    name: str, is_peer: bool, workload: Workload, threads: int | None, operation: str, options: dict[str, Any],
    allocate: bool,
) -> Call:  # fmt: skip
    if is_peer:
        return candidates.peer_call(name, workload, threads, operation)
    arrays = SharedArrays(workloads.in_memory(workload), options["reduction"])  # a mapped file is resident once read
    return arrays.backend(operation, allocate=allocate, backend=name, threads=threads, **options)


def _give_back() -> None:
    """Have the C library return freed memory to the system; it would hide what a call needs."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _kib(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise KeyError(field)
