"""Which candidates are the fastest. Ties are reported as ties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from softmax_ce_bench.compare.result import RANKED, Entry
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, TIE, Ratio


def fastest(entries: Iterable[Entry], operation: str, rounds: int) -> tuple[str, ...]:
    """Return the fastest ranked candidate and those that tie with it, the fastest first.

    Empty when none is ranked, or when there are too few rounds to tell.
    """
    if rounds < FEWEST_ROUNDS:
        return ()
    return least(
        {
            entry.name: inverse(entry.timings[operation].speedup)
            for entry in entries
            if entry.status == RANKED and operation in entry.timings
        }
    )


def least(costs: Mapping[str, Ratio]) -> tuple[str, ...]:
    """Return the name with the least cost and those that tie with it, the least cost first.

    Two tie when their intervals overlap or the gap is below :data:`~softmax_ce_bench.measure.stats.TIE`.
    """
    if not costs:
        return ()
    names = sorted(costs, key=lambda name: costs[name].median)
    best = costs[names[0]]
    return tuple(name for name in names if best.overlaps(costs[name]) or costs[name].median < best.median * (1 + TIE))


def inverse(ratio: Ratio) -> Ratio:
    """Return a speed-up as a cost, or a cost as a speed-up."""
    return Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low if ratio.low else math.inf)
