"""What was found, in plain words, and what one must know to believe it."""

from __future__ import annotations

from collections.abc import Sequence

from softmax_ce_bench import compare, stats, timing
from softmax_ce_bench.compare import BASE, OPERATIONS, Comparison, Result

_SHOWN = ("numpy", "numba")  # packages whose versions change the times


def finding(result: Result) -> str:
    """Who is fastest on one workload, ties called ties."""
    if result.rounds < stats.FEWEST_ROUNDS:
        return f"too few rounds ({result.rounds}) to tell; a longer --time-budget gives more"
    by_operation = {operation: result.fastest(operation) for operation in OPERATIONS}
    if not any(by_operation.values()):
        return "no backend is right here"
    speedups = {(e.backend, o): cell.speedup.median for e in result.entries for o, cell in e.cells.items()}
    # Operations with one outcome share a clause.
    clauses: dict[tuple[str, ...], list[str]] = {}
    for operation, names in by_operation.items():
        clauses.setdefault(names if len(names) == 1 else tuple(sorted(names)), []).append(operation)
    return "; ".join(_clause(names, operations, speedups) for names, operations in clauses.items())


def _clause(names: tuple[str, ...], operations: list[str], speedups: dict[tuple[str, str], float]) -> str:
    where = "every operation" if len(operations) == len(OPERATIONS) else listed(operations)
    if len(names) > 1:
        return f"{listed(names)} tie in {where}"
    name = names[0]
    if name == BASE:
        return f"{name} is fastest in {where}"
    factors = listed([times(speedups[name, operation]) for operation in operations])
    return f"{name} is fastest in {where} ({factors} the speed of {BASE})"


def listed(names: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict(comparison: Comparison) -> str:
    """What must be said before the times are believed; empty when nothing must."""
    said = []
    drifted = [f"{r.workload.name} ({r.control.drift:.1%})" for r in comparison.results if r.drifted]
    if drifted:
        said.append(f"on {listed(drifted)}, the control differed from itself by more than {timing.CONTAMINATED:.0%}")
    crowded = [f"{r.workload.name} ({r.others:.1f})" for r in comparison.results if r.crowded]
    if crowded:
        said.append(f"on {listed(crowded)}, other programs kept so many CPUs busy that the threads had too few")
    if not said:
        return ""
    return f"CONTAMINATED: {'; '.join(said)}. Do not quote these times; run again when the machine is quiet."


def provenance(comparison: Comparison) -> str:
    """Machine, versions, threads, rounds, control drift, and what the numbers mean."""
    facts, results = comparison.machine, comparison.results
    versions = ", ".join(f"{name} {facts['packages'][name]}" for name in _SHOWN if facts["packages"][name])
    threads = comparison.plan.threads or f"up to {facts['cpus_available']}, chosen by size"
    rounds = sorted({result.rounds for result in results})
    span = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else f"{rounds[0]}"
    drift = max(result.control.drift for result in results)
    overhead = max(result.overhead for result in results)
    sentences = (
        f"{facts['cpu']}, {facts['cpus_available']} CPUs, {facts['os']}; Python {facts['python']}, {versions}, "
        f"softmax-ce {facts['softmax_ce']}; threads: {threads}.",
        f"Times are medians of {span} interleaved rounds in shuffled order, into preallocated buffers. "
        f"3.00x (2.90-3.10): speed-up over {BASE}, the median of the paired ratios with its {stats.CONFIDENCE:.0%} "
        f"bootstrap interval. *: fastest, or tied with it (intervals overlap, or the gap is below {compare.TIE:.0%}).",
        f"The control, one NumPy kernel under two names, differs from itself by {drift:.1%} at most. A sample lasts "
        f"{duration(timing.SAMPLE_SECONDS)} or more, of which the timer takes {duration(overhead)}.",
        f"error / bound: the worst error over the proven bound, right up to 1, against extended precision, on drawn "
        f"rows of at most {compare.CHECKED_ELEMENTS:,} elements.",
    )
    return "\n".join(sentences)


def duration(seconds: float) -> str:
    """Seconds with three digits and a unit.

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
    """A ratio with three digits."""
    return f"{_three_digits(ratio)}x"


def interval(ratio: stats.Ratio) -> str:
    """Its confidence interval, for behind the ratio."""
    if ratio.low == 0:
        return "(?)"
    return f"({_three_digits(ratio.low)}-{_three_digits(ratio.high)})"


def _three_digits(number: float) -> str:
    digits_after = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits_after}f}"
