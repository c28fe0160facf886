"""One cell: check every candidate, then time the correct ones in the same rounds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench import peers
from softmax_ce_bench.ceilings import products
from softmax_ce_bench.compare import layer_peaks
from softmax_ce_bench.compare.budget import Budget, CandidateFailed, DeadlineSampler
from softmax_ce_bench.compare.decision import fastest
from softmax_ce_bench.compare.participants import Participants, PreparedWorkload, Tell
from softmax_ce_bench.compare.request import BASE, CompareRequest, PlannedCell
from softmax_ce_bench.compare.result import (
    RANKED,
    REJECTED,
    SKIPPED,
    UNRANKED,
    Ceiling,
    CellOperation,
    ComparedCell,
    Control,
    Entry,
    Inputs,
    Timing,
)
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import load, operations, timing
from softmax_ce_bench.measure.peer_process import PeerProcesses
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import Samples
from softmax_ce_bench.truth.judge import raised


def measure(
    request: CompareRequest,
    planned: PlannedCell,
    ready: PreparedWorkload,
    processes: PeerProcesses,
    budget: Budget,
    share: float,
    peak_seconds: float,
    tell: Tell,
) -> ComparedCell:
    """Check and time one cell.

    Parameters
    ----------
    request : CompareRequest
    planned : PlannedCell
        The cell.
    ready : PreparedWorkload
    processes : PeerProcesses
    budget : Budget
    share : float
        Seconds for this cell.
    peak_seconds : float
        More seconds, for the peaks of memory.
    tell : callable
        Called with the current step and the fraction of the cell that is done.

    Returns
    -------
    ComparedCell

    Raises
    ------
    OutOfTime
        The time was up before one round was complete.
    """
    begin = budget.clock()
    here = Participants(request, planned, ready, processes)
    here.check(tell)
    tell(f"{ready.workload.name}: warming up", 0.0)
    before = processes.reading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the written formula's, of -inf and the like
        samples = _timed(here, ready.workload.name, budget, begin + share, tell, request.base)
    others = load.cpus_of_others(before, processes.reading())
    crowded = load.is_crowded(others, here.most_threads)
    learned = {name: float(np.median(seconds)) for name, seconds in samples.seconds.items()}
    budget.learn(planned.source.elements, learned)
    end = budget.clock() + peak_seconds
    memory = layer_peaks.measure(here.samplers, request, planned, ready.make, lambda: budget.clock() < end, tell)
    sizes = {operation: bytes_moved(operation, ready.workload) for operation in request.operations}
    loops = tuple(_ceiling(loop, ready.workload, samples, sizes) for loop in here.loops)
    best = {operation: _best(operation, loops) for operation in request.operations}
    entries = tuple(
        _entry(name, here, samples, {o: (sizes[o], best[o]) for o in request.operations}, request.base, memory)
        for name in (*request.names, *request.peers)
    )
    rows, classes = ready.workload.shape
    ratio = samples.control_ratio
    source = planned.source
    return ComparedCell(
        key=planned.key,
        inputs=Inputs(
            ready.workload.name, source.set, ready.workload.regime, rows, classes, ready.workload.dtype,
            "soft" if ready.workload.is_soft else "hard", here.features,
        ),
        options=request.options,
        threads=planned.threads,
        checked_rows=ready.judge.subset.shape[0],
        telling_rows=ready.judge.telling_rows,
        rounds=samples.rounds,
        took=budget.clock() - begin,
        timer_overhead=samples.overhead,
        control=Control(_tuple(samples.control[0]), _tuple(samples.control[1]), ratio),
        drifted=ratio.drift > timing.CONTAMINATED,
        crowded=crowded,
        cpus_of_others=others,
        ceilings=loops,
        why_no_ceilings=here.why_no_loops,
        operations={
            o: CellOperation(sizes[o], ceiling.loop if ceiling else None, fastest(entries, o, samples.rounds))
            for o, ceiling in best.items()
        },
        entries=entries,
    )  # fmt: skip


def bytes_moved(operation: str, workload: Workload) -> int:
    """Return the least number of bytes that an operation must move."""
    row = operations.TABLE[operation]
    return row.bytes_moved(workload.logits, soft=workload.is_soft, features=workload.features)


def _timed(here: Participants, title: str, budget: Budget, end: float, tell: Tell, base: str) -> Samples:
    """Time all candidates. If one raises, it is rejected, and the others start again."""
    while True:
        timed = {label(*key): DeadlineSampler(key[0], sampler, budget) for key, sampler in here.samplers.items()}
        timed |= {label(CEILING, loop): DeadlineSampler(loop, sampler, budget) for loop, sampler in here.loops.items()}
        text = f"{title}: timing {len({name for name, _ in here.samplers})} candidates in turn"
        try:
            return timing.measure(
                timed,
                seconds=end - budget.clock(),
                most_seconds=budget.left,
                on_round=partial(tell, text),
                clock=budget.clock,
            )
        except CandidateFailed as failure:
            if failure.who in (BASE, base) or failure.who in here.loops:
                raise failure.error from None
            here.reject(failure.who, raised(failure.error))


CEILING = "ceiling:"


def label(name: str, operation: str) -> str:
    return f"{name} {operation}"


def _ceiling(loop: str, workload: Workload, samples: Samples, sizes: Mapping[str, int]) -> Ceiling:
    seconds = samples.seconds[label(CEILING, loop)]
    time = _interval(seconds)
    size = int(workload.logits.nbytes) * (1 if loop == "read" else 2)
    if loop in products.LOOPS:  # so that the ratio of the rates is that of the times
        size = next(sizes[o] for o in sizes if loop in operations.TABLE[o].loops)
    return Ceiling(loop, size, _tuple(seconds), time, size / time.median / 1e9)


def _best(operation: str, loops: tuple[Ceiling, ...]) -> Ceiling | None:
    """Return the fastest loop that moves the same bytes as the operation."""
    own = [ceiling for ceiling in loops if ceiling.loop in operations.TABLE[operation].loops]
    return min(own, key=lambda ceiling: ceiling.time.median, default=None)


def _entry(
    name: str, here: Participants, samples: Samples, jobs: dict[str, tuple[int, Ceiling | None]], base: str,
    memory: Mapping[tuple[str, str], int],
) -> Entry:  # fmt: skip
    """Return the results of one candidate."""
    if name in here.skipped:
        return Entry(name, SKIPPED, here.skipped[name], None, {})
    errors, reason = here.verdicts[name]
    timings = {
        operation: _timing(name, operation, samples, size, ceiling, base, memory.get((name, operation)))
        for operation, (size, ceiling) in jobs.items()
        if (name, operation) in here.samplers
    }
    if reason is not None:
        return Entry(name, REJECTED, reason, errors, timings)
    if name in peers.BY_NAME or sce.get_backend(name).info.stable:
        return Entry(name, RANKED, None, errors, timings)
    return Entry(name, UNRANKED, "it overflows by design", errors, timings)


def _timing(
    name: str, operation: str, samples: Samples, size: int, ceiling: Ceiling | None, base: str, memory: int | None
) -> Timing:
    own = label(name, operation)
    seconds = samples.seconds[own]
    time = _interval(seconds)
    of_ceiling = None
    if ceiling is not None:  # bytes a second over bytes a second
        of_ceiling = paired_ratio(np.asarray(ceiling.seconds) * (size / ceiling.bytes), seconds)
    speedup = paired_ratio(samples.seconds[label(base, operation)], seconds)
    return Timing(_tuple(seconds), samples.calls[own], time, speedup, size / time.median / 1e9, of_ceiling, memory)


def _interval(seconds: Any) -> Ratio:
    return paired_ratio(seconds, np.ones(len(seconds)))


def _tuple(seconds: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in seconds)
