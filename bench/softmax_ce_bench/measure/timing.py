"""Interleaved samples of named candidates, paired within rounds. Nothing is printed.

In every round each candidate gives one sample, in an order drawn anew, so that a slow second of the
machine falls on all of them and a ratio within the round stays what it was. A sample is as many calls
as fill `SAMPLE_SECONDS`, with the garbage collector off. A frozen kernel that nobody edits, the control,
is measured in every round under two names: what it differs from itself is what the session cannot tell.

A candidate is a function of this process, or a :class:`Sampler`, which may time something in another process.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, TIE, Ratio, paired_ratio

SAMPLE_SECONDS = 2e-3  # some 10 000 times what reading the clock costs
MOST_ROUNDS = 100
MOST_CALLS = 1 << 20  # in a sample, whatever the clock says
CONTAMINATED = TIE  # a control that differs from itself by more: the session cannot tell what a tie is

Clock = Callable[[], float]
Call = Callable[[], object]


class Sampler(Protocol):
    """Something that can be timed, in this process or another."""

    def calibrate(self, sample_seconds: float) -> int:
        """Warm up, and return the number of calls that fill a sample."""

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""


@dataclass(frozen=True, slots=True)
class Local:
    """A function of this process as a :class:`Sampler`.

    Attributes
    ----------
    run : callable
    before : callable, optional
        Called before every sample, untimed, to put back what the function overwrites; a sample is one call then.
    clock : callable
    """

    run: Call
    before: Call | None = None
    clock: Clock = time.perf_counter

    def calibrate(self, sample_seconds: float) -> int:
        """Warm up, and return the number of calls that fill a sample."""
        if self.before is None:
            return calibrate(self.run, sample_seconds, self.clock)
        self.sample(1)
        return 1

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""
        if self.before is not None:
            self.before()
        elif calls > 1:
            self.run()  # whoever ran before may have emptied the caches, which a single long call would do itself
        return sample(self.run, calls, self.clock)


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a session.

    Attributes
    ----------
    seconds : dict
        Name -> (rounds,) seconds a call; entry k of every name belongs to round k.
    calls : dict
        Name -> calls in one sample.
    control : tuple of two ndarray
        The control's seconds a call, under its two names.
    overhead : float
        Seconds that one sample of an empty function takes. Not subtracted.
    """

    seconds: dict[str, NDArray[np.float64]]
    calls: dict[str, int]
    control: tuple[NDArray[np.float64], NDArray[np.float64]]
    overhead: float

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return len(self.control[0])

    @property
    def control_ratio(self) -> Ratio:
        """Return the ratio of the control to itself, which is 1 on a quiet machine."""
        return paired_ratio(*self.control)


def measure(
    candidates: Mapping[str, Call | Sampler],
    *,
    seconds: float,
    most_seconds: float = 0.0,
    seed: int = 0,
    sample_seconds: float = SAMPLE_SECONDS,
    most_rounds: int = MOST_ROUNDS,
    on_round: Callable[[float], None] | None = None,
    control: Call | None = None,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time every candidate in interleaved rounds.

    Parameters
    ----------
    candidates : mapping
        Name -> function without arguments, or :class:`Sampler`. Each is called before it is timed, and so warmed up.
    seconds : float
        Time for all of it, warming up included. One round is measured even if that takes longer.
    most_seconds : float
        After `seconds` it goes on until there are rounds enough for an interval, but not beyond this.
    seed : int
        The seed of the order within the rounds.
    sample_seconds : float
        A sample is at least about this long.
    most_rounds : int
        Ends the session before the time is up.
    on_round : callable, optional
        Called after each round with the fraction done, in [0, 1].
    control : callable, optional
        The function to use instead of :func:`frozen_control`.
    clock : callable
        Seconds, as from :func:`time.perf_counter`.

    Returns
    -------
    Samples
    """
    begin = clock()
    samplers = [Local(c, clock=clock) if callable(c) else c for c in candidates.values()]
    samplers.append(Local(frozen_control() if control is None else control, clock=clock))
    calls = [sampler.calibrate(sample_seconds) for sampler in samplers]
    samplers.append(samplers[-1])  # the control's two names run the very same loop
    calls.append(calls[-1])
    rng = np.random.default_rng(seed)
    rounds: list[NDArray[np.float64]] = []
    longest = 0.0
    while len(rounds) < most_rounds:
        start = clock()
        allowed = seconds if len(rounds) >= FEWEST_ROUNDS else max(seconds, most_seconds)
        if rounds and start + longest > begin + allowed:
            break
        row = np.empty(len(samplers))
        for i in rng.permutation(len(samplers)):
            row[i] = samplers[i].sample(calls[i])
        rounds.append(row)
        longest = max(longest, clock() - start)
        if on_round is not None:
            on_round(_fraction(len(rounds) / most_rounds, (clock() - begin) / seconds if seconds > 0 else 1.0))
    table = np.array(rounds).T
    names = list(candidates)
    return Samples(
        seconds=dict(zip(names, table, strict=False)),
        calls=dict(zip(names, calls, strict=False)),
        control=(table[-2], table[-1]),
        overhead=timer_overhead(clock),
    )


def sample(run: Call, calls: int, clock: Clock = time.perf_counter) -> float:
    """Return the seconds per call of one batch of calls, with the garbage collector held off."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        for _ in itertools.repeat(None, calls):
            run()
        return (clock() - start) / calls
    finally:
        if collecting:
            gc.enable()


def calibrate(run: Call, sample_seconds: float, clock: Clock = time.perf_counter) -> int:
    """Warm up, and return the number of calls that fill a sample."""
    run()
    calls = 1
    while calls < MOST_CALLS:
        taken = calls * sample(run, calls, clock)
        if taken >= sample_seconds:
            break
        # At most tenfold at a time: a first, cold sample must not be extrapolated far.
        wanted = math.ceil(1.2 * calls * sample_seconds / taken) if taken > 0 else 10 * calls
        calls = min(MOST_CALLS, 10 * calls, max(calls + 1, wanted))
    return calls


def timer_overhead(clock: Clock = time.perf_counter, repeats: int = 201) -> float:
    """Return the seconds that a sample of one call of an empty function takes, as the median of many."""
    return statistics.median(sample(_nothing, 1, clock) for _ in range(repeats))


def frozen_control() -> Call:
    """Return the control: a max-shifted softmax in plain NumPy on fixed numbers, which takes about 0.1 ms.

    Frozen: an edit here breaks the comparability of every session on record.
    """
    logits = np.random.default_rng(20_240_229).standard_normal((256, 128)).astype(np.float32)
    buffer = np.empty_like(logits)

    def control() -> None:
        np.subtract(logits, logits.max(axis=1, keepdims=True), out=buffer)
        np.exp(buffer, out=buffer)
        np.divide(buffer, buffer.sum(axis=1, keepdims=True), out=buffer)

    return control


def _nothing() -> None:
    pass


def _fraction(by_rounds: float, by_time: float) -> float:
    return min(1.0, max(by_rounds, by_time))
