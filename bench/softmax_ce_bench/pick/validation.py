"""Whether a pick can be trusted: shapes that it never saw, and a second pick beside the first.

``python -m softmax_ce_bench.pick.validation`` picks twice on the default grid, asks the first profile about held-out
shapes, and measures all backends there. It prints the regret of the followed choice against the best there, and how
often the two picks agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import click
from rich.table import Table
from rich.text import Text

from softmax_ce import profile
from softmax_ce.threads import available_cpus
from softmax_ce_bench.cli.common import console
from softmax_ce_bench.cli.options import Duration, Shapes
from softmax_ce_bench.compare import plan as planning
from softmax_ce_bench.pick import regret
from softmax_ce_bench.pick.request import TIME, Request
from softmax_ce_bench.pick.session import Outcome, pick
from softmax_ce_bench.report import words
from softmax_ce_bench.report.tables import plain_table

# None of them in a default grid, in rows or in classes; from a call's overhead to beyond the caches.
HELD_OUT = (
    (3, 7), (3, 40_000), (24, 150), (24, 1500), (100, 17), (100, 6000), (200, 45), (200, 700), (1000, 26),
    (1500, 250), (1500, 1300), (6000, 64), (6000, 150), (20_000, 13),
)  # fmt: skip
WANTED_REGRET, WANTED_AGREEMENT = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One held-out shape and operation.

    Attributes
    ----------
    cell : Cell
        As measured there.
    followed : str
        What the profile, made without it, has run.
    regret : float
        Its time over the least there, less 1.
    """

    cell: profile.Cell
    followed: str
    regret: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two picks beside each other.

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
    """What following a profile costs at shapes that are not in it.

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
    """How far two profiles agree, over the cells that both have."""
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


def _said(outcome: Outcome) -> Text:
    return Text(words.verdict(outcome.run), style="bold red")


@click.command()
@click.option("--time-budget", type=Duration(), default=60.0, show_default=True, help="Of each pick.")
@click.option("--held-out-budget", type=Duration(), default=40.0, show_default=True, help="For the held-out shapes.")
@click.option("--shapes", type=Shapes(), default=HELD_OUT, help="Held-out shapes.  [default: fourteen]")
@click.option("--grid", type=Shapes(), help="Shapes to pick on.  [default: the grid that fits the time]")
def main(
    time_budget: float, held_out_budget: float, shapes: tuple[tuple[int, int], ...],
    grid: tuple[tuple[int, int], ...] | None,
) -> None:  # fmt: skip
    """Pick twice, then ask the first profile about shapes that it never saw.

    Exits with 0 when the mean regret is at most 5% and the picks agree on at least 95% of the cells that
    are ties in neither, with 1 when not, with 3 when a session was contaminated.
    """
    sources = tuple(planning.of_shapes(grid, ("float32",))) if grid else ()
    request = Request(sources=sources, seconds=time_budget)
    first = pick(request)
    second = pick(request)
    unseen = pick(Request(sources=tuple(planning.of_shapes(shapes, ("float32",))), seconds=held_out_budget))
    if first.profile is None or second.profile is None or unseen.profile is None:
        raise click.ClickException("too little time: not one cell has a winner")
    found = held_out(first.profile, unseen.profile.cells)
    regrets = [each.regret for each in found]
    mean = math.exp(fmean(math.log1p(each) for each in regrets)) - 1
    agreed = agreement(first.profile, second.profile)
    single = regret.of_single(unseen.profile.cells, TIME)
    shown_on = console()
    shown_on.print("Held-out shapes: what a profile without them has run, against the best there", style="bold")
    shown_on.print(_table(found))
    shown_on.print(
        f"\nRegret over {len(found)} held-out cells: mean {mean:.1%}, median {median(regrets):.1%}, worst "
        f"{max(regrets):.1%}; above {WANTED_REGRET:.0%} in {sum(each > WANTED_REGRET for each in regrets)}."
    )
    for each in single[:2]:
        shown_on.print(f"  {each.name} for everything: mean {each.mean:.1%}, worst {each.worst:.1%}")
    shown_on.print(
        f"Two picks of {len(first.profile.cells)} cells: {agreed.same} of {agreed.clear} that are a tie in neither have "
        f"the same winner; so have {agreed.half_same} of {agreed.half} that are a tie in one; {agreed.ties} are a tie "
        f"in both."
    )
    shown_on.print(Text(words.machine(first.run), style="dim"))
    for outcome in (first, second, unseen):
        shown_on.print(_said(outcome), end="")
    if any(outcome.run.contaminated for outcome in (first, second, unseen)):
        sys.exit(3)
    good = mean <= WANTED_REGRET and agreed.same >= WANTED_AGREEMENT * agreed.clear
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
