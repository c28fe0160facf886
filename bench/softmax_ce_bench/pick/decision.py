"""From measurements to a winner in each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softmax_ce import profile
from softmax_ce.profile import Measured
from softmax_ce_bench.compare import decision as ranking
from softmax_ce_bench.compare import first_call
from softmax_ce_bench.compare.request import BASE
from softmax_ce_bench.compare.result import RANKED, ComparedCell, Entry
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.pick import figures
from softmax_ce_bench.pick.eligibility import Reasons
from softmax_ce_bench.pick.request import COLD_START, MEMORY, TIME, PickRequest, over_bound

FEW = "too few rounds to tell; a longer --time-budget gives more"


@dataclass(slots=True)
class Evidence:
    """What was measured in addition to the run.

    Attributes
    ----------
    reasons : dict
        (backend, dtype) -> why it is not eligible.
    memory : dict
        (key of the cell, operation, backend) -> peak bytes.
    cold_starts : dict
        Backend -> its cold start.
    """

    reasons: Reasons = field(default_factory=dict)
    memory: dict[tuple[str, str, str], int] = field(default_factory=dict)
    cold_starts: dict[str, figures.StartCost] = field(default_factory=dict)


class Undecided(Exception):
    """A cell has no winner. The message says why."""


def decide(cell: ComparedCell, operation: str, request: PickRequest, evidence: Evidence) -> profile.Cell:
    """Return the winner of a cell and everything that was measured in it.

    The least cost wins; of those that tie with it, the first in the request's order. Two times tie where the interval
    of their paired ratio reaches 1 or the gap is below 3 %.

    Raises
    ------
    Undecided
        No backend is eligible, or there are too few rounds to tell.
    """
    entries = {entry.name: entry for entry in cell.entries}
    measured = {name: _measured(cell, operation, name, entries, request, evidence) for name in request.whole_order}
    eligible = [name for name, one in measured.items() if one.rejected is None]
    if not eligible:
        raise Undecided("no backend is eligible")
    if request.objective == TIME and not cell.tells:
        raise Undecided(FEW)
    ties = ranking.least(_costs(cell, operation, eligible, request.objective, evidence))
    if not ties:
        raise Undecided(f"no eligible backend has a figure for {request.objective}")
    winner = next(name for name in request.whole_order if name in ties)
    return profile.Cell(
        rows=cell.inputs.rows, classes=cell.inputs.classes, dtype=cell.inputs.dtype, operation=operation,
        threads=cell.threads, winner=winner, tied=tuple(name for name in ties if name != winner), rounds=cell.rounds,
        measured=tuple(_against(one, operation, winner, entries) for one in measured.values()),
    )  # fmt: skip


def _costs(
    cell: ComparedCell, operation: str, eligible: Sequence[str], objective: str, evidence: Evidence
) -> dict[str, Ratio]:
    """Return the costs that the objective minimises, with intervals. Times are relative to the least, paired within the
    rounds.
    """
    if objective == MEMORY:
        peaks = {name: evidence.memory.get((cell.key, operation, name)) for name in eligible}
        return {name: figures.memory_cost(peak) for name, peak in peaks.items() if peak is not None}
    if objective == COLD_START:
        return {name: evidence.cold_starts[name].cold for name in eligible if name in evidence.cold_starts}
    timed = {entry.name: entry.timings[operation] for entry in cell.entries if operation in entry.timings}
    times = {name: timed[name] for name in eligible if name in timed}
    if not times:
        return {}
    least = min(times.values(), key=lambda timing: timing.time.median)
    return {name: paired_ratio(timing.seconds, least.seconds) for name, timing in times.items()}


def _measured(
    cell: ComparedCell,
    operation: str,
    name: str,
    entries: Mapping[str, Entry],
    request: PickRequest,
    evidence: Evidence,
) -> Measured:
    """Return the figures of one backend and why it may not win, if so. The ratio to the winner is added later."""
    one = Measured(backend=name, rejected=evidence.reasons.get((name, cell.inputs.dtype)))
    entry = entries.get(name)
    if entry is None:
        return one if one.rejected else replace(one, rejected="it was not measured")
    values: dict[str, Any] = {}
    if entry.errors is not None:
        error = over_bound(entry.errors, operation)
        values["error"] = error if math.isfinite(error) else None
    if one.rejected is None and entry.status != RANKED:
        values["rejected"] = entry.reason
    elif one.rejected is None and request.max_error is not None and entry.errors is not None:
        values["rejected"] = request.max_error.complaint(entry.errors, operation)
    timing = entry.timings.get(operation)
    if timing is not None and cell.tells:
        time = timing.time
        values |= {"seconds": time.median, "seconds_low": time.low, "seconds_high": time.high}
    values["memory"] = evidence.memory.get((cell.key, operation, name))
    start, base = evidence.cold_starts.get(name), evidence.cold_starts.get(BASE)
    if start is not None:
        values |= {"cold_start": start.cold.median, "cached_start": start.cached}
    if start is not None and base is not None and name != BASE and timing is not None:
        saving = entries[BASE].timings[operation].time.median - timing.time.median
        calls = first_call.calls_until_even(start.cold.median, base.cold.median, saving)
        values["break_even"] = calls if math.isfinite(calls) else None
    return replace(one, **values)


def _against(one: Measured, operation: str, winner: str, entries: Mapping[str, Entry]) -> Measured:
    """Return the figures with the ratio of the time to the winner's."""
    if one.seconds is None:
        return one
    best = entries[winner].timings.get(operation)
    if best is None:
        return one
    ratio = paired_ratio(entries[one.backend].timings[operation].seconds, best.seconds)
    return replace(one, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)
