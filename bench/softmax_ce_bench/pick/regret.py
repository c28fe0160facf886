"""Regret: the cost of a choice relative to the best one, and the cost of one backend for everything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softmax_ce.profile import Cell


@dataclass(frozen=True, slots=True)
class Regret:
    """The regret of one way to choose, over several cells.

    Attributes
    ----------
    name : str
        The backend that runs everywhere; "profile": each cell's winner.
    mean : float
        The geometric mean over the cells of cost / least cost, less 1.
    worst : float
        The largest of them, less 1.
    where : Cell
        The cell of the worst.
    """

    name: str
    mean: float
    worst: float
    where: Cell


def of_profile(cells: Sequence[Cell], objective: str) -> Regret:
    """Return the regret of the stored winners: the cost of ties that went to the simpler backend."""
    return _over("profile", [(cell, _ratio(cell, cell.winner, objective)) for cell in cells])


def of_single(cells: Sequence[Cell], objective: str) -> tuple[Regret, ...]:
    """Return the regret of each backend that is eligible in every cell if it runs in all of them, the least first."""
    names = dict.fromkeys(one.backend for cell in cells for one in cell.measured)
    everywhere = [name for name in names if all(name in _eligible(cell, objective) for cell in cells)]
    found = [_over(name, [(cell, _ratio(cell, name, objective)) for cell in cells]) for name in everywhere]
    return tuple(sorted(found, key=lambda regret: regret.mean))


def _eligible(cell: Cell, objective: str) -> dict[str, float]:
    costs = {one.backend: one.cost(objective) for one in cell.measured if one.rejected is None}
    return {name: float(cost) for name, cost in costs.items() if cost is not None}


def _ratio(cell: Cell, name: str, objective: str) -> float:
    costs = _eligible(cell, objective)
    return costs[name] / min(costs.values())


def _over(name: str, ratios: Iterable[tuple[Cell, float]]) -> Regret:
    found = list(ratios)
    mean = math.exp(math.fsum(math.log(ratio) for _, ratio in found) / len(found)) - 1
    where, worst = max(found, key=lambda pair: pair[1])
    return Regret(name, mean, worst - 1, where)
