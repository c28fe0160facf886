"""From paired times to verdicts: pure functions of numbers, whose error rates the tests check by simulation.

Two one-sided sign tests are made of a cell's rounds, each the exact one that counts rounds. Is the median ratio above
`SLOWER`? Is it below `RULED_OUT`? Under either null hypothesis each round falls on the wrong side with probability 1/2
at most, whatever the noise is like; a round in which another program had the CPU counts as one round, however far off
it is. A cell is slower once it has been shown to be above `SLOWER`, and then a second time in a measurement of its own.
It is clean once it has been shown to be below `RULED_OUT`. Between the two limits either answer is right.

A cell that has shown neither goes on, and is looked at again. Looking often enough finds anything, so each look may
err only so often that all looks together keep to the rate that is claimed: look k of a measurement spends
1 / (k (k + 1)) of it. These add up to 1, so there may be any number of looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmax_ce_bench.measure.stats import Ratio, paired_ratio

ROUNDS = 16  # before the first look
FEWEST_ROUNDS = 15  # with fewer, nothing is said
GROWTH = 1.5  # from one look to the next
SLOWER = 1.02  # a cell is slower if its median ratio is above this
RULED_OUT = 1.04  # it is clean if its median ratio is below this
CLAIM = 1.05  # a slowdown of so much is found; beyond the limits, so that few rounds tell
FALSE_ALARMS = 0.01  # runs in which some cell no slower than `SLOWER` is called slower
MISSED = 0.05  # cells at `RULED_OUT` or above that are called clean
NOTED = 1.01  # by which a cell is slightly slower, or faster: reported, never gated
DIFFERENT = 0.001  # its p-value at most
MOVED = 0.02  # by which the control may differ from itself: as much as would make a cell slower


class Exit(IntEnum):
    """The exit codes of the command."""

    CLEAN = 0
    SLOWER = 1
    ERROR = 2
    INCONCLUSIVE = 3


class Verdict(StrEnum):
    """The verdict on a cell."""

    SAME = "same"
    FASTER = "faster"
    NOTED = "slightly slower"
    SLOWER = "SLOWER"
    ONCE = "slower once"  # not again in the second measurement
    UNSURE = "unsure"


class Look(IntEnum):
    """The result of one look at a measurement of a cell."""

    SLOWER = 1  # shown to be above `SLOWER`
    CLEAN = -1  # shown to be below `RULED_OUT`
    OPEN = 0  # neither


@dataclass(frozen=True, slots=True)
class Found:
    """The state of one measurement of a cell at its latest look.

    Attributes
    ----------
    ratio : Ratio
        Median of head's time over base's, with its interval.
    p_slower : float
        The p-value of the sign test against a ratio of `SLOWER` or less.
    p_clean : float
        The p-value of the sign test against a ratio of `RULED_OUT` or more.
    p_different : float
        The p-value of the two-sided sign test against equal times.
    call : Look
    look : int
        Which one this was, from 1.
    rounds : int
    """

    ratio: Ratio
    p_slower: float
    p_clean: float
    p_different: float
    call: Look
    look: int
    rounds: int


def rounds_at(look: int, first: int = ROUNDS) -> int:
    """Return the number of rounds at a look, counted from 1."""
    return math.ceil(first * GROWTH ** (look - 1))


def level(total: float, look: int) -> float:
    """Return the share of the total error rate that a look, counted from 1, may use."""
    return total / (look * (look + 1))


def alarm_rate(cells: int) -> float:
    """Return the probability that one measurement of a cell calls it slower by mistake.

    Two measurements must agree, and each of the cells of a run may raise the alarm.
    """
    return math.sqrt(FALSE_ALARMS / cells)


def judge(base: ArrayLike, head: ArrayLike, look: int = 1, cells: int = 1, seed: int = 0) -> Found:
    """Return what the latest look at a measurement of a cell says.

    Parameters
    ----------
    base, head : array_like, shape (rounds,)
        Times, paired by round.
    look : int
        Which look this is, from 1.
    cells : int
        In the run.
    seed : int
        The seed of the interval's bootstrap.
    """
    logs = np.log(np.asarray(head)) - np.log(np.asarray(base))
    call = Look(int(calls(logs[None], look, cells)[0]))
    p_different = min(1.0, 2 * min(p_above(logs), p_below(logs)))
    ratio = paired_ratio(head, base, seed=seed)
    return Found(ratio, p_above(logs, SLOWER), p_below(logs, RULED_OUT), p_different, call, look, logs.size)


def calls(logs: NDArray[np.float64], look: int = 1, cells: int = 1) -> NDArray[np.int64]:
    """Return the result of a look at each row of log ratios, shape (measurements, rounds), as values of `Look`."""
    rounds = logs.shape[1]
    if rounds < FEWEST_ROUNDS:
        return np.full(len(logs), Look.OPEN)
    slower = p_above(logs, SLOWER) <= level(alarm_rate(cells), look)
    clean = p_below(logs, RULED_OUT) <= level(MISSED / 2, look)  # either measurement may miss it
    found: NDArray[np.int64] = np.where(slower, Look.SLOWER, np.where(clean, Look.CLEAN, Look.OPEN))
    return found


def follow(logs: NDArray[np.float64], cells: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the final result of measurements that go on until a look decides or their rounds end.

    Parameters
    ----------
    logs : ndarray, shape (measurements, rounds)
        Log ratios.
    cells : int
        In the run.

    Returns
    -------
    found : ndarray of int, shape (measurements,)
        Values of `Look`.
    rounds : ndarray of int, shape (measurements,)
        How many each took.
    """
    found = np.full(len(logs), Look.OPEN)
    rounds = np.full(len(logs), logs.shape[1])
    look = 1
    while (taken := rounds_at(look)) <= logs.shape[1]:
        going = np.flatnonzero(found == Look.OPEN)
        found[going] = calls(logs[going, :taken], look, cells)
        rounds[going] = taken
        look += 1
    return found, rounds


def verdict(first: Found, second: Found | None = None) -> Verdict:
    """Return the verdict on a cell, from its second measurement too if the first called it slower."""
    if first.call is Look.SLOWER:
        again = Look.OPEN if second is None else second.call
        return {Look.SLOWER: Verdict.SLOWER, Look.CLEAN: Verdict.ONCE, Look.OPEN: Verdict.UNSURE}[again]
    if first.call is Look.OPEN:
        return Verdict.UNSURE
    if first.p_different <= DIFFERENT and max(first.ratio.median, 1 / first.ratio.median) >= NOTED:
        return Verdict.NOTED if first.ratio.median > 1 else Verdict.FASTER
    return Verdict.SAME


def conclusion(verdicts: Sequence[Verdict], control: Ratio) -> Exit:
    """Return the exit code of a run. If the control has moved, the verdicts do not count."""
    if control.drift > MOVED:
        return Exit.INCONCLUSIVE
    if Verdict.SLOWER in verdicts:
        return Exit.SLOWER
    return Exit.INCONCLUSIVE if Verdict.UNSURE in verdicts else Exit.CLEAN


def p_above(logs: ArrayLike, ratio: float = 1.0) -> Any:
    """Return the one-sided p-value of the exact sign test that the median ratio is above a value.

    Parameters
    ----------
    logs : array_like, shape (..., rounds)
        log(head / base).
    ratio : float
        A round that is exactly there counts as not above.

    Returns
    -------
    float or ndarray of float, shape (...)
    """
    return _p_value(np.asarray(logs, np.float64) > math.log(ratio))


def p_below(logs: ArrayLike, ratio: float = 1.0) -> Any:
    """Return the one-sided p-value of the exact sign test that the median ratio is below a value; see `p_above`."""
    return _p_value(np.asarray(logs, np.float64) < math.log(ratio))


def _p_value(wins: NDArray[np.bool_]) -> Any:
    """Return the probability of winning at least so many rounds if each were the toss of a fair coin."""
    from scipy.stats import binom  # takes a second to import, in which every other command has answered

    return binom.sf(np.count_nonzero(wins, axis=-1) - 1, wins.shape[-1], 0.5)
