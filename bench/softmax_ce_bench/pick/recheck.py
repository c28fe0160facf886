"""Measure a stored profile again: do its winners still win?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import softmax_ce as sce
from softmax_ce import profile
from softmax_ce.threads import available_cpus
from softmax_ce_bench import compare
from softmax_ce_bench.compare.request import CompareRequest, Source
from softmax_ce_bench.compare.result import ComparedCell, Run
from softmax_ce_bench.measure.operations import LOSSES
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import Clock
from softmax_ce_bench.pick import eligibility, figures, grids
from softmax_ce_bench.pick import run as session
from softmax_ce_bench.pick.decision import FEW, Evidence, Undecided, decide
from softmax_ce_bench.pick.request import BOUND, MEMORY, TIME, ULP, MaxError, PickRequest

LOSS = 0.10  # of a stored winner: more is reported
HOLDS, LOSES, UNSURE = "holds", "loses", "unsure"

SourceGroup = tuple[tuple[int | None, ...], tuple[str, ...]]  # threads and operations that some shapes have in common


@dataclass(frozen=True, slots=True)
class CellCheck:
    """The verdict on one stored cell.

    Attributes
    ----------
    cell : Cell
        As stored.
    outcome : {"holds", "loses", "unsure"}
    reason : str
    best : str or None
        The backend with the least cost now.
    ratio : Ratio or None
        The stored winner's cost over the best one's.
    """

    cell: profile.Cell
    outcome: str
    reason: str
    best: str | None = None
    ratio: Ratio | None = None


@dataclass(frozen=True, slots=True)
class Recheck:
    """The results of measuring a profile again.

    Attributes
    ----------
    verdicts : tuple of CellCheck
        One for each stored cell, in the profile's order.
    runs : tuple of Run
    """

    verdicts: tuple[CellCheck, ...]
    runs: tuple[Run, ...]

    @property
    def contaminated(self) -> bool:
        """Return whether the control moved, or other programs used the CPUs."""
        return any(run.contaminated for run in self.runs)

    def of(self, outcome: str) -> tuple[CellCheck, ...]:
        """Return the verdicts with a given outcome."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == outcome)


def recheck(
    stored: profile.Profile, seconds: float, listener: compare.Listener | None = None, clock: Clock = time.perf_counter
) -> Recheck:
    """Measure every stored cell again with the backends that were eligible in it.

    Parameters
    ----------
    stored : Profile
    seconds : float
        The time for everything except compiling and cold starts.
    listener : Listener, optional
    clock : callable

    Returns
    -------
    Recheck

    Raises
    ------
    RequestError
        A cell does not fit into memory.
    """
    listener = listener or compare.Listener()
    request = _request(stored)
    dtypes = tuple(dict.fromkeys(cell.dtype for cell in stored.cells))
    session.load(dtypes, listener)
    end = clock() + seconds
    names = tuple(name for name in stored.order if any(_was_eligible(cell, name) for cell in stored.cells))
    counts = [cell.threads or available_cpus() for cell in stored.cells]
    reasons = eligibility.screen(
        dtypes, (1, *counts), names, (), lambda text: listener.stage(text, 0.0, max(0.0, end - clock()))
    )
    here = tuple(
        info.name
        for info in sce.backends()
        if info.name in names and any((info.name, dtype) not in reasons for dtype in dtypes)
    )
    evidence = Evidence(reasons)
    found: dict[tuple[int, int, str, int | None], ComparedCell] = {}
    runs = []
    groups = _groups(stored)
    todo = sum(len(sources) * len(group[0]) for group, sources in groups.items())
    for (threads, operations), sources in groups.items():
        share = (end - clock()) * len(sources) * len(threads) / todo
        todo -= len(sources) * len(threads)
        comparison = CompareRequest(here, sources, operations=operations, threads=threads)
        run, cells = session.measure(comparison, request, evidence, listener, clock() + share, clock)
        runs.append(run)
        found |= {(each.inputs.rows, each.inputs.classes, each.inputs.dtype, each.threads): each for each in cells}
    verdicts = tuple(
        judge(cell, found.get((cell.rows, cell.classes, cell.dtype, cell.threads)), request, evidence)
        for cell in stored.cells
    )
    return Recheck(verdicts, tuple(runs))


def judge(stored: profile.Cell, found: ComparedCell | None, request: PickRequest, evidence: Evidence) -> CellCheck:
    """Return whether the stored winner of a cell still wins or loses by at most `LOSS`.

    It loses only where the interval of its cost over the best one's lies above 1, too.
    """
    if found is None:
        return CellCheck(stored, UNSURE, "not measured: the time was up")
    reasons = evidence.reasons | {
        (one.backend, stored.dtype): "rejected in the profile" for one in stored.measured if one.rejected is not None
    }
    known = {one.backend for one in stored.measured}
    reasons |= {(name, stored.dtype): "not in the profile" for name in request.whole_order if name not in known}
    try:
        now = decide(found, stored.operation, request, replace(evidence, reasons=reasons))
    except Undecided as error:
        return CellCheck(stored, UNSURE, str(error))
    winner = now.of(stored.winner)
    if winner is None or winner.rejected is not None:
        return CellCheck(
            stored, LOSES, f"{stored.winner} may not run any more: {winner.rejected if winner else 'gone'}"
        )
    costs = {one.backend: one.cost(request.objective) for one in now.measured if one.rejected is None}
    best = min((name for name in costs if costs[name] is not None), key=lambda name: costs[name] or 0.0)
    ratio = _ratio(stored.winner, best, stored.operation, found, request, evidence)
    if ratio is None:
        return CellCheck(stored, UNSURE, FEW, best)
    if ratio.median <= 1 + LOSS:
        return CellCheck(stored, HOLDS, "", best, ratio)
    outcome = LOSES if ratio.low > 1 else UNSURE
    return CellCheck(stored, outcome, "" if outcome == LOSES else "the interval reaches 1", best, ratio)


def _ratio(
    winner: str, best: str, operation: str, found: ComparedCell, request: PickRequest, evidence: Evidence
) -> Ratio | None:
    """Return the winner's cost over the least cost. Times are paired within the rounds."""
    if request.objective == TIME:
        timings = {entry.name: entry.timings for entry in found.entries}
        return paired_ratio(timings[winner][operation].seconds, timings[best][operation].seconds)
    if request.objective == MEMORY:
        above, below = (figures.memory_cost(evidence.memory[found.key, operation, name]) for name in (winner, best))
        # What one process differs from the next by counts on both sides, or nothing at all would be infinitely better.
        slack = figures.RESOLUTION
        return Ratio(
            (above.median + slack) / (below.median + slack), (above.low + slack) / (below.high + slack),
            (above.high + slack) / (below.low + slack),
        )  # fmt: skip
    one, other = (evidence.cold_starts[name].cold for name in (winner, best))
    return Ratio(one.median / other.median, one.low / other.high, one.high / other.low)


def _request(stored: profile.Profile) -> PickRequest:
    """Return the request that the profile was picked with."""
    ulp = stored.notes.get("max_error_ulp")
    max_error = None
    if stored.max_error is not None:
        max_error = MaxError(stored.max_error, BOUND)
    elif isinstance(ulp, (int, float)) and not isinstance(ulp, bool):
        max_error = MaxError(float(ulp), ULP)
    known = tuple(name for name in stored.order if name in {info.name for info in sce.backends()})
    return PickRequest(objective=stored.objective, max_error=max_error, order=known)


def _was_eligible(cell: profile.Cell, name: str) -> bool:
    one = cell.of(name)
    return one is not None and one.rejected is None


def _groups(stored: profile.Profile) -> dict[SourceGroup, tuple[Source, ...]]:
    """Return the sources by threads and operations. Each group is one comparison."""
    sets = str(stored.notes.get("sets") or "").split(",")
    by_shape: dict[tuple[int, int, str, int | None], set[str]] = {}
    for cell in stored.cells:
        by_shape.setdefault((cell.rows, cell.classes, cell.dtype, cell.threads), set()).add(cell.operation)
    by_source: dict[tuple[int, int, str], dict[tuple[str, ...], list[int | None]]] = {}
    for (rows, classes, dtype, threads), found in by_shape.items():
        operations = tuple(operation for operation in LOSSES if operation in found)
        by_source.setdefault((rows, classes, dtype), {}).setdefault(operations, []).append(threads)
    groups: dict[SourceGroup, list[Source]] = {}
    for key, of_source in by_source.items():
        for operations, threads_of in of_source.items():
            groups.setdefault((tuple(threads_of), operations), []).append(grids.again(*key, sets))
    return {group: tuple(sources) for group, sources in groups.items()}


def exit_code(found: Recheck) -> int:
    """Return 0 if every winner holds, 1 if one loses, and 3 if the run was contaminated or could not tell."""
    if found.contaminated:
        return 3
    if found.of(LOSES):
        return 1
    return 3 if found.of(UNSURE) else 0


def losers(found: Sequence[CellCheck]) -> tuple[CellCheck, ...]:
    """Return the verdicts, the largest loss first."""
    return tuple(sorted(found, key=lambda verdict: -(verdict.ratio.median if verdict.ratio else float("inf"))))
