"""A profile for several machines in the terminal: who wins where, and which one backend would cost least everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from softmax_ce.choice import fingerprint
from softmax_ce.profile import Cell, Fleet, Profile
from softmax_ce_bench.pick import regret
from softmax_ce_bench.pick.request import MEMORY
from softmax_ce_bench.report import picking
from softmax_ce_bench.report.tables import plain_table


def of_fleet(fleet: Fleet, here: Mapping[str, object]) -> Group:
    """Return what a profile for several machines says.

    Parameters
    ----------
    fleet : Fleet
    here : mapping
        The fingerprint of this machine.
    """
    parts: list[RenderableType] = ["", _machines(fleet.sections, here)]
    for kind in dict.fromkeys(_kind(cell) for profile in fleet.sections for cell in profile.cells):
        parts += ["", *_winners(fleet.sections, kind)]
    return Group(*parts, "", *_costs(fleet.sections))


def merged(fleet: Fleet, replaced: Sequence[Profile]) -> Group:
    """Return which sections a merge has kept, and which it has left out."""
    lines = [f"{k}: {_named(profile)}" for k, profile in enumerate(fleet.sections, 1)]
    lines += [f"Left out: {_named(profile)}; a newer one is for the same machine and build" for profile in replaced]
    return Group(*map(Text, lines))


def _named(profile: Profile) -> str:
    facts = profile.fingerprint
    return f"{facts['cpu']}, {facts['cpus_installed']} CPUs, measured {profile.date or '(no date)'}"


def _machines(sections: Sequence[Profile], here: Mapping[str, object]) -> Table:
    table = plain_table()
    table.add_column("section", justify="right", no_wrap=True)
    for heading in ("machine", "CPUs", "system", "versions", "measured", "objective"):
        table.add_column(heading, overflow="fold")
    for k, profile in enumerate(sections, 1):
        facts = profile.fingerprint
        mine = " (this one)" if not fingerprint.differences(facts, here) else ""
        settings = "".join(f"; {name}={value}" for name, value in facts["settings"].items())
        versions = f"softmax-ce {facts['softmax_ce']}, numpy {facts['numpy']}"
        versions += f", numba {facts['numba']}" if facts["numba"] else ""
        row = (f"{facts['cpu']}{settings}{mine}", str(facts["cpus_installed"]), facts["os"], versions,
               profile.date[:10], profile.objective)  # fmt: skip
        table.add_row(str(k), *map(Text, row))
    return table


def _kind(cell: Cell) -> tuple[str, str, int | None]:
    return cell.dtype, cell.operation, cell.threads


def _winners(sections: Sequence[Profile], kind: tuple[str, str, int | None]) -> list[RenderableType]:
    """Return the heading and the table of one dtype, operation and number of threads."""
    by_machine = [{(c.rows, c.classes): c for c in each.cells if _kind(c) == kind} for each in sections]
    table = plain_table()
    table.add_column("rows x classes", justify="right", no_wrap=True)
    for k in range(1, len(sections) + 1):
        table.add_column(f"section {k}", no_wrap=True)
    for rows, classes in sorted({shape for cells in by_machine for shape in cells}):
        found = [cells.get((rows, classes)) for cells in by_machine]
        table.add_row(f"{rows} x {classes}", *map(_winner, found))
    some = next(iter(next(cells for cells in by_machine if cells).values()))
    return [picking.title(some), table]


def _winner(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    return Text(f"{cell.winner} (tie)") if cell.tied else Text(cell.winner, style="bold green")


@dataclass(frozen=True, slots=True)
class FleetCost:
    """What one way to choose costs over the best backend of each cell, on all machines.

    Attributes
    ----------
    name : str
        The backend that runs everywhere; "profile": each machine follows its section.
    mean : float
        The geometric mean over the machines of their means over the cells, less 1: every machine counts alike.
    worst : float
        The largest over all cells, less 1.
    section : int
        The number of the section with the worst cell.
    where : Cell
        The worst cell.
    """

    name: str
    mean: float
    worst: float
    section: int
    where: Cell


def costs(sections: Sequence[Profile]) -> list[FleetCost]:
    """Return what following the profiles costs, then what each backend alone would that may run everywhere, the least
    first."""
    followed = [regret.of_profile(each.cells, each.objective) for each in sections]
    single = [{one.name: one for one in regret.of_single(each.cells, each.objective)} for each in sections]
    everywhere = [name for name in single[0] if all(name in found for found in single)]
    alone = [_over([found[name] for found in single]) for name in everywhere]
    return [_over(followed), *sorted(alone, key=lambda cost: cost.mean)]


def _over(regrets: Sequence[regret.Regret]) -> FleetCost:
    mean = math.expm1(math.fsum(math.log1p(each.mean) for each in regrets) / len(regrets))
    section, worst = max(enumerate(regrets, 1), key=lambda pair: pair[1].worst)
    return FleetCost(regrets[0].name, mean, worst.worst, section, worst.where)


def _costs(sections: Sequence[Profile]) -> list[Text]:
    if any(each.objective == MEMORY for each in sections) or len({each.objective for each in sections}) > 1:
        return [Text("The objectives are not all time or all coldstart: what one backend would cost cannot be said")]
    followed, *alone = costs(sections)
    lines = [Text("Cost over the best eligible backend's, mean over machines and cells, and worst", style="bold")]
    for cost in (followed, *alone):
        who = "each machine's own section" if cost is followed else f"{cost.name} on every machine"
        cell = cost.where
        place = f"{cell.operation} {cell.rows} x {cell.classes} {cell.dtype}, section {cost.section}"
        lines.append(
            Text(f"  {who}: {cost.mean:.1%}; worst " + (f"{cost.worst:.1%} at {place}" if cost.worst else "none"))
        )
    if alone:
        lines.append(Text(f"The single backend that costs least over the fleet: {alone[0].name}", style="bold"))
    else:
        lines.append(Text("No backend is eligible in every cell of every machine"))
    return lines
