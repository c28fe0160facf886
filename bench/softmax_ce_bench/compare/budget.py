"""The time budget of a run: how it is shared among the cells, and when a cell that takes longer is stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.timing import Clock, Sampler

_ASSUMED = 1e-9  # seconds an element, of what has not been measured yet
_LIKE = 8  # times as large, a call still takes about as long an element
_SAMPLE = 2.5 * timing.SAMPLE_SECONDS  # of a candidate and round: a sample, its untimed call, the pause after a peer's
_MAKING = 2e-8  # seconds an element: drawing the numbers
_ENDING = 1.0  # seconds: the last cell's intervals, and the end of the peers' processes
_CHECKING = 0.3  # seconds a cell: the reference, and the intervals afterwards


class OutOfTime(Exception):
    """The time is up before one round was complete."""


class CandidateFailed(Exception):
    """A candidate raised while it was being timed."""

    def __init__(self, who: str, error: Exception) -> None:
        super().__init__(f"{who}: {error}")
        self.who = who
        self.error = error


@dataclass(slots=True)
class Budget:
    """The seconds of a run.

    Attributes
    ----------
    seconds : float
    clock : callable
    deadline : float
        On that clock; infinite until :meth:`start`.
    """

    seconds: float
    clock: Clock
    deadline: float = math.inf
    _learned: dict[str, tuple[int, float]] = field(default_factory=dict)  # elements, and seconds an element

    def start(self) -> None:
        """Start the clock."""
        self.deadline = self.clock() + self.seconds - min(_ENDING, 0.1 * self.seconds)

    @property
    def left(self) -> float:
        """Return the seconds left; negative if the budget is overspent."""
        return self.deadline - self.clock()

    def learn(self, elements: int, seconds: Mapping[str, float]) -> None:
        """Record the time of a call of each candidate on so many elements, for later estimates."""
        for name, taken in seconds.items():
            if elements >= self._learned.get(name, (0, 0.0))[0]:
                self._learned[name] = elements, taken / elements

    def a_round(self, elements: int, names: Iterable[str]) -> float:
        """Return an estimate of the seconds that a round takes."""
        return sum(max(_SAMPLE, self._an_element(name, elements) * elements) for name in names)

    def _an_element(self, name: str, elements: int) -> float:
        """Return the seconds per element. Small calls say little about large ones, except that these are no slower."""
        seen, rate = self._learned.get(name, (0, math.inf))
        return rate if elements <= _LIKE * seen else min(rate, _ASSUMED)

    def fixed(self, elements: int) -> float:
        """Return an estimate of the seconds before a cell's first round and after its last one."""
        return _CHECKING + _MAKING * elements

    def least(self, elements: int, names: Iterable[str]) -> float:
        """Return an estimate of the least seconds that a cell takes: warm-up and one round."""
        return self.fixed(elements) + 2 * self.a_round(elements, names)

    def share(self, cells: list[tuple[int, list[str]]], reserved: float = 0.0) -> float:
        """Return the seconds for the first of the remaining cells, each given by its elements and candidates.

        In proportion to what a round of each takes, so that all get about as many rounds; but none gets more than
        the most rounds need. `reserved` seconds are left for something else.
        """
        weights = [self.a_round(*cell) for cell in cells]
        most = self.fixed(cells[0][0]) + (timing.MOST_ROUNDS + 2) * weights[0]
        spare = self.left - reserved - sum(self.fixed(elements) for elements, _ in cells)
        return min(most, self.fixed(cells[0][0]) + max(0.0, spare) * weights[0] / sum(weights))


@dataclass(slots=True)
class DeadlineSampler:
    """A sampler that stops if the time is up before the first round is complete, and that names the candidate behind an
    error.

    Later rounds need no look at the clock: :func:`softmax_ce_bench.measure.timing.measure` begins none that would not
    end in time.

    Attributes
    ----------
    who : str
    sampler : Sampler
    budget : Budget
    """

    who: str
    sampler: Sampler
    budget: Budget
    _sampled: bool = False

    def calibrate(self, sample_seconds: float) -> int:
        """Warm up, and return how many calls fill a sample."""
        self._check()
        try:
            return self.sampler.calibrate(sample_seconds)
        except Exception as error:  # a backend or a library may raise anything
            raise CandidateFailed(self.who, error) from error

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""
        if not self._sampled:
            self._check()
            self._sampled = True
        try:
            return self.sampler.sample(calls)
        except Exception as error:
            raise CandidateFailed(self.who, error) from error

    def _check(self) -> None:
        if self.budget.left <= 0:
            raise OutOfTime
