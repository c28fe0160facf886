"""Who is fastest, ties called ties."""

from __future__ import annotations

from collections.abc import Iterable

from softmax_ce_bench.compare.model import RANKED, Entry
from softmax_ce_bench.stats import FEWEST_ROUNDS

TIE = 0.03  # a smaller gap is called a tie


def fastest(entries: Iterable[Entry], operation: str, rounds: int) -> tuple[str, ...]:
    """The fastest ranked candidate, then those that it ties with, the faster first.

    Two tie when their intervals overlap or the gap is below `TIE`. Empty when none is ranked, or when there are too
    few rounds to tell.
    """
    if rounds < FEWEST_ROUNDS:
        return ()
    ranked = [
        (entry.timings[operation].speedup, entry.name)
        for entry in entries
        if entry.status == RANKED and operation in entry.timings
    ]
    ranked.sort(key=lambda pair: -pair[0].median)
    if not ranked:
        return ()
    best = ranked[0][0]
    return tuple(name for ratio, name in ranked if best.overlaps(ratio) or best.median < ratio.median * (1 + TIE))
