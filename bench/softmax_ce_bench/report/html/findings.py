"""The findings in a few plain sentences, for those who read nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from softmax_ce_bench.compare.result import BACKEND, PEER, RANKED, REJECTED, UNRANKED, ComparedCell, Run
from softmax_ce_bench.measure import memory
from softmax_ce_bench.report import words
from softmax_ce_bench.report.comparison import rated
from softmax_ce_bench.report.html.selection import can_be_drawn, regrets, timing


def findings(run: Run) -> list[str]:
    """Return the findings, the most important first. Each is a short paragraph on one subject."""
    told = [cell for cell in run.cells if cell.tells and regrets(cell, rated(run))]
    said = [_fastest(run, told), _one_for_all(run, told), _peers(run, told), _errors(run), *_rejected(run)]
    said += [_cold(run), _memory(run), _too_short(run)]
    return [sentence for sentence in said if sentence]


def _fastest(run: Run, told: list[ComparedCell]) -> str:
    if not run.cells:
        return "Nothing was measured."
    if not told:
        return "There were too few rounds to say who is fastest: a longer --time-budget gives more."
    operation = rated(run)
    wins: dict[str, int] = {}
    ties: dict[str, int] = {}
    for cell in told:
        names = cell.operations[operation].fastest
        for name in names:
            counts = wins if len(names) == 1 else ties
            counts[name] = counts.get(name, 0) + 1
    order = sorted({**wins, **ties}, key=lambda name: (-wins.get(name, 0), -ties.get(name, 0)))
    said = []
    for name in order:
        parts = [f"is the fastest on {wins[name]}"] if name in wins else []
        parts += [f"ties with the fastest on {ties[name]}"] if name in ties else []
        said.append(f"{name} {' and '.join(parts)}")
    if not said:
        return ""
    of = "on the one workload" if len(told) == 1 else f"of {len(told)} workloads"
    return f"In {operation}, {of}, {'; '.join(said)}."


def best_single(run: Run, told: list[ComparedCell]) -> tuple[str, list[float]] | None:
    """Return the backend that costs least if it serves all workloads, and its regrets, or None if none is correct."""
    operation = rated(run)
    found = []
    for candidate in run.candidates:
        own = [regrets(cell, operation).get(candidate.name) for cell in told]
        known = [regret for regret in own if regret is not None]
        if candidate.kind == BACKEND and told and len(known) == len(told):
            found.append((median(known), max(known), candidate.name, known))
    if not found:
        return None
    *_, name, known = min(found)
    return name, known


def _one_for_all(run: Run, told: list[ComparedCell]) -> str:
    best = best_single(run, told)
    if best is None or len(told) < 2:
        return ""
    name, own = best
    operation = rated(run)
    timings = [found for cell in told if (found := timing(cell, name, operation))]
    said = f"If one backend must serve all, {name} costs least: "
    worst = max(own)
    said += (
        "it is the fastest everywhere"
        if worst == 0
        else f"it is behind the fastest by {words.percent(worst)} at worst, {words.percent(median(own))} at the median"
    )
    if name != run.settings.base:
        said += f", and {_span(found.speedup.median for found in timings)} the speed of {run.settings.base}"
    ceilings = [found.of_ceiling.median for found in timings if found.of_ceiling]
    if ceilings:
        said += (
            f"; it moves its bytes at {words.percent(min(ceilings))} to {words.percent(max(ceilings))} of the ceiling"
        )
    return f"{said}."


def _span(ratios: Iterable[float]) -> str:
    values = list(ratios)
    low, high = words.times(min(values)), words.times(max(values))
    return low if low == high else f"{low} to {high}"


def _peers(run: Run, told: list[ComparedCell]) -> str:
    best, operation = best_single(run, told), rated(run)
    if best is None:
        return ""
    said = []
    for candidate in run.candidates:
        if candidate.kind != PEER:
            continue
        pairs = [(timing(cell, candidate.name, operation), timing(cell, best[0], operation)) for cell in told]
        ratios = [own.speedup.median / peer.speedup.median for peer, own in pairs if peer and own]
        if ratios:
            said.append(f"{candidate.title} {_span(ratios)}")
    if not said:
        return ""
    return (
        f"Other libraries, which allocate their results, take this many times as long as {best[0]}: {'; '.join(said)}."
    )


def _errors(run: Run) -> str:
    kinds = {candidate.name: candidate.kind for candidate in run.candidates}
    worst: dict[str, tuple[float, str]] = {}
    for cell in run.cells:
        for entry in cell.entries:
            if entry.status == RANKED and entry.errors is not None:
                kind = kinds[entry.name]
                worst[kind] = max(worst.get(kind, (0.0, "")), (entry.errors.over_bound, entry.name))
    if BACKEND not in worst:
        return ""
    error, name = worst[BACKEND]
    said = f"Every ranked backend is within its error bound: the worst error is {words.number(error)} of it ({name})"
    if PEER in worst and worst[PEER][0] > 1:
        error, name = worst[PEER]
        said += (
            f"; of the other libraries {name} is furthest off, {words.number(error)} times the bound of a plain kernel"
        )
    return f"{said}."


def _rejected(run: Run) -> list[str]:
    said = []
    for candidate in run.candidates:
        own = [entry for cell in run.cells for entry in cell.entries if entry.name == candidate.name]
        wrong = [entry for entry in own if entry.status == REJECTED]
        right = sum(entry.status in (RANKED, UNRANKED) for entry in own)
        if not wrong:
            continue
        where = "on each of the" if not right else f"on {len(wrong)} of"
        reason = f", first: {wrong[0].reason}" if wrong[0].reason else ""
        rest = ""
        if right and not candidate.stable:
            rest = f" Where it is right ({right} of {len(own)}), it is not ranked either: it overflows by design."
        said.append(f"{candidate.name} is rejected {where} {len(own)} workloads{reason}.{rest}")
    return said


def _cold(run: Run) -> str:
    slow = [
        (start.first_call_cold, start.first_call_cached, start.name)
        for start in run.cold_starts
        if start.first_call_cold is not None and start.first_call_cached is not None and start.first_call_cold > 1.0
    ]
    if not slow:
        return ""
    said = []
    for cold, cached, name in slow:
        again = f", and {words.duration(cached)} once compiled code is on disk" if cached < cold / 2 else ""
        said.append(f"{name}'s first call takes {words.duration(cold)}{again}")
    return f"{'; '.join(said)}."


def _memory(run: Run) -> str:
    found = [(start.peak_memory, start.name) for start in run.cold_starts if start.peak_memory is not None]
    if len(found) < 2 or not can_be_drawn(max(found)[0]):
        return ""
    (least, thrifty), (most, greedy) = min(found), max(found)
    return (
        f"Beyond its arrays, one {rated(run)} call takes the least memory with {thrifty} ({memory.size(least)}), "
        f"the most with {greedy} ({memory.size(most)})."
    )


def _too_short(run: Run) -> str:
    short = [words.label(run, cell) for cell in run.cells if not cell.tells]
    if not short or len(short) == len(run.cells):
        return ""
    return f"There were too few rounds to say who is fastest on {words.listed(short)}."
