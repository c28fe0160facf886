"""A whole pick: screen the backends, measure, decide."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import softmax_ce as sce
from softmax_ce import profile
from softmax_ce.choice import fingerprint
from softmax_ce.threads import available_cpus
from softmax_ce_bench import compare
from softmax_ce_bench.compare import first_call
from softmax_ce_bench.compare.cell import label
from softmax_ce_bench.compare.request import BASE, CompareRequest, PlannedCell
from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.measure.timing import Clock
from softmax_ce_bench.pick import eligibility, figures, grids
from softmax_ce_bench.pick.decision import Evidence, Undecided, decide
from softmax_ce_bench.pick.request import BOUND, PickRequest


@dataclass(frozen=True, slots=True)
class PickResult:
    """The result of a pick.

    Attributes
    ----------
    request : PickRequest
    run : Run
        The comparison that it rests on.
    profile : Profile or None
        None: not one cell has a winner.
    evidence : Evidence
    undecided : tuple of (str, str)
        Each cell without a winner, and why.
    """

    request: PickRequest
    run: Run
    profile: profile.Profile | None
    evidence: Evidence
    undecided: tuple[tuple[str, str], ...]


def pick(
    request: PickRequest, listener: compare.Listener | None = None, clock: Clock = time.perf_counter
) -> PickResult:
    """Measure and decide.

    Parameters
    ----------
    request : PickRequest
    listener : Listener, optional
        Receives the progress, as in :func:`softmax_ce_bench.compare.run`.
    clock : callable
        Seconds.

    Returns
    -------
    PickResult

    Raises
    ------
    RequestError
        The request cannot be met. Nothing was measured.
    AssertionsOff
        Python runs with -O, under which nothing can be checked.
    """
    request.check()
    listener = listener or compare.Listener()
    dtypes = tuple(dict.fromkeys(source.dtype for source in request.sources)) or request.dtypes
    if not request.counts_loading:
        load(dtypes, listener)
    end = clock() + request.seconds

    def tell(text: str) -> None:
        listener.stage(text, 0.0, max(0.0, end - clock()))

    counts = [count or available_cpus() for count in request.threads]
    evidence = Evidence(eligibility.screen(dtypes, (1, *counts), request.allow, request.deny, tell))
    eligible = tuple(
        name for name in request.whole_order if any((name, dtype) not in evidence.reasons for dtype in dtypes)
    )
    sources = request.sources
    if not sources:
        sources = grids.fitting(
            end - clock(), dtypes, len(request.threads), _labels(eligible, request.operations),
            len(eligible) * len(request.operations) * request.wants_memory,
        )  # fmt: skip
    comparison = CompareRequest(
        eligible, sources, operations=request.operations, threads=request.threads, command=(request.command,)
    )
    run, cells = measure(comparison, request, evidence, listener, end, clock)
    found: list[profile.Cell] = []
    undecided = [(left_out.key, left_out.reason) for left_out in run.not_measured]
    for cell in cells:
        for operation in request.operations:
            try:
                found.append(decide(cell, operation, request, evidence))
            except Undecided as error:
                undecided.append((f"{operation} {cell.key}", str(error)))
    return PickResult(request, run, _profile(request, run, found), evidence, tuple(undecided))


def load(dtypes: Iterable[str], listener: compare.Listener) -> None:
    """Load the backends, and compile them if necessary, before the time starts."""
    for info in sce.backends():
        listener.stage(f"compiling {info.name}, if necessary", 0.0, float("inf"))
        if info.available:
            with suppress(Exception):  # whatever it raised, it will raise again when it is checked
                sce.get_backend(info.name).warmup({*dtypes, "float32", "float64"})


def measure(
    comparison: CompareRequest, request: PickRequest, evidence: Evidence, listener: compare.Listener, end: float,
    clock: Clock,
) -> tuple[Run, list[ComparedCell]]:  # fmt: skip
    """Time everything in one comparison, then measure what else the request wants and add it to the evidence.

    Returns
    -------
    Run, and its cells
    """
    left = max(1.0, end - clock())
    memories = len(comparison.backends) * len(comparison.operations) * len(comparison.cells) * request.wants_memory
    comparison = replace(
        comparison,
        # Memory is measured afterwards: the times make way for it, but never by more than half.
        seconds=left - min(memories * figures.MEMORY_SECONDS, left / 2), counts_loading=True, ceilings=False,
    )  # fmt: skip
    run = compare.run(comparison, listener, clock)
    if request.wants_memory:
        _memory(comparison, run, evidence, listener, end, clock)
    if request.wants_cold_start and not evidence.cold_starts:
        listener.stage("cold starts, in fresh processes", 1.0, float("inf"))
        evidence.cold_starts = figures.cold_starts(comparison.names)
    return run, run.cells


def _memory(
    comparison: CompareRequest, run: Run, evidence: Evidence, listener: compare.Listener, end: float, clock: Clock
) -> None:
    planned: dict[str, PlannedCell] = {each.key: each for each in comparison.cells}
    for cell in run.cells:
        for operation in comparison.operations:
            for name in comparison.backends:
                if clock() > end:
                    return
                listener.stage(f"memory: {name} on {cell.key}", 1.0, end - clock())
                with suppress(RuntimeError):  # its process ended: there is no figure
                    there = planned[cell.key]
                    found = first_call.memory_of(comparison, there, there.source.maker(), name, operation)
                    if found is not None:
                        evidence.memory[cell.key, operation, name] = found


def _labels(names: tuple[str, ...], operations: tuple[str, ...]) -> list[str]:
    """Return the names of what each round times: the candidates, and the control twice."""
    return [*(label(name, o) for name in {BASE, *names} for o in operations), "control", "control again"]


def _profile(request: PickRequest, run: Run, cells: list[profile.Cell]) -> profile.Profile | None:
    if not cells:
        return None
    worst = max((cell.control.ratio.drift for cell in run.cells), default=0.0)
    max_error = request.max_error
    return profile.Profile(
        fingerprint=fingerprint.collect(),
        cells=tuple(cells),
        order=request.whole_order,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=request.command,
        objective=request.objective,
        max_error=max_error.value if max_error is not None and max_error.unit == BOUND else None,
        notes={
            **request.notes,
            "contaminated": run.contaminated,
            "control_drift": worst,
            "seconds": run.seconds,
            **({"max_error_ulp": max_error.value} if max_error is not None and max_error.unit != BOUND else {}),
        },
    )
