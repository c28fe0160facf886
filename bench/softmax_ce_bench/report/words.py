"""The findings of a record in plain words, and what to know before trusting them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from softmax_ce_bench.compare.result import PEER, ColdStart, ComparedCell, Run
from softmax_ce_bench.measure.machine import Machine
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, Ratio

_NAMED = 6  # cells in a sentence, at most
_SHOWN = ("numpy", "numba", "scikit-learn", "scipy")  # packages whose versions change the times


def finding(cell: ComparedCell, base: str) -> str:
    """Return the fastest candidates of one cell. Ties are called ties."""
    if cell.rounds < FEWEST_ROUNDS:
        return f"too few rounds ({cell.rounds}) to tell; a longer --time-budget gives more"
    by_operation = {operation: facts.fastest for operation, facts in cell.operations.items()}
    if not any(by_operation.values()):
        return "no candidate is correct here"
    speedups = {(e.name, o): timing.speedup.median for e in cell.entries for o, timing in e.timings.items()}
    # Operations with one outcome share a clause.
    clauses: dict[tuple[str, ...], list[str]] = {}
    for operation, names in by_operation.items():
        if names:
            clauses.setdefault(names if len(names) == 1 else tuple(sorted(names)), []).append(operation)
    every = len(cell.operations)
    return "; ".join(_clause(names, operations, speedups, base, every) for names, operations in clauses.items())


def _clause(
    names: tuple[str, ...], operations: list[str], speedups: dict[tuple[str, str], float], base: str, every: int
) -> str:
    where = "every operation" if len(operations) == every > 1 else listed(operations)
    if len(names) > 1:
        return f"{listed(names)} tie in {where}"
    name = names[0]
    if name == base:
        return f"{name} is fastest in {where}"
    factors = listed([times(speedups[name, operation]) for operation in operations])
    return f"{name} is fastest in {where} ({factors} the speed of {base})"


def label(run: Run, cell: ComparedCell) -> str:
    """Return the name of a cell in a sentence: its workload's name if that is unique."""
    same = sum(each.inputs.name == cell.inputs.name for each in run.cells)
    return cell.inputs.name if same == 1 else cell.key


def sized_label(run: Run, cell: ComparedCell) -> str:
    """Return the name of a cell with rows and classes, if the name alone does not tell them."""
    size, name = f"{cell.inputs.rows}x{cell.inputs.classes}", label(run, cell)
    return name if size in name else f"{name} {size}"


def listed(names: Sequence[str]) -> str:
    """Return words joined as "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict(run: Run) -> str:
    """Return what to know before trusting the times, or an empty text if there is nothing."""
    said = []
    drifted = [f"{label(run, cell)} ({cell.control.ratio.drift:.1%})" for cell in run.cells if cell.drifted]
    if drifted:
        beyond = run.settings.contaminated_beyond
        said.append(f"on {listed(_first(drifted))}, the control differed from itself by more than {beyond:.0%}")
    crowded = [f"{label(run, cell)} ({cell.cpus_of_others or 0:.1f})" for cell in run.cells if cell.crowded]
    if crowded:
        said.append(f"on {listed(_first(crowded))}, other programs kept so many CPUs busy that the threads had too few")
    if not said:
        return ""
    return f"CONTAMINATED: {'; '.join(said)}. Do not quote these times; run again when the machine is quiet."


def _first(names: Sequence[str]) -> list[str]:
    """Return the first few names and the number of the others."""
    return [*names] if len(names) <= _NAMED else [*names[:_NAMED], f"{len(names) - _NAMED} more cells"]


def machine(run: Run) -> str:
    """Return processor, system and versions in one sentence."""
    versions: dict[str | None, str] = {}  # -> the first peer of that version: a library may stand there twice
    for candidate in run.candidates:
        if candidate.kind == PEER and candidate.available and candidate.version not in run.machine.packages.values():
            versions.setdefault(candidate.version, candidate.name)
    peers = "".join(f", {name} {version}" for version, name in versions.items())
    return machine_facts(run.machine, run.date, peers)


def machine_facts(facts: Machine, date: str, more: str = "") -> str:
    """Return processor, system and versions of a machine in one sentence; `more` follows the packages."""
    versions = "".join(f", {name} {facts.packages[name]}" for name in _SHOWN if facts.packages.get(name))
    commit = f" ({facts.commit})" if facts.commit else ""
    blas = f", BLAS {facts.blas}" if facts.blas else ""
    return (
        f"{facts.cpu}, {facts.cpus_available} CPUs, {facts.os}; Python {facts.python}{versions}{more}{blas}, "
        f"softmax-ce {facts.softmax_ce}{commit}; {date}."
    )


def threads(run: Run) -> str:
    """Return the numbers of threads as text."""
    counts = dict.fromkeys(cell.threads for cell in run.cells)
    return listed([str(n) if n else f"up to {run.machine.cpus_available}, chosen by size" for n in counts])


def rounds(run: Run) -> str:
    """Return the number of rounds, or the range of numbers."""
    found = sorted({cell.rounds for cell in run.cells})
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"


def drift(run: Run) -> str:
    """Return the largest difference of the control from itself."""
    return f"{max(cell.control.ratio.drift for cell in run.cells):.1%}"


def figure_line(run: Run) -> str:
    """Return the line under every figure: machine, versions, commit, threads, rounds and control drift."""
    if not run.cells:
        return machine(run)
    return f"{machine(run)} Threads: {threads(run)}; rounds: {rounds(run)}; control drift: {drift(run)} at most."


def provenance(run: Run) -> list[str]:
    """Return paragraphs on machine, versions, threads, rounds, control drift, and what the numbers mean."""
    settings, cells = run.settings, run.cells
    if not cells:
        return [machine(run)]
    buffers = "into preallocated buffers" if settings.results == "buffers" else "into new arrays"
    said = [
        f"{machine(run)} Threads: {threads(run)}.",
        f"Times are medians of {rounds(run)} interleaved rounds in shuffled order; backends write {buffers}. "
        f"3.00x (2.90-3.10): speed-up over {settings.base}, the median of the paired ratios with its "
        f"{settings.confidence:.0%} bootstrap interval. *: fastest, or tied with it (intervals overlap, or the gap is "
        f"below {settings.tie:.0%}).",
        f"The control, one NumPy kernel under two names, differs from itself by "
        f"at most {drift(run)}. A sample lasts "
        f"{duration(settings.sample_seconds)} or more, of which the timer takes "
        f"{duration(max(cell.timer_overhead for cell in cells))}.",
        _ceilings(run),
        f"error / bound: the worst error over the proven bound, at most 1 if correct, against extended precision, on "
        f"random rows of at most {settings.checked_elements:,} elements. ULP: the worst error of the loss, of the "
        f"gradient, and of what other operations compute, in units in the last place.",
    ]
    measured = {entry.name for cell in cells for entry in cell.entries if entry.timings}
    peers = [c for c in run.candidates if c.kind == PEER and c.name in measured]
    if peers:
        said.append(
            "Peers run in processes of their own, numpy-written in this one. Their arithmetic is not known, so they "
            "may exceed the bound; they are rejected if they are off by more than 1e-4. What their times include:"
        )
        said += [f"  {candidate.name}: {candidate.includes}." for candidate in peers]
    return said


def _ceilings(run: Run) -> str:
    missing = next((cell.why_no_ceilings for cell in run.cells if cell.why_no_ceilings), None)
    if missing is not None:
        return f"GB/s: the bytes that must be moved over the time. No ceiling: {missing}."
    said = (
        "GB/s: the bytes that must be moved (logits and soft targets read, gradient and Hessian written) over the "
        "time. ceiling: their rate over that of a C loop that only moves bytes, in the same rounds and on the same "
        "arrays: a read for forward and logsumexp, else the faster of a regular and a non-temporal copy."
    )
    if any(cell.inputs.features for cell in run.cells):
        said += (
            " Of a linear layer: its arrays and their gradients; the ceiling is NumPy's matrix products alone, in "
            "the blocks of the default budget. peak memory: resident in one call beyond arguments and buffers, in a "
            "fresh process."
        )
    return said


def missing_peers(run: Run) -> list[str]:
    """Return the peers that are not installed and how to get them, one per line."""
    missing = [c for c in run.candidates if c.kind == PEER and not c.available]
    if not missing:
        return []
    ways = dict.fromkeys(candidate.how_to_get for candidate in missing)
    titles = listed([candidate.title for candidate in missing])
    return [f"Not installed and not compared: {titles}", f"To get them: {'; '.join(ways)}"]


def break_even(start: ColdStart, cell: str, operation: str) -> str:
    """Return the number of calls until a slower start has paid off, with and without compiled code in its cache."""
    found = next((e for e in start.break_even if (e.cell, e.operation) == (cell, operation)), None)
    if found is None:
        return "-"
    texts = dict.fromkeys((calls(found.cold), calls(found.cached)))
    return " / ".join(texts)


def calls(number: float) -> str:
    """Return a number of calls with as many digits as are certain."""
    if math.isinf(number):
        return "never"
    return f"{int(float(f'{math.ceil(number):.2g}')):,}"


def duration(seconds: float) -> str:
    """Return a time with three digits and a unit.

    Examples
    --------
    >>> duration(0.0123), duration(4.5678e-6)
    ('12.3 ms', '4.57 µs')
    """
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * unit:
            return f"{_three_digits(seconds / unit)} {name}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def times(ratio: float) -> str:
    """Return a ratio with three digits."""
    return f"{_three_digits(ratio)}x"


def interval(ratio: Ratio) -> str:
    """Return the confidence interval of a ratio, to follow the ratio."""
    if ratio.low == 0:
        return "(?)"
    return f"({_three_digits(ratio.low)}-{_three_digits(ratio.high)})"


def percent(fraction: float) -> str:
    """Return a fraction in per cent with two digits."""
    return f"{100 * fraction:.0f}%" if fraction >= 0.0995 else f"{100 * fraction:.1f}%"


def number(value: float) -> str:
    """Return a positive number with two or three digits, whatever its size.

    Examples
    --------
    >>> number(0.5216), number(66.33), number(281309.0), number(float("inf"))
    ('0.52', '66.3', '2.8e5', 'inf')
    """
    if math.isinf(value):
        return "inf"
    if value < 1:
        return f"{value:.2g}"
    if value < 1000:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _three_digits(number: float) -> str:
    digits_after = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits_after}f}"
