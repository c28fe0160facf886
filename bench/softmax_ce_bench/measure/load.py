"""The CPUs that other programs use during a measurement. A control that is measured against itself does not show them.

A load that is there all the time slows both of the control's names alike, and yet halves what two threads
gain on two CPUs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from softmax_ce import threads as pool
from softmax_ce.contract import BackendInfo

_SHORTEST = 0.5  # seconds; the kernel counts in hundredths
_ROOM = 0.1  # of the CPUs wanted: less is the system's own background


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds since some moment.

    On the clock; used by all processes on the CPUs that this one may use; used by this one.
    """

    clock: float
    all_processes: float
    own: float


def usable_cpus() -> set[int]:
    """Return the numbers of the CPUs that this process may run on."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):  # not Linux
        return set(range(os.cpu_count() or 1))


def read(stat: Path = Path("/proc/stat")) -> Reading | None:
    """Return a reading on Linux, or None on other systems."""
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
        ticks = os.sysconf("SC_CLK_TCK")
        names = {f"cpu{number}" for number in usable_cpus()}
        # Some sandboxes have the sum of all CPUs alone.
        used = sum(map(_ticks, [line for line in lines if line[0] in names] or lines[:1]))
    except (OSError, ValueError, AttributeError):
        return None
    own = os.times()
    return Reading(time.monotonic(), used / ticks, own.user + own.system)


def _ticks(line: list[str]) -> int:
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line[1:9])
    return user + nice + system + irq + softirq + steal


def cpus_of_others(before: Reading | None, after: Reading | None) -> float | None:
    """Return the number of CPUs that other programs, and other virtual machines of the host, used between two readings.

    Returns
    -------
    float or None
        None where it is not known, or the time between was too short to tell.
    """
    if before is None or after is None or after.clock - before.clock < _SHORTEST:
        return None
    used = (after.all_processes - before.all_processes) - (after.own - before.own)
    return max(0.0, used / (after.clock - before.clock))


def is_crowded(others: float | None, threads: int) -> bool:
    """Return whether other programs left fewer of the CPUs that this process may use than the threads need.

    Parameters
    ----------
    others : float or None
        The result of :func:`cpus_of_others`.
    threads : int
        That were at work, at most.
    """
    usable = len(usable_cpus())
    wanted = min(threads, usable)
    return others is not None and others > usable - wanted + _ROOM * wanted


def threads_used(asked: int | None, n_rows: int, n_classes: int, backends: Iterable[BackendInfo]) -> int:
    """Return the largest number of threads that a call of one of the backends uses.

    Parameters
    ----------
    asked : int or None
        The call's `threads`. None: as many as its size is worth.
    n_rows, n_classes : int
    backends : iterable of BackendInfo

    Returns
    -------
    int
        At least 1.
    """
    return max((_used(asked, n_rows, n_classes, info.serial_elements) for info in backends), default=1)


def _used(asked: int | None, n_rows: int, n_classes: int, serial_elements: int) -> int:
    """Return the number of threads that the pool chooses, from a call that does nothing."""
    found = [1]

    class CountingTeam:
        helpers = 0

        def __init__(self, threads: int, longest: int) -> None:
            found.append(threads)

        def work(self, helping: bool) -> bool:
            return False

        def cancel(self) -> None:
            pass

        def settled(self) -> bool:
            return True

    pool.run(lambda start, stop: None, n_rows, n_classes, asked, serial_elements=serial_elements, team=CountingTeam)
    return found[-1]
