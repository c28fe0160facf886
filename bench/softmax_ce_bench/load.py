"""How much of the machine other programs use meanwhile: what a control, measured against itself, cannot see.

A load that is there all the time slows both of the control's names alike, and yet halves what two threads
gain on two CPUs.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_SHORTEST = 0.5  # seconds; the kernel counts in hundredths
_ROOM = 0.1  # of the CPUs wanted: less is the system's own background


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds since some moment: on the clock, used on all CPUs by everybody, and by this process."""

    clock: float
    everybody: float
    own: float


def read(stat: Path = Path("/proc/stat")) -> Reading | None:
    """A reading, on Linux; None elsewhere."""
    try:
        fields = [int(field) for field in stat.read_text().split(maxsplit=9)[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    own = os.times()
    return Reading(time.monotonic(), (user + nice + system + irq + softirq + steal) / ticks, own.user + own.system)


def cpus_of_others(before: Reading | None, after: Reading | None) -> float | None:
    """CPUs that other programs (and other guests of the host) kept busy between two readings.

    Returns
    -------
    float or None
        None where it is not known, or the time between was too short to tell.
    """
    if before is None or after is None or after.clock - before.clock < _SHORTEST:
        return None
    used = (after.everybody - before.everybody) - (after.own - before.own)
    return max(0.0, used / (after.clock - before.clock))


def is_crowded(others: float | None, wanted: int, installed: int) -> bool:
    """Whether others left fewer CPUs than `wanted` threads need."""
    return others is not None and others > max(0, installed - wanted) + _ROOM * wanted
