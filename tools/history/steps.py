"""The lasting changes of a series, found by asv's own detector on ratios instead of differences."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from asv.step_detect import detect_steps

from tools.history.results import Series

LEAST = 0.05  # what asv calls a regression


@dataclass(frozen=True, slots=True)
class Step:
    """A change between two levels.

    Attributes
    ----------
    commit : int
        Index of the first commit on the new level.
    before, after : float
        The levels, in the series' unit.
    """

    commit: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """Return the new level over the old one. Below 1 is faster."""
        return self.after / self.before


def steps(series: Series, least: float = LEAST) -> list[Step]:
    """Return the steps of a series.

    asv fits a function that is constant between steps, with a price for each step. Of logarithms here, so that a
    halving costs the same at any level: a history that begins at seven times today's speed hides no later 10 %.

    Parameters
    ----------
    series : Series
    least : float
        Changes by less, up or down, are left out.

    Returns
    -------
    list of Step
        Oldest first.
    """
    logs = [math.log(value) if value else None for value in series.values]
    pieces = detect_steps(logs)
    found = [Step(new[0], math.exp(old[2]), math.exp(new[2])) for old, new in itertools.pairwise(pieces)]
    return [step for step in found if abs(math.log(step.ratio)) >= math.log1p(least)]
