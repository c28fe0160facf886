"""The peak memory of calls on a linear layer, which they are made for: each in a fresh process, as part of its cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from softmax_ce_bench.compare import first_call
from softmax_ce_bench.compare.request import CompareRequest, PlannedCell
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.measure.process import ProcessError

# About how many seconds one candidate takes: its process starts, makes the layer and calls twice.
_SECONDS, _AN_ELEMENT = 2.0, 5e-8


def estimate(request: CompareRequest, planned: PlannedCell) -> float:
    """Return an estimate of the seconds that the measurements of a cell take."""
    count = len(_operations(request)) * (len(request.names) + len(request.peers))
    return count * (_SECONDS + _AN_ELEMENT * planned.source.elements)


def measure(
    candidates: Iterable[tuple[str, str]], request: CompareRequest, planned: PlannedCell,
    make: Callable[[], Workload], has_time: Callable[[], bool], tell: Callable[[str, float], None],
) -> dict[tuple[str, str], int]:  # fmt: skip
    """Return the bytes that one call of each candidate needs, as far as time is left and the system tells.

    Parameters
    ----------
    candidates : iterable of (str, str)
        Names and operations that were timed.
    request : CompareRequest
    planned : PlannedCell
        The cell.
    make : callable
        Makes the workload.
    has_time : callable
        Whether there is time for another.
    tell : callable
        Called with the current step.
    """
    wanted = _operations(request)
    found = {}
    for name, operation in candidates:
        if operation not in wanted or not has_time():
            continue
        tell(f"{planned.source.shape.name}: peak memory of {name}, in a fresh process", 1.0)
        with suppress(ProcessError):  # its process ended: there is no figure
            size = first_call.memory_of(request, planned, make, name, operation)
            if size is not None:
                found[name, operation] = size
    return found


def _operations(request: CompareRequest) -> list[str]:
    if request.cold_start is False:
        return []
    return [operation for operation in request.operations if TABLE[operation].takes_layer]
