"""A comparison in the terminal: tables that are readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from softmax_ce_bench.compare.result import BACKEND, PEER, REJECTED, SKIPPED, UNRANKED, ComparedCell, Entry, Run
from softmax_ce_bench.measure import memory
from softmax_ce_bench.measure.operations import LOSS, TABLE
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

_STYLES = {REJECTED: "yellow", SKIPPED: "dim", UNRANKED: "dim"}
_COLUMNS = 4  # cells at most that have a column of their own in the table of cold starts


def whole(run: Run, *, verbose: bool = False) -> Group:
    """Return everything that is shown of a run."""
    parts: list[RenderableType] = [fit_table(run)] if run.fits else []
    parts += [cell_table(run, cell, verbose=verbose) for cell in run.cells]
    if run.cold_starts:
        parts.append(cold_table(run))
    return Group(*parts, closing(run))


def fit_table(run: Run) -> Group:
    """Return a table of the softmax regressions on the digits."""
    table = plain_table()
    table.add_column("backend", style="bold")
    base = run.fits[0].backend
    for heading in ("final loss", "held-out\naccuracy", f"loss curve\nagainst {base}", "difference\nover bound"):
        table.add_column(heading, justify="right")
    notes = []
    for fit in run.fits:
        is_base = fit.backend == base
        difference = "-" if is_base else f"{fit.difference:.1e}"
        over = "-" if is_base else f"{fit.difference_over_bound:.2g}"
        table.add_row(escape(fit.backend), f"{fit.final_loss:.6f}", f"{fit.accuracy:.1%}", difference, over)
        if not fit.passed:
            right = "an accuracy of at least 93%, and at most 1 over the bound"
            notes.append(Text(f"  {fit.backend} fails; a correct backend has {right}", "red"))
    title = f"Softmax regression on handwritten digits: {run.fits[0].steps} steps of gradient descent, float64"
    caption = "  loss curve: largest relative difference; over bound: over what rounding explains"
    return _titled(title, table, *notes, Text(caption, style="dim"))


def cell_table(run: Run, cell: ComparedCell, *, verbose: bool = False) -> Group:
    """Return a table of one cell's times, speed-ups and errors. If verbose, it has every operation and candidate."""
    notes = [Text(f"  {_note(entry)}", style=_STYLES.get(entry.status, "")) for entry in cell.entries if entry.reason]
    if not cell.telling_rows:
        said = f"none of the {cell.checked_rows} checked rows counts and has a finite result, so nothing is compared"
        notes.append(Text(f"  Warning: {said}", style="bold red"))
    table = _long_table(run, cell) if verbose else _short_table(run, cell)
    return _titled(title(cell), table, *notes)


def title(cell: ComparedCell) -> str:
    """Return the heading of a cell."""
    inputs = cell.inputs
    size = f"{inputs.rows} x {inputs.classes} {inputs.dtype}"
    soft = ", soft targets" if inputs.targets == "soft" else ""
    options = cell.key.removeprefix(inputs.name).split(", ")[1:-1]  # the name may be that of a file
    features = f", {inputs.features} features" if inputs.features else ""
    threads = "" if cell.threads is None else f", {cell.threads} thread{'s' * (cell.threads > 1)}"
    extra = "".join(f", {option}" for option in options)
    return f"{inputs.name}: {size}{features}{soft}, {inputs.regime}{extra}{threads}"


def _note(entry: Entry) -> str:
    if entry.status == SKIPPED:
        return f"{entry.name} was not measured here: {entry.reason}"
    if entry.status == UNRANKED:
        return f"{entry.name} is not ranked: {entry.reason}"
    return f"{entry.name} is not ranked here: {entry.reason}"


def _short_table(run: Run, cell: ComparedCell) -> Table:
    table = plain_table()
    table.collapse_padding = True
    table.add_column("", style="bold", no_wrap=True)
    for operation in cell.operations:
        table.add_column(operation, justify="right")  # at 80 columns the interval goes to a line of its own
    summed = rated(run)
    table.add_column(f"{summed} GB/s,\nof ceiling", justify="right", no_wrap=True)
    table.add_column("error/bound,\nULP", justify="right", no_wrap=True)
    has_peaks = peaks_in([cell])
    if has_peaks:
        table.add_column("peak\nmemory", justify="right", no_wrap=True)
    kinds = {candidate.name: candidate.kind for candidate in run.candidates}
    shown = [entry for entry in cell.entries if entry.status != SKIPPED]
    for k, entry in enumerate(shown):
        cells = [_time(entry, operation, cell, run.settings.base) for operation in cell.operations]
        table.add_row(
            Text(entry.name),
            *cells,
            _rate(entry, summed),
            _errors(entry, cell),
            *([_peak(entry, summed)] if has_peaks else []),
            style="dim" if entry.status == REJECTED else "",
        )
        if kinds[entry.name] == BACKEND and [kinds[each.name] for each in shown[k + 1 : k + 2]] == [PEER]:
            table.add_section()
    return table


def _time(entry: Entry, operation: str, cell: ComparedCell, base: str) -> Text:
    timing = entry.timings.get(operation)
    if timing is None:
        return Text("not ranked" if entry.status == REJECTED else "-")
    is_fastest = entry.name in cell.operations[operation].fastest
    mark = "* " if is_fastest else ""
    text = Text(f"{mark}{words.duration(timing.time.median)}", style="bold green" if is_fastest else "")
    if entry.name != base:
        text.append(f"\n{words.times(timing.speedup.median)} {words.interval(timing.speedup)}", style="not bold")
    return text


def peaks_in(cells: Iterable[ComparedCell]) -> bool:
    """Return whether the peak memory of a call is known in one of the cells."""
    timings = (timing for cell in cells for entry in cell.entries for timing in entry.timings.values())
    return any(timing.peak_memory is not None for timing in timings)


def _peak(entry: Entry, operation: str) -> str:
    timing = entry.timings.get(operation)
    return "-" if timing is None or timing.peak_memory is None else memory.size(timing.peak_memory)


def _rate(entry: Entry, operation: str) -> str:
    timing = entry.timings.get(operation)
    if timing is None:
        return "-"
    of_ceiling = f"\n{words.percent(timing.of_ceiling.median)}" if timing.of_ceiling else ""
    return f"{words.number(timing.gb_per_s)}{of_ceiling}"


def _errors(entry: Entry, cell: ComparedCell) -> str:
    errors = entry.errors
    if errors is None:
        return "-"
    losses = [errors.loss_ulp, errors.grad_ulp] if any(LOSS in TABLE[o].computes for o in cell.operations) else []
    units = [*losses, *(each.ulp for each in errors.operations.values())]
    return f"{words.number(errors.over_bound)}\n{', '.join(words.number(unit) for unit in units)}"


_LONG = ("time", "speed-up", "GB/s", "of ceiling", "error/bound", "ULP")


def long_headings(cells: Iterable[ComparedCell]) -> tuple[str, ...]:
    """Return the headings over :func:`long_row`."""
    return (*_LONG, "peak memory") if peaks_in(cells) else _LONG


def long_row(entry: Entry, operation: str, base: str, headings: Sequence[str]) -> tuple[str, ...]:
    """Return one text per heading for one candidate and operation, with the errors of that operation."""
    return (*_long_row(entry, operation, base), _peak(entry, operation))[: len(headings)]


def _long_row(entry: Entry, operation: str, base: str) -> tuple[str, ...]:
    errors = entry.errors
    over = ulp = "-"
    if errors is not None:
        over = words.number(errors.over_bound_of(operation))
        ulp = ", ".join(words.number(unit) for unit in errors.ulp_of(operation)) or "-"
    timing = entry.timings.get(operation)
    if timing is None:
        return "not ranked" if entry.status == REJECTED else "-", "-", "-", "-", over, ulp
    speedup = "-" if entry.name == base else f"{words.times(timing.speedup.median)} {words.interval(timing.speedup)}"
    of_ceiling = words.percent(timing.of_ceiling.median) if timing.of_ceiling else "-"
    return words.duration(timing.time.median), speedup, words.number(timing.gb_per_s), of_ceiling, over, ulp


def shown_in(cell: ComparedCell, operation: str) -> list[Entry]:
    """Return the candidates that have a row for an operation: those that were timed or rejected."""
    return [entry for entry in cell.entries if operation in entry.timings or entry.status == REJECTED]


def _long_table(run: Run, cell: ComparedCell) -> Table:
    table = plain_table()
    table.add_column("", no_wrap=True)
    headings = long_headings([cell])
    for heading in headings:
        table.add_column(heading, justify="right")
    for operation, facts in cell.operations.items():
        ceiling = next((c for c in cell.ceilings if c.loop == facts.ceiling), None)
        at = f"{ceiling.gb_per_s:.1f}" if ceiling else ""
        table.add_row(Text(operation, style="bold"), "", "", at, f"({ceiling.loop})" if ceiling else "")
        for entry in shown_in(cell, operation):
            is_fastest = entry.name in facts.fastest
            name = Text(f"{'*' if is_fastest else ' '} {entry.name}", style="bold green" if is_fastest else "")
            style = "dim" if entry.status == REJECTED else ""
            table.add_row(name, *long_row(entry, operation, run.settings.base, headings), style=style)
        table.add_section()
    return table


def cold_table(run: Run) -> Group:
    """Return a table of imports, first calls, memory and break-even."""
    operation = rated(run)
    cells = run.cells if len(run.cells) <= _COLUMNS else []
    table = plain_table()
    table.add_column("", style="bold", no_wrap=True)
    for heading in ("import", "first call\ncold", "first call\ncached", "peak\nmemory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in cells:
        table.add_column(f"even after\n{cell.inputs.name}", justify="right")
    if not cells:
        table.add_column("even after\n(calls)", justify="right")
    notes = []
    for start in run.cold_starts:
        if start.failed:
            notes.append(Text(f"  {start.name}: {start.failed}", style="yellow"))
            continue
        table.add_row(Text(start.name), *cold_row(run, start.name, operation))
    where = next((start.peak_memory_cell for start in run.cold_starts if start.peak_memory_cell), None)
    base = run.settings.base
    caption = [
        "  Measured in fresh processes with NumPy imported. The first call has 1 x 10 logits and loads the backend.",
        f"  even after: {operation} calls until a start slower than {base}'s has paid off, with nothing cached / "
        "with compiled code in the cache.",
    ]
    if where:
        caption.append(
            f"  peak memory: resident in one {operation} call on {where} beyond what was resident before: temporaries, "
            "scratch, and results that the call allocates."
        )
    return _titled("Before the first call", table, *notes, Text("\n".join(caption), style="dim"))


def rated(run: Run) -> str:
    """Return the operation that sums up a run."""
    return "fused" if "fused" in run.settings.operations else run.settings.operations[-1]


def cold_row(run: Run, name: str, operation: str) -> list[str]:
    """Return one text per column for one candidate's cold start."""
    start = next(start for start in run.cold_starts if start.name == name)
    seconds = (start.import_seconds, start.first_call_cold, start.first_call_cached)
    texts = ["-" if value is None else words.duration(value) for value in seconds]
    texts.append("-" if start.peak_memory is None else memory.size(start.peak_memory))
    if len(run.cells) <= _COLUMNS:
        return texts + [words.break_even(start, cell.key, operation) for cell in run.cells]
    own = [even.cold for even in start.break_even if even.operation == operation]
    texts.append(f"{words.calls(min(own))} to {words.calls(max(own))}" if own else "-")
    return texts


def closing(run: Run) -> Group:
    """Return the findings, what is missing and why, whether to trust the run, and how it was measured."""
    lines = [Text()]
    if run.cells:
        lines.append(Text("What was found", style="bold"))
        for cell in run.cells:
            lines.append(Text(f"  {words.label(run, cell)}: {words.finding(cell, run.settings.base)}."))
    for left_out in run.not_measured:
        lines.append(Text(f"  {left_out.key}: not measured; {left_out.reason}.", style="yellow"))
    lines += [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in missing_lines(run)]
    lines.append(Text())
    warning = words.verdict(run)
    if warning:
        lines += [Text(warning, style="bold red"), Text()]
    return Group(*lines, *(Text(line, style="dim") for line in words.provenance(run)))


def missing_lines(run: Run) -> list[str]:
    """Return why a backend or peers are missing and how to get them. Lines are not wrapped, to copy commands."""
    lines = []
    for candidate in run.candidates:
        if candidate.available or candidate.kind == PEER:
            continue
        lines.append(f"{candidate.name} is not available here: {candidate.why_unavailable}")
        if candidate.how_to_get:
            lines.append(f"To get {candidate.name}: {candidate.how_to_get}")
    return lines + words.missing_peers(run)


def _titled(title: str, *parts: RenderableType) -> Group:
    return Group("", Text(title, style="bold"), *parts)
