"""Paired ratios of times: the median and its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
# All n rounds lie on one side of the true median with probability 2 * 0.5**n: below six rounds not even their
# whole range is a 95 % interval.
FEWEST_ROUNDS = 6
TIE = 0.03  # a smaller gap between two times is called a tie


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median over the rounds with its confidence interval.

    Attributes
    ----------
    median : float
        The median.
    low : float
        The lower end; 0 if there were too few rounds to tell.
    high : float
        The upper end; infinite if there were too few rounds to tell.
    """

    median: float
    low: float
    high: Annotated[float, "infinite"]  # for softmax_ce.documents, which is not imported beside another build

    def fault(self) -> str | None:
        """Return what is wrong with a ratio that was read from a file, or None."""
        if 0 < self.median < math.inf and 0 <= self.low <= self.median <= self.high:
            return None
        return "is no interval of positive numbers with its median in it"

    def overlaps(self, other: Ratio) -> bool:
        """Return whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high

    @property
    def drift(self) -> float:
        """Return the distance of the median from 1 as a fraction. It is the same for a ratio and its inverse."""
        return max(self.median, 1 / self.median) - 1


def paired_ratio(numerator: ArrayLike, denominator: ArrayLike, *, seed: int = 0, resamples: int = 4000) -> Ratio:
    """Return the median over rounds of numerator / denominator, with a percentile bootstrap interval.

    The median is taken of the logarithms, so that swapping the two sides gives exactly the inverse.

    Parameters
    ----------
    numerator, denominator : array_like, shape (rounds,)
        Positive times; entry k of both was measured in round k.
    seed : int
        The seed of the bootstrap.
    resamples : int
        Bootstrap resamples of the rounds.

    Returns
    -------
    Ratio

    Raises
    ------
    ValueError
        The two differ in length, are empty, or hold a time that is not positive.
    """
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if above.shape != below.shape or above.ndim != 1 or above.size == 0:
        raise ValueError(f"paired times must be two vectors of one length, got {above.shape} and {below.shape}")
    if not (above > 0).all() or not (below > 0).all():
        raise ValueError("times must be positive")
    logs = np.log(above) - np.log(below)
    median = float(np.exp(np.median(logs)))
    if logs.size < FEWEST_ROUNDS:
        return Ratio(median, 0.0, np.inf)
    drawn = np.random.default_rng(seed).integers(0, logs.size, (resamples, logs.size))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(logs[drawn], axis=1), [tail, 1 - tail])
    return Ratio(median, float(np.exp(low)), float(np.exp(high)))
