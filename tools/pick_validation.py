"""Validate picks: on shapes that were not measured, and by comparing two picks on one machine.

    softmax-ce pick --output a.json; softmax-ce pick --output b.json
    python -m tools.pick_validation a.json b.json

asks the first profile about held-out shapes and measures all backends there. It prints the regret of the followed
choice against the best there, and how often the two picks agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from softmax_ce import profile
from softmax_ce.threads import available_cpus
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.pick import regret
from softmax_ce_bench.pick.request import TIME, PickRequest
from softmax_ce_bench.pick.run import pick
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table
from softmax_ce_bench.terminal.console import Refused, console
from softmax_ce_bench.terminal.options import Duration, Shapes

# None of them in a default grid, in rows or in classes; from a call's overhead to beyond the caches.
HELD_OUT = (
    (3, 7), (3, 40_000), (24, 150), (24, 1500), (100, 17), (100, 6000), (200, 45), (200, 700), (1000, 26),
    (1500, 250), (1500, 1300), (6000, 64), (6000, 150), (20_000, 13),
)  # fmt: skip
WANTED_REGRET, WANTED_AGREEMENT = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A held-out shape and operation.

    Attributes
    ----------
    cell : Cell
        As measured there.
    followed : str
        The backend that runs by a profile made without it.
    regret : float
        Its time over the least there, less 1.
    """

    cell: profile.Cell
    followed: str
    regret: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two picks.

    Attributes
    ----------
    clear, same : int
        Cells that are a tie in neither pick, and those of them with one winner.
    half, half_same : int
        Cells that are a tie in one pick alone, and those of them with one winner.
    ties : int
        Cells that are a tie in both.
    """

    clear: int
    same: int
    half: int
    half_same: int
    ties: int


def held_out(stored: profile.Profile, cells: Iterable[profile.Cell]) -> list[HeldOut]:
    """Return the cost of following a profile at shapes that are not in it.

    Parameters
    ----------
    stored : Profile
    cells : iterable of Cell
        As measured.

    Returns
    -------
    list of HeldOut
    """
    selector = profile.Selector(stored, available_cpus())
    found = []
    for cell in cells:
        key = selector.key(cell.dtype, cell.dtype, cell.operation, cell.threads)
        assert key is not None
        choice = selector.grid(key).around(cell.rows, cell.classes).choice
        assert choice is not None
        costs = {one.backend: one.seconds for one in cell.measured if one.rejected is None and one.seconds is not None}
        found.append(HeldOut(cell, choice, costs[choice] / min(costs.values()) - 1))
    return found


def agreement(one: profile.Profile, other: profile.Profile) -> Agreement:
    """Return how far two profiles agree on the cells that both have."""
    others = {_key(cell): cell for cell in other.cells}
    pairs = [(cell, others[_key(cell)]) for cell in one.cells if _key(cell) in others]
    clear = [a.winner == b.winner for a, b in pairs if not a.tied and not b.tied]
    half = [a.winner == b.winner for a, b in pairs if bool(a.tied) != bool(b.tied)]
    return Agreement(len(clear), sum(clear), len(half), sum(half), len(pairs) - len(clear) - len(half))


def _key(cell: profile.Cell) -> tuple[object, ...]:
    return cell.rows, cell.classes, cell.dtype, cell.operation, cell.threads


def _table(found: Sequence[HeldOut]) -> Table:
    table = plain_table()
    table.add_column("rows x classes", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in ("followed", "best there"):
        table.add_column(heading, no_wrap=True)
    table.add_column("regret", justify="right")
    for each in found:
        cell = each.cell
        costs = {one.backend: one.seconds or 0.0 for one in cell.measured if one.rejected is None and one.seconds}
        best = min(costs, key=costs.__getitem__)
        ties = " (tie)" if cell.tied else ""
        table.add_row(
            f"{cell.rows} x {cell.classes}", cell.operation,
            f"{each.followed} {words.duration(costs[each.followed])}", f"{best} {words.duration(costs[best])}{ties}",
            f"{each.regret:.1%}",
        )  # fmt: skip
    return table


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--time-budget", type=Duration(), default=60.0, show_default=True, help="Time for the held-out shapes.")
@click.option("--shapes", type=Shapes(), default=HELD_OUT, help="Shapes to hold out.  [default: fourteen]")
def main(first: Path, second: Path, time_budget: float, shapes: tuple[tuple[int, int], ...]) -> None:
    """Measure the choices of the profile FIRST at shapes that it does not have, then compare it with SECOND, a second
    pick on the same machine.

    The exit code is 0 if the mean regret is at most 5% and the picks agree on at least 95% of the cells that tie in
    neither, 1 if not, 2 if a profile cannot be read, and 3 if a session was contaminated.
    """
    try:
        one, other = profile.load(first), profile.load(second)
    except profile.ProfileError as error:
        raise Refused(str(error)) from None
    dtypes = tuple(dict.fromkeys(cell.dtype for cell in one.cells))
    known = {(cell.rows, cell.classes) for cell in one.cells}
    unseen = tuple(shape for shape in shapes if shape not in known)
    measured = pick(PickRequest(sources=tuple(planning.of_shapes(unseen, dtypes)), seconds=time_budget))
    if measured.profile is None:
        raise Refused("too little time: no held-out cell has a winner")
    found = held_out(one, measured.profile.cells)
    agreed = agreement(one, other)
    shown_on = console()
    shown_on.print(*report(one, measured.profile, found, agreed), sep="\n")
    shown_on.print(Text(words.machine(measured.run), style="dim"), Text(words.verdict(measured.run), style="bold red"))
    if measured.run.contaminated or one.notes.get("contaminated") or other.notes.get("contaminated"):
        sys.exit(3)
    good = mean_regret(found) <= WANTED_REGRET and agreed.same >= WANTED_AGREEMENT * agreed.clear
    sys.exit(0 if good else 1)


def mean_regret(found: Sequence[HeldOut]) -> float:
    """Return the geometric mean of cost over least cost, less 1."""
    return math.exp(fmean(math.log1p(each.regret) for each in found)) - 1


def report(
    one: profile.Profile, measured: profile.Profile, found: Sequence[HeldOut], agreed: Agreement
) -> list[RenderableType]:
    """Return the results as text."""
    regrets = [each.regret for each in found]
    above = sum(each > WANTED_REGRET for each in regrets)
    lines: list[RenderableType] = [
        Text("Held-out shapes: the choice of a profile without them, against the best", style="bold"),
        _table(found),
        "",
        f"Regret over {len(found)} held-out cells: mean {mean_regret(found):.1%}, median {median(regrets):.1%}, worst "
        f"{max(regrets):.1%}; above {WANTED_REGRET:.0%} in {above}.",
    ]
    for each in regret.of_single(measured.cells, TIME):
        lines.append(f"  {each.name} for everything: mean {each.mean:.1%}, worst {each.worst:.1%}")
    lines.append(
        f"Two picks of {len(one.cells)} cells: {agreed.same} of {agreed.clear} that tie in neither have the same "
        f"winner, as have {agreed.half_same} of {agreed.half} that tie in one; {agreed.ties} tie in both."
    )
    return lines


if __name__ == "__main__":
    main()
