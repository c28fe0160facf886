"""A pick in the terminal: the cells and their winners, the gain from the profile, and who may not win and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from softmax_ce.choice.fingerprint import Difference
from softmax_ce.profile import Cell, Measured, Neighbourhood, Profile
from softmax_ce_bench.measure import memory
from softmax_ce_bench.pick import regret
from softmax_ce_bench.pick.recheck import HOLDS, LOSES, LOSS, UNSURE, CellCheck, Recheck, losers
from softmax_ce_bench.pick.request import MEMORY, TIME
from softmax_ce_bench.pick.run import PickResult
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

_MOST_LISTED = 12  # verdicts of one kind


def whole(outcome: PickResult) -> Group:
    """Return everything that is shown of a pick."""
    parts = [] if outcome.profile is None else _tables(outcome.profile)
    parts += [Text(f"  {line}", style="yellow") for line in rejections(outcome)]
    parts += [Text(f"  {what}: no winner; {why}.", style="yellow") for what, why in outcome.undecided]
    parts.append("")
    warning = words.verdict(outcome.run)
    if warning:
        parts += [Text(warning, style="bold red"), ""]
    return Group(*parts, *(Text(line, style="dim") for line in _provenance(outcome)))


def of_profile(found: Profile) -> Group:
    """Return the tables that were printed when a stored profile was picked."""
    parts = _tables(found)
    parts += [Text(f"  {line}", style="yellow") for line in _stored_rejections(found.cells)]
    parts.append("")
    if found.notes.get("contaminated") is True:
        parts += [Text("CONTAMINATED: the machine was not quiet when these times were measured.", style="bold red"), ""]
    drift = found.notes.get("control_drift")
    legend = _legend(
        [cell.rounds for cell in found.cells], found.tie, found.order, drift if isinstance(drift, float) else None
    )
    return Group(*parts, Text(_stored_machine(found), style="dim"), Text(legend, style="dim"))


def _tables(found: Profile) -> list[RenderableType]:
    """Return a table for each dtype, operation and number of threads, and the cost of following the profile."""
    parts: list[RenderableType] = []
    for group in _groups(found.cells):
        parts += ["", title(group[0]), _cells(found, group)]
    return [*parts, "", *_regrets(found)]


def rejections(outcome: PickResult) -> list[str]:
    """Return the backends that may not win, one line per reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for (name, dtype), reason in outcome.evidence.reasons.items():
        where.setdefault((name, reason), []).append(dtype)
    dtypes = {source.inputs.dtype for source in outcome.run.cells}
    lines = []
    for (name, reason), own in where.items():
        lines.append(f"{name} may not win{'' if dtypes <= set(own) else ' in ' + words.listed(own)}: {reason}")
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in outcome.profile.cells if outcome.profile else ():
        for one in cell.measured:
            if one.rejected is not None and (one.backend, cell.dtype) not in outcome.evidence.reasons:
                cells.setdefault((one.backend, one.rejected), []).append(cell)
    return lines + [f"{name} may not win {_at(found)}: {reason}" for (name, reason), found in cells.items()]


def _stored_rejections(cells: Sequence[Cell]) -> list[str]:
    """Return the backends that may not win, and why. A reason that holds in all cells of a dtype is given once."""
    where: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        for one in cell.measured:
            if one.rejected is not None:
                where.setdefault((one.backend, one.rejected), []).append(cell)
    sizes = Counter(cell.dtype for cell in cells)
    lines = []
    for (name, reason), found in where.items():
        dtypes = Counter(cell.dtype for cell in found)
        if dtypes == sizes:
            place = ""
        elif all(count == sizes[dtype] for dtype, count in dtypes.items()):
            place = f" in {words.listed([*dtypes])}"
        else:
            place = f" {_at(found)}"
        lines.append(f"{name} may not win{place}: {reason}")
    return lines


def _at(cells: Sequence[Cell]) -> str:
    more = f" and in {len(cells) - 1} more cells" if len(cells) > 1 else ""
    return f"at {_named(cells[0])}{more}"


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that share a table, those of one dtype, operation and number of threads, in order of size."""
    found: dict[tuple[str, str, int | None], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.dtype, cell.operation, cell.threads), []).append(cell)
    return [sorted(group, key=lambda cell: (cell.rows, cell.classes)) for group in found.values()]


def title(cell: Cell) -> Text:
    """Return the heading of a table: its operation, dtype and number of threads."""
    threads = "threads chosen by size" if cell.threads is None else f"{cell.threads} thread{'s' * (cell.threads > 1)}"
    return Text(f"{cell.operation}, {cell.dtype}, {threads}", style="bold")


def _cells(stored: Profile, cells: Sequence[Cell]) -> Table:
    shown = [name for name in stored.order if any(_figure(cell.of(name), stored.objective) for cell in cells)]
    table = plain_table()
    table.add_column("rows x classes", justify="right", no_wrap=True)
    table.add_column("winner", no_wrap=True)
    for name in shown:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for cell in cells:
        winner = Text(cell.winner, style="bold green")
        if cell.tied:
            winner = Text(f"{cell.winner} (tie)")
        figures = [Text(_marked(cell, name, stored.objective)) for name in shown]
        table.add_row(f"{cell.rows} x {cell.classes}", winner, *figures)
    return table


def _marked(cell: Cell, name: str, objective: str) -> str:
    one = cell.of(name)
    text = _figure(one, objective)
    if one is None or not text:
        return "-"
    mark = "x" if one.rejected is not None else "=" if cell.tied and name in (cell.winner, *cell.tied) else ""
    return f"{mark} {text}" if mark else text


def _figure(one: Measured | None, objective: str) -> str:
    """Return the cost that the objective minimises, with its interval if there is one."""
    if one is None:
        return ""
    cost = one.cost(objective)
    if cost is None:
        return ""
    if objective == MEMORY:
        return memory.size(cost)
    if objective != TIME or one.seconds_low is None or one.seconds_high is None:
        return words.duration(cost)
    return f"{words.duration(cost)} ±{words.percent((one.seconds_high - one.seconds_low) / 2 / cost)}"


def _regrets(stored: Profile) -> list[Text]:
    """Return the cost of following the profile relative to the best choices, and that of one backend for everything."""
    if stored.objective == MEMORY:
        return []
    lines = [Text("Regret: cost over the best eligible backend's, mean and worst over the cells", style="bold")]
    singles = regret.of_single(stored.cells, stored.objective)
    for found in (regret.of_profile(stored.cells, stored.objective), *singles[:1]):
        who = (
            "the profile (ties go to the simpler backend)"
            if found.name == "profile"
            else f"{found.name} for everything"
        )
        worst = f"{found.worst:.1%} at {_named(found.where)}" if found.worst > 0 else "none"
        lines.append(Text(f"  {who}: {found.mean:.1%}; worst {worst}"))
    if not singles:
        lines.append(Text("  no backend is eligible in every cell"))
    ties = sum(bool(cell.tied) for cell in stored.cells)
    lines.append(Text(f"  {len(stored.cells)} cells, {len(stored.cells) - ties} of them won clearly, {ties} tied"))
    return lines


def _named(cell: Cell) -> str:
    return f"{cell.operation} {cell.rows} x {cell.classes}"


def _provenance(outcome: PickResult) -> list[str]:
    cells = outcome.run.cells
    lines = [words.machine(outcome.run)]
    if cells:
        drift = max(cell.control.ratio.drift for cell in cells)
        order = outcome.profile.order if outcome.profile else outcome.request.whole_order
        lines.append(_legend([cell.rounds for cell in cells], outcome.run.settings.tie, order, drift))
    return lines


def _legend(rounds: Iterable[int], tie: float, order: Sequence[str], drift: float | None) -> str:
    """Return the meaning of the figures and marks in the tables."""
    distinct = sorted({*rounds})
    span = f"{distinct[0]} to {distinct[-1]}" if len(distinct) > 1 else f"{distinct[0]}"
    said = (
        f"Medians of {span} interleaved rounds, ± half of the 95% interval. (tie), =: the interval of the paired "
        f"ratio reaches 1, or the gap is below {tie:.0%}; the simplest of them wins, in the order "
        f"{', '.join(order)}. x: may not win."
    )
    return said if drift is None else f"{said} The control differs from itself by at most {drift:.1%}."


def _stored_machine(found: Profile) -> str:
    """Return processor, system and versions as far as the profile's fingerprint has them."""
    facts = found.fingerprint
    numba = f", numba {facts['numba']}" if facts["numba"] else ""
    return (
        f"{facts['cpu']}, {facts['cpus_available']} CPUs, {facts['os']}; Python {facts['python']}, "
        f"numpy {facts['numpy']}{numba}, softmax-ce {facts['softmax_ce']}; {found.date}."
    )


def rechecked(stored: Profile, found: Recheck) -> Group:
    """Return the results of measuring a stored profile again."""
    parts: list[RenderableType] = [""]
    for outcome, heading, style in (
        (LOSES, f"Stored winners that lose by more than {LOSS:.0%} now", "bold red"),
        (UNSURE, "Cells without a verdict", "yellow"),
    ):
        verdicts = losers(found.of(outcome))
        if verdicts:
            parts.append(Text(heading, style=style))
            parts += [Text(f"  {_verdict(verdict)}") for verdict in verdicts[:_MOST_LISTED]]
            if len(verdicts) > _MOST_LISTED:
                parts.append(Text(f"  and {len(verdicts) - _MOST_LISTED} more"))
    holds = found.of(HOLDS)
    if holds:
        worst = losers(holds)[0]
        parts.append(
            Text(f"{len(holds)} of {len(found.verdicts)} stored winners hold. The worst of them: {_verdict(worst)}")
        )
    for run in found.runs:
        warning = words.verdict(run)
        if warning:
            parts += ["", Text(warning, style="bold red")]
    return Group(*parts, "", Text(f"Profile of {stored.date}. {words.machine(found.runs[0])}", style="dim"))


def _verdict(verdict: CellCheck) -> str:
    cell = verdict.cell
    threads = "" if cell.threads is None else f", {cell.threads} thread{'s' * (cell.threads > 1)}"
    said = f"{_named(cell)} {cell.dtype}{threads}: {cell.winner}"
    if verdict.ratio is not None:
        said += f" takes {words.times(verdict.ratio.median)} {words.interval(verdict.ratio)} what {verdict.best} does"
        if verdict.best == cell.winner:
            said = f"{_named(cell)} {cell.dtype}{threads}: {cell.winner} is the best"
    return f"{said}; {verdict.reason}" if verdict.reason else said


def explained(stored: Profile, asked: tuple[int, int], what: Cell, around: Neighbourhood) -> Group:
    """Return why a profile chooses as it does for one shape.

    Parameters
    ----------
    stored : Profile
    asked : tuple of int
        Rows and classes.
    what : Cell
        One of those that stand for the call: its dtype, operation and threads.
    around : Neighbourhood
    """
    choice = around.choice or "none: the safe default runs"
    names = [name for name in stored.order if any(_figure(cell.of(name), stored.objective) for cell, _ in around.cells)]
    table = plain_table()
    for heading in ("rows x classes", "weight"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("winner", *names):
        table.add_column(Text(heading), justify="left" if heading == "winner" else "right", no_wrap=True)
    notes: dict[tuple[str, str], list[str]] = {}
    for cell, weight in around.cells:
        winner = f"{cell.winner} (tie)" if cell.tied else cell.winner
        figures = [_marked(cell, name, stored.objective) for name in names]
        table.add_row(f"{cell.rows} x {cell.classes}", f"{weight:.0%}", Text(winner), *figures)
        for one in cell.measured:
            if one.rejected is not None:
                notes.setdefault((one.backend, one.rejected), []).append(f"{cell.rows} x {cell.classes}")
    cost = memory.size if stored.objective == MEMORY else words.duration
    predicted = [cost(around.costs[name]) if name in around.costs else "-" for name in names]
    table.add_section()
    table.add_row(f"{around.rows} x {around.classes}", "", Text(choice, style="bold green"), *predicted)
    said = title(what)
    said.append(f": {choice} for {asked[0]} x {asked[1]}")
    if (around.rows, around.classes) != asked:
        said.append(f", which counts as {around.rows} x {around.classes}")
    rejected = [
        Text(f"  {name} may not win{'' if len(where) == len(around.cells) else ' at ' + words.listed(where)}: {reason}")
        for (name, reason), where in notes.items()
    ]
    return Group("", said, table, Text(f"  {_rule(stored, around)}"), *rejected)


def _rule(stored: Profile, around: Neighbourhood) -> str:
    if len(around.cells) == 1:
        return "A measured cell, or the nearest edge of what was measured: its winner runs."
    if len({cell.winner for cell, _ in around.cells}) == 1:
        return "Between measured cells that all have one winner: it runs."
    return (
        f"Between measured cells: the least interpolated {stored.objective}; of those within {stored.tie:.0%} of it, "
        f"the first of {', '.join(stored.order)}."
    )


def standing(stored: Profile, path: str, differences: Sequence[Difference]) -> Group:
    """Return where a profile comes from, and whether it is followed here."""
    origin = Text(f"\nProfile {path} of {stored.date}, by: {stored.command}", overflow="fold")
    if not differences:
        return Group(origin, Text("Its fingerprint matches this machine and build."))
    return Group(
        origin,
        Text("It is not followed here, because it comes from another machine or build:", style="bold red"),
        *(Text(f"  {difference}") for difference in differences),
    )
