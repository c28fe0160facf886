"""Import, first call and peak memory in fresh processes, and the number of calls after which they pay off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import softmax_ce as sce
from softmax_ce_bench import peers
from softmax_ce_bench.compare.request import CompareRequest, PlannedCell
from softmax_ce_bench.compare.result import PEER, BreakEven, ColdStart, ComparedCell, Run
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import cold_start, peak
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.truth.judge import raised

_PROCESSES, _WHERE_IT_COMPILES = 3, 2
# About how many seconds everything takes for one candidate: to decide whether there is time for it.
_AHEAD, _COMPILING, _PEER = 6.0, 60.0, 20.0


def estimate(request: CompareRequest) -> float:
    """Return an estimate of the seconds that all candidates of a request take."""
    backends = (_AHEAD if sce.get_backend(name).info.ahead_of_time else _COMPILING for name in request.names)
    return sum(backends) + _PEER * len(request.peers)


def measure(run: Run, name: str, planned: PlannedCell, memory: Callable[[], int | None]) -> ColdStart:
    """Return the cold start of one candidate, without its break-even.

    Parameters
    ----------
    run : Run
    name : str
    planned : PlannedCell
        The cell on which `memory` measures.
    memory : callable
        Returns the peak memory in bytes, or None if it is not known.
    """
    is_peer = run.candidate(name).kind == PEER
    ahead = is_peer or sce.get_backend(name).info.ahead_of_time
    runner = cold_start.peer_process if is_peer else cold_start.fresh_process
    empty = ColdStart(name, None, None, None, None, None, None, None, ())
    try:
        (times,) = cold_start.measure({name: ahead}, _PROCESSES if ahead else _WHERE_IT_COMPILES, run=runner)
        found = replace(
            empty,
            import_seconds=median(times.imported),
            first_call_cold=median(times.first),
            first_call_cached=median(times.first if ahead else times.cached),
            second_call=median(times.second),
        )
        return replace(found, peak_memory=memory(), peak_memory_cell=planned.key)
    except Exception as error:  # whatever a candidate raises, the others are measured
        return replace(empty, failed=raised(error))


def with_break_even(run: Run) -> list[ColdStart]:
    """Return the cold starts with the number of calls after which each pays off, for each cell and operation."""
    starts = {start.name: start for start in run.cold_starts}
    base = starts.get(run.settings.base)
    if base is None:
        return run.cold_starts
    return [
        start if start is base else replace(start, break_even=tuple(_break_even(run.cells, start, base)))
        for start in run.cold_starts
    ]


def _break_even(cells: Sequence[ComparedCell], start: ColdStart, base: ColdStart) -> list[BreakEven]:
    found = []
    for cell in cells:
        timings = {entry.name: entry.timings for entry in cell.entries}
        for operation, timing in timings.get(start.name, {}).items():
            saving = timings[base.name][operation].time.median - timing.time.median
            cold = calls_until_even(_until_first(start, cold=True), _until_first(base, cold=True), saving)
            cached = calls_until_even(_until_first(start, cold=False), _until_first(base, cold=False), saving)
            found.append(BreakEven(cell.key, operation, cold, cached))
    return found


def calls_until_even(start: float, base_start: float, saving: float) -> float:
    """Return the number of calls after which a slower start has paid off.

    Parameters
    ----------
    start, base_start : float
        Seconds until the first result is there.
    saving : float
        Seconds that each call saves.

    Returns
    -------
    float
        0 where it is ahead from the start, infinity where it never is.
    """
    if math.isnan(start) or math.isnan(base_start):
        return math.inf
    if start <= base_start:
        return 0.0 if saving >= 0 else math.inf
    return (start - base_start) / saving if saving > 0 else math.inf


def _until_first(start: ColdStart, *, cold: bool) -> float:
    first = start.first_call_cold if cold else start.first_call_cached
    if first is None or start.import_seconds is None:
        return math.nan
    return start.import_seconds + first


def memory_of(
    request: CompareRequest, planned: PlannedCell, make: Callable[[], Workload], name: str, operation: str | None = None
) -> int | None:
    """Return the peak memory of one call of a candidate on a cell, measured in a fresh process.

    Parameters
    ----------
    request : CompareRequest
    planned : PlannedCell
    make : callable
        Makes the workload.
    name : str
    operation : str, optional
        The operation to call. By default the fused one, if the request has it.

    Returns
    -------
    int or None
        Bytes; None where the system does not tell.
    """
    options = {"reduction": request.options.reduction, **request.call_options(planned.source.shape.classes)}
    operation = operation or ("fused" if "fused" in request.operations else request.operations[-1])
    is_peer = name in peers.BY_NAME
    if TABLE[operation].takes_layer:
        make = planned.source.maker_for_layer() or make
    return peak.measure(name, is_peer, make, planned.threads, operation, options, request.allocate)


def largest(request: CompareRequest, run: Run) -> PlannedCell | None:
    """Return the largest cell that was measured."""
    measured = {cell.key for cell in run.cells}
    there = [planned for planned in request.cells if planned.key in measured]
    return max(there, key=lambda planned: planned.source.elements, default=None)
