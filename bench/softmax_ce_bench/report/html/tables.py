"""The tables of the page: the same texts as in the terminal, with numbers to sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softmax_ce_bench.compare.result import PEER, REJECTED, SKIPPED, Entry, Run
from softmax_ce_bench.report import comparison, words


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table.

    Attributes
    ----------
    text : str
    value : float or None
        To sort by, where the text is of a number.
    look : str
        Classes of CSS.
    """

    text: str
    value: float | None = None
    look: str = ""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table whose rows begin with a heading.

    Attributes
    ----------
    key, caption : str
    headings : sequence of str
    numbers : set of int
        The columns of numbers.
    rows : sequence of sequences of Field
    filtered : bool
        Whether it is long enough to be searched.
    """

    key: str
    caption: str
    headings: Sequence[str]
    numbers: frozenset[int]
    rows: Sequence[Sequence[Field]]
    filtered: bool = False


def fastest(run: Run) -> PageTable:
    """Return a row for each cell: the fastest candidate of each operation, and whether to trust it."""
    operations = run.settings.operations
    rows = []
    for cell in run.cells:
        row = [Field(cell.key), Field(cell.inputs.regime)]
        for operation in operations:
            facts = cell.operations.get(operation)
            names = facts.fastest if facts else ()
            row.append(Field(" = ".join(names) or "-", look="tie" if len(names) > 1 else ""))
        drift = cell.control.ratio.drift
        bad = "warned" if cell.drifted or cell.crowded else ""
        row += [
            Field(str(cell.rounds), cell.rounds),
            Field(f"{drift:.1%}{', crowded' if cell.crowded else ''}", drift, bad),
        ]
        rows.append(row)
    headings = ("workload", "what it stands for", *operations, "rounds", "control drift")
    caption = "The fastest candidates of each operation; = joins ties."
    return PageTable("fastest", caption, headings, frozenset((len(headings) - 2, len(headings) - 1)), rows)


def timings(run: Run) -> PageTable:
    """Return a row for each cell, operation and candidate."""
    rows = []
    shown = comparison.long_headings(run.cells)
    for cell in run.cells:
        for operation, facts in cell.operations.items():
            for entry in comparison.shown_in(cell, operation):
                texts = comparison.long_row(entry, operation, run.settings.base, shown)
                is_fastest = entry.name in facts.fastest
                look = "fastest" if is_fastest else "rejected" if entry.status == REJECTED else ""
                name = Field(f"{entry.name} *" if is_fastest else entry.name, look=look)
                figures = [
                    Field(text, value, look)
                    for text, value in zip(texts, _values(entry, operation)[: len(shown)], strict=True)
                ]
                rows.append([Field(words.label(run, cell)), Field(operation), name, *figures])
    caption = "All timings. *: fastest, or tied with it. ULP: of the loss, and of the gradient."
    headings = ("workload", "operation", "candidate", *shown)
    return PageTable("timings", caption, headings, frozenset(range(3, len(headings))), rows, filtered=len(rows) > 12)


def _values(entry: Entry, operation: str) -> tuple[float | None, ...]:
    """Return the numbers behind :func:`comparison.long_row`."""
    timing, errors = entry.timings.get(operation), entry.errors
    over = unit = None
    if errors is not None:
        over = errors.over_bound_of(operation)
        unit = next(iter(errors.ulp_of(operation)), None)
    if timing is None:
        return None, None, None, None, over, unit, None
    ceiling = timing.of_ceiling.median if timing.of_ceiling else None
    return timing.time.median, timing.speedup.median, timing.gb_per_s, ceiling, over, unit, timing.peak_memory


def excluded(run: Run) -> PageTable | None:
    """Return the candidates that are not ranked, with the reasons."""
    rows = [
        [Field(entry.name), Field(words.label(run, cell)), Field(entry.status), Field(entry.reason)]
        for cell in run.cells
        for entry in cell.entries
        if entry.reason and entry.status != SKIPPED
    ]
    skipped: dict[tuple[str, str], int] = {}
    for cell in run.cells:
        for entry in cell.entries:
            if entry.status == SKIPPED:
                key = entry.name, entry.reason or ""
                skipped[key] = skipped.get(key, 0) + 1
    rows += [[Field(name), Field(f"{n} workloads"), Field(SKIPPED), Field(why)] for (name, why), n in skipped.items()]
    rows += [
        [Field(start.name), Field("before the first call"), Field("failed"), Field(start.failed)]
        for start in run.cold_starts
        if start.failed
    ]
    if not rows:
        return None
    caption = "Candidates that are not ranked, and why."
    return PageTable("excluded", caption, ("candidate", "workload", "outcome", "reason"), frozenset(), rows)


def starts(run: Run) -> PageTable | None:
    """Return the cold starts."""
    found = [start for start in run.cold_starts if not start.failed]
    if not found:
        return None
    operation = comparison.rated(run)
    rows = []
    for start in found:
        values = [start.import_seconds, start.first_call_cold, start.first_call_cached, start.peak_memory]
        texts = comparison.cold_row(run, start.name, operation)
        more = len(texts) - len(values)
        by_cell = {even.cell: even.cold for even in start.break_even if even.operation == operation}
        own = (
            [by_cell.get(cell.key) for cell in run.cells]
            if more == len(run.cells)
            else [min(by_cell.values(), default=None)]
        )
        rows.append([Field(start.name), *(Field(t, v) for t, v in zip(texts, [*values, *own], strict=True))])
    each = len(rows[0]) - 5
    after = (
        [f"even after, {words.label(run, cell)}" for cell in run.cells]
        if each == len(run.cells)
        else ["even after, calls"]
    )
    headings = ("candidate", "import", "first call, cold", "first call, cached", "peak memory", *after)
    caption = (
        f"Before the first call. even after: {operation} calls until a start slower than {run.settings.base}'s has "
        "paid off, with nothing cached / with compiled code in the cache."
    )
    return PageTable("starts", caption, headings, frozenset(range(1, len(headings))), rows)


def fits(run: Run) -> PageTable | None:
    """Return the softmax regressions on the digits."""
    if not run.fits:
        return None
    rows = []
    for fit in run.fits:
        is_base = fit.backend == run.fits[0].backend
        rows.append([
            Field(fit.backend), Field(f"{fit.final_loss:.6f}", fit.final_loss),
            Field(f"{fit.accuracy:.1%}", fit.accuracy),
            Field("-" if is_base else f"{fit.difference:.1e}", fit.difference),
            Field("-" if is_base else f"{fit.difference_over_bound:.2g}", fit.difference_over_bound),
            Field("right" if fit.passed else "fails", look="" if fit.passed else "warned"),
        ])  # fmt: skip
    headings = (
        "backend", "final loss", "held-out accuracy", f"loss curve against {run.fits[0].backend}",
        "difference over bound", "",
    )  # fmt: skip
    caption = f"Softmax regression on handwritten digits: {run.fits[0].steps} steps of gradient descent, float64."
    return PageTable("fits", caption, headings, frozenset(range(1, 5)), rows)


def ceilings(run: Run) -> PageTable | None:
    """Return the loops that only move bytes."""
    rows = [
        [
            Field(words.label(run, cell)), Field(ceiling.loop),
            Field(words.duration(ceiling.time.median), ceiling.time.median),
            Field(words.number(ceiling.gb_per_s), ceiling.gb_per_s),
        ]
        for cell in run.cells
        for ceiling in cell.ceilings
    ]  # fmt: skip
    if not rows:
        return None
    caption = (
        "Ceilings: C loops that only move bytes; copy also reads the lines that it writes, stream does not. Or the "
        "matrix products of a linear layer, by NumPy's BLAS."
    )
    return PageTable("ceilings", caption, ("workload", "loop", "time", "GB/s"), frozenset((2, 3)), rows)


def candidates(run: Run) -> PageTable:
    """Return the backends and peers: what they are, what their times include, and why one is missing."""
    rows = []
    for candidate in run.candidates:
        kind = "library" if candidate.kind == PEER else "backend"
        state = "here" if candidate.available else f"missing: {candidate.why_unavailable}; {candidate.how_to_get}"
        about = candidate.details or candidate.title
        rows.append(
            [Field(t) for t in (candidate.name, kind, candidate.version or "-", about, candidate.includes, state)]
        )
    headings = ("candidate", "kind", "version", "what it is", "what its times include", "state")
    return PageTable("candidates", "Candidates.", headings, frozenset(), rows)


def everything(run: Run) -> list[PageTable]:
    """Return all tables in the order of the page."""
    found = [fastest(run), timings(run), excluded(run), fits(run), starts(run), ceilings(run), candidates(run)]
    return [table for table in found if table is not None and table.rows]
