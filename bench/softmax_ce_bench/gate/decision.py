"""From paired times to verdicts. Pure functions of numbers, whose error rates tests check by simulation.

A cell counts as slower when its median ratio reaches `SLOWER` and a one-sided sign-flip test says so too, and when
both happen again in a second measurement of its own. The test is the exact one that counts the rounds in which head is
slower: under the hypothesis that the builds are alike, each round's sign is a coin. It looks at signs alone, since on a
shared machine a round in which somebody else had the CPU is far off, and in a sum would outweigh the others; how much
slower it is, is the median's matter.

Whether a cell that is not slower has been shown not to be, is a question of power: would a slowdown of `CLAIM` have
been found with these rounds and this scatter? The scatter is the cell's own, resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import CONTAMINATED

ROUNDS = 16
FEWEST_ROUNDS = 15  # with fewer, nothing is said
MOST_ROUNDS = 48  # to which a cell is extended that scatters
SLOWER = 1.07  # the median ratio that counts
NOTED = 1.05  # reported, never gated
SIGNIFICANT = 0.001
CLAIM = 1.10  # the slowdown that is to be found ...
POWER = 0.95  # ... with this probability, in both measurements
_RESAMPLES = 1000


class Exit(IntEnum):
    """What the command exits with."""

    CLEAN = 0
    SLOWER = 1
    ERROR = 2
    INCONCLUSIVE = 3


class Verdict(StrEnum):
    """What is said of a cell."""

    SAME = "same"
    FASTER = "faster"
    NOTED = "slightly slower"
    SLOWER = "SLOWER"
    ONCE = "slower once"  # not again in the second measurement
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Found:
    """One cell in one measurement.

    Attributes
    ----------
    ratio : Ratio
        Median of head's time over base's, with its interval.
    p_slower, p_faster : float
        Of the sign-flip tests.
    power : float
        Probability that this measurement would have called a slowdown of `CLAIM` slower.
    rounds : int
    """

    ratio: Ratio
    p_slower: float
    p_faster: float
    power: float
    rounds: int

    @property
    def is_slower(self) -> bool:
        """Whether this measurement calls it slower."""
        return self.ratio.median >= SLOWER and self.p_slower <= SIGNIFICANT

    @property
    def is_powerful(self) -> bool:
        """Whether two measurements like this would find a slowdown of `CLAIM` with probability `POWER`."""
        return self.power**2 >= POWER


def judge(base: ArrayLike, head: ArrayLike, seed: int = 0) -> Found:
    """One cell's measurement.

    Parameters
    ----------
    base, head : array_like, shape (rounds,)
        Times, paired by round.
    seed : int
        Of the resampling.
    """
    ratio = paired_ratio(head, base, seed=seed)
    logs = np.log(np.asarray(head)) - np.log(np.asarray(base))
    return Found(ratio, p_greater(logs), p_greater(-logs), power(logs, seed=seed), logs.size)


def verdict(first: Found, second: Found | None = None) -> Verdict:
    """What is said of a cell, with its second measurement if the first called it slower."""
    if first.rounds < FEWEST_ROUNDS:
        return Verdict.UNSURE
    if first.is_slower:
        if second is None or second.rounds < FEWEST_ROUNDS:
            return Verdict.UNSURE
        if second.is_slower:
            return Verdict.SLOWER
        return Verdict.ONCE if second.is_powerful else Verdict.UNSURE
    if not first.is_powerful:
        return Verdict.UNSURE
    if first.p_slower <= SIGNIFICANT and first.ratio.median >= NOTED:
        return Verdict.NOTED
    if first.p_faster <= SIGNIFICANT and first.ratio.median <= 1 / NOTED:
        return Verdict.FASTER
    return Verdict.SAME


def conclusion(verdicts: list[Verdict], control: Ratio) -> Exit:
    """What the whole run comes to. A control that moved makes everything else hearsay."""
    if control.drift > CONTAMINATED:
        return Exit.INCONCLUSIVE
    if Verdict.SLOWER in verdicts:
        return Exit.SLOWER
    return Exit.INCONCLUSIVE if Verdict.UNSURE in verdicts else Exit.CLEAN


def p_greater(logs: ArrayLike) -> float:
    """One-sided p-value of the exact sign-flip test: is the centre above 0? A zero counts as not above."""
    logs = np.asarray(logs, np.float64)
    return float(_p_value(np.count_nonzero(logs > 0), logs.size))


def power(logs: ArrayLike, slowdown: float = CLAIM, *, seed: int = 0, resamples: int = _RESAMPLES) -> float:
    """Probability that as many rounds with this scatter call a true slowdown slower.

    Parameters
    ----------
    logs : array_like, shape (rounds,)
        log(head / base); their median is taken out.
    slowdown : float
        The true ratio.
    seed, resamples : int
        Of the bootstrap over rounds.
    """
    logs = np.asarray(logs, np.float64)
    drawn = np.random.default_rng(seed).integers(0, logs.size, (resamples, logs.size))
    return float(calls_slower((logs - np.median(logs))[drawn] + np.log(slowdown)).mean())


def calls_slower(logs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """For each row of log ratios, shape (measurements, rounds): whether the measurement calls it slower."""
    significant = _p_value(np.count_nonzero(logs > 0, axis=1), logs.shape[1]) <= SIGNIFICANT
    large: NDArray[np.bool_] = np.median(logs, axis=1) >= np.log(SLOWER)
    return significant & large


def _p_value(above: Any, rounds: int) -> Any:
    """Probability that so many fair coins, or more, fall on one side."""
    from scipy.stats import binom  # takes a second to import, in which every other command has answered

    return binom.sf(above - 1, rounds, 0.5)
