"""A whole run: load the backends, fit the digits, then measure one cell after the other until the time is up."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import softmax_ce as sce
from softmax_ce_bench import peers
from softmax_ce_bench.compare import cell, first_call, layer_peaks
from softmax_ce_bench.compare.budget import Budget, OutOfTime
from softmax_ce_bench.compare.participants import PreparedWorkload
from softmax_ce_bench.compare.request import BASE, DIGITS, CompareRequest, PlannedCell, Source
from softmax_ce_bench.compare.result import (
    BACKEND,
    PEER,
    Candidate,
    ComparedCell,
    DigitsFit,
    NotMeasured,
    Run,
    Settings,
)
from softmax_ce_bench.inputs import digits
from softmax_ce_bench.measure import machine, operations, timing
from softmax_ce_bench.measure.peer_process import PeerProcesses
from softmax_ce_bench.measure.stats import CONFIDENCE, TIE
from softmax_ce_bench.measure.timing import Clock
from softmax_ce_bench.truth.judge import CHECKED_ELEMENTS

BUFFERS, ALLOCATED = "buffers", "allocated"
_INCLUDES = {
    BUFFERS: "softmax_ce's function: checking arguments, folding options; results go into buffers that are there",
    ALLOCATED: "softmax_ce's function: checking arguments, folding options; new arrays for the results",
}


class Listener:
    """Receives the progress of a run. This base class ignores it."""

    def stage(self, text: str, done: float, left: float) -> None:
        """Called when a step begins or makes progress.

        Parameters
        ----------
        text : str
        done : float
            In [0, 1]: the fraction of the whole run.
        left : float
            Seconds at most until its end; infinite while that is not known.
        """

    def started(self, run: Run) -> None:
        """Called with the run when it begins. The run is filled as it proceeds, and always has the cells so far."""

    def fitted(self, run: Run) -> None:
        """Called when the digits have been fitted."""

    def measured(self, run: Run, cell: ComparedCell) -> None:
        """Called when a cell has been measured."""

    def started_cold(self, run: Run) -> None:
        """Called when cold starts and memory have been measured."""


def run(
    request: CompareRequest,
    listener: Listener | None = None,
    clock: Clock = time.perf_counter,
    processes: PeerProcesses | None = None,
) -> Run:  # fmt: skip
    """Compare as requested.

    Parameters
    ----------
    request : CompareRequest
    listener : Listener, optional
    clock : callable
        Seconds.
    processes : PeerProcesses, optional

    Returns
    -------
    Run

    Raises
    ------
    RequestError
        The request cannot be met. Nothing was allocated.
    """
    request.check()
    budget = Budget(request.seconds, clock)
    begin = clock()
    if request.counts_loading:
        budget.start()
    listener = listener or Listener()
    listener.stage("loading the backends", 0.0, budget.left)
    found = started(request)
    listener.started(found)
    for name in request.names:
        listener.stage(f"compiling {name}, if necessary", 0.0, budget.left)
        with suppress(Exception):  # whatever it raised, it will raise again when it is checked, and be rejected
            sce.get_backend(name).warmup({source.dtype for source in request.sources} | {"float64"})
    if not request.counts_loading:
        budget.start()
    processes = processes or PeerProcesses()
    try:
        _Sequence(request, found, budget, processes, listener).go()
    finally:
        processes.close()
        found.seconds = clock() - begin
        found.contaminated = any(cell.drifted or cell.crowded for cell in found.cells)
    found.complete = not found.not_measured
    return found


def started(request: CompareRequest) -> Run:
    """Return a run without results."""
    settings = Settings(
        base=request.base,
        operations=request.operations,
        results=ALLOCATED if request.allocate else BUFFERS,
        time_budget=request.seconds,
        sample_seconds=timing.SAMPLE_SECONDS,
        most_rounds=timing.MOST_ROUNDS,
        checked_elements=CHECKED_ELEMENTS,
        confidence=CONFIDENCE,
        tie=TIE,
        contaminated_beyond=timing.CONTAMINATED,
    )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(date, request.command, machine.collect(), settings, _candidates(request, settings.results))


def _candidates(request: CompareRequest, results: str) -> tuple[Candidate, ...]:
    """Return the candidates that are measured, then those that are missing on this machine."""
    found = []
    known = {info.name: info for info in sce.backends()}
    missing = tuple(info.name for info in known.values() if not info.available)
    for name in (*request.names, *missing):
        info = known[name]
        details = sce.get_backend(name).details if info.available else ""
        found.append(
            Candidate(
                name, BACKEND, name, None, details, _INCLUDES[results],
                info.stable, info.available, info.why_unavailable, info.how_to_get,
            )
        )  # fmt: skip
    for peer in peers.PEERS:
        is_missing = peer.why_missing is not None and peer.has_any(request.operations)
        if peer.name in request.peers or is_missing:
            found.append(
                Candidate(
                    peer.name, PEER, peer.title, peer.version, "", peer.includes,
                    True, peer.why_missing is None, peer.why_missing, peer.how_to_get,
                )
            )  # fmt: skip
    return tuple(found)


class _Sequence:
    """The steps of a run, in their order."""

    def __init__(
        self, request: CompareRequest, found: Run, budget: Budget, processes: PeerProcesses, listener: Listener
    ) -> None:
        self._request = request
        self._run = found
        self._budget = budget
        self._processes = processes
        self._listener = listener
        self._done = 0.0

    def go(self) -> None:
        fit = None
        if any(source.shape is DIGITS for source in self._request.sources):
            fit = self._fit()
            self._listener.fitted(self._run)
        todo = list(self._request.cells)
        # What is asked for gets its time, but never more than half.
        reserved = min(first_call.estimate(self._request), self._budget.left / 2) if self._request.cold_start else 0.0
        self._budget.deadline -= reserved
        ready: tuple[Source, PreparedWorkload] | None = None
        while todo:
            planned = todo[0]
            self._done = 1 - len(todo) / len(self._request.cells)
            if self._enough(planned):
                try:
                    if ready is None or ready[0] is not planned.source:
                        ready = None  # the last workload's arrays go first
                        self._tell(f"{planned.source.shape.name}: making the workload")
                        ready = planned.source, PreparedWorkload(self._request, planned.source.maker(fit))
                    self._measure(planned, ready[1], todo)
                except OutOfTime:
                    self._leave_out(planned)
            else:
                self._leave_out(planned)
            todo.pop(0)
        self._budget.deadline += reserved
        self._cold_start(fit)

    def _measure(self, planned: PlannedCell, ready: PreparedWorkload, todo: list[PlannedCell]) -> None:
        # The peaks of memory get their time, but never more than half.
        peaks = [layer_peaks.estimate(self._request, each) for each in todo]
        total = min(sum(peaks), max(0.0, self._budget.left) / 2)
        own = total * peaks[0] / sum(peaks) if total else 0.0
        share = self._budget.share([(each.source.elements, self._labels()) for each in todo], total)
        part = 1 / len(self._request.cells)
        found = cell.measure(
            self._request, planned, ready, self._processes, self._budget, share, own,
            lambda text, fraction: self._tell(text, fraction * part),
        )  # fmt: skip
        self._run.cells.append(found)
        self._listener.measured(self._run, found)

    def _enough(self, planned: PlannedCell) -> bool:
        return self._budget.least(planned.source.elements, self._labels()) <= self._budget.left

    def _leave_out(self, planned: PlannedCell) -> None:
        least = self._budget.least(planned.source.elements, self._labels())
        left = max(0.0, self._budget.left)
        reason = f"the time was up: it takes at least {least:.0f} s, and {left:.0f} s were left"
        self._run.not_measured.append(NotMeasured(planned.key, reason))

    def _labels(self) -> list[str]:
        request = self._request
        loops = dict.fromkeys(
            loop for o in request.operations for loop in operations.TABLE[o].loops if request.ceilings
        )
        return [
            *(cell.label(name, operation) for name in request.names for operation in request.operations),
            *(cell.label(p, o) for p in request.peers for o in request.operations if o in peers.BY_NAME[p].operations),
            *(cell.label(cell.CEILING, loop) for loop in loops),
        ]

    def _tell(self, text: str, more: float = 0.0) -> None:
        self._listener.stage(text, min(1.0, self._done + more), max(0.0, self._budget.left))

    def _fit(self) -> digits.Fit:
        fits = []
        threads = self._request.threads[0]
        for name in self._request.names:
            self._tell(f"softmax regression on handwritten digits: {name}")
            try:
                fits.append(digits.fit(name, threads=threads))
            except Exception:  # it will be rejected; but without the base there is nothing to compare with
                if name == BASE:
                    raise
        self._run.fits = [recorded(fit, fits[0]) for fit in fits]
        return fits[0]

    def _cold_start(self, fit: digits.Fit | None) -> None:
        request, found = self._request, self._run
        if request.cold_start is False or not found.cells:
            return
        if request.cold_start is None and self._budget.left < first_call.estimate(request):
            return
        self._processes.close()
        self._done = 1.0
        planned = first_call.largest(request, found)
        assert planned is not None
        make = planned.source.maker(fit)
        for name in (*request.names, *request.peers):
            self._tell(f"before the first call: {name}, in fresh processes")
            if self._budget.left <= 0:
                found.not_measured.append(NotMeasured(f"before the first call: {name}", "the time was up"))
                continue
            memory = partial(first_call.memory_of, request, planned, make, name)
            found.cold_starts.append(first_call.measure(found, name, planned, memory))
        found.cold_starts = first_call.with_break_even(found)
        self._listener.started_cold(found)


def recorded(fit: digits.Fit, base: digits.Fit) -> DigitsFit:
    """Return a fit in the form that is recorded."""
    over = fit.over_bound(base)
    return DigitsFit(
        backend=fit.backend,
        steps=len(fit.losses),
        final_loss=float(fit.losses[-1]),
        accuracy=fit.accuracy,
        difference=fit.difference(base),
        difference_over_bound=over,
        passed=fit.accuracy >= digits.PASS_ACCURACY and over <= 1,
        losses=tuple(fit.losses.tolist()),
    )
