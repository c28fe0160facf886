"""What the runs come to: counts with exact intervals, and rounds resampled into many more runs than there were.

The two are told apart everywhere. A real run is the whole gate, on the machine, with its second measurement. A
resampled run draws the rounds of one cell (of power), or whole rounds of all cells (of false alarms), with replacement
from all the real runs of an arm, and decides by the same functions: it knows of no disturbance that lasts from one
round to the next, and of no extension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from softmax_ce_bench.gate import cells as gated
from softmax_ce_bench.gate import decision
from softmax_ce_bench.gate.cells import OPERATIONS
from softmax_ce_bench.gate.decision import Exit, Verdict
from tools.gate_credentials.arms import ALIKE, ARMS, INJECTED, LEVELS, Arm, work
from tools.gate_credentials.store import Run

RESAMPLED = 10_000  # suites; of power, so many measurements a cell
_CONFIDENCE = 0.95
_BINS = (0.0, 0.03, 0.05, 0.07, 0.10, 0.12, 0.15, 0.20, 0.50, np.inf)  # of slowdowns as measured


@dataclass(frozen=True, slots=True)
class Rate:
    """So many out of so many, with the exact interval of Clopper and Pearson (95 %)."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The fraction; NaN of nothing."""
        return self.count / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its interval."""
        if not self.of:
            return 0.0, 1.0
        found = scipy.stats.binomtest(self.count, self.of).proportion_ci(_CONFIDENCE, method="exact")
        return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The real runs of an arm.

    Attributes
    ----------
    arm : Arm
    slower, inconclusive : Rate
        Of its runs: exit codes 1 and 3.
    seconds : float
        Median of a run's measuring.
    drift : float
        Largest of the control.
    """

    arm: Arm
    slower: Rate
    inconclusive: Rate
    seconds: float
    drift: float


@dataclass(frozen=True, slots=True)
class Power:
    """How often a slowdown of some cells was called slower.

    Attributes
    ----------
    what : str
    share : float
        Injected; NaN of a mutant.
    ratio : tuple of float
        The least, the median and the largest of the cells' true ratios, from all rounds of all runs.
    cells : int
    real : Rate
        Of cells in real runs, both measurements.
    resampled : float
        The same, resampled: the mean over the cells. NaN where there is nothing to resample.
    worst : float
        The same of the worst cell.
    """

    what: str
    share: float
    ratio: tuple[float, float, float]
    cells: int
    real: Rate
    resampled: float
    worst: float


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Everything.

    Attributes
    ----------
    outcomes : tuple of Outcome
    disturbed : int
        Runs that were to be alone on the machine and were not; they count nowhere else.
    false_alarms, near : Rate
        Of resampled A/A suites: called slower in two measurements, and in the first of them.
    false_cells : Rate
        Of cells in real A/A runs.
    alike : ndarray
        Every cell's median log ratio in every real A/A run.
    by_backend : tuple of Power
        For each level, backend and operation.
    by_level : tuple of Power
    by_slowdown : tuple of (float, float, Rate)
        Least and largest slowdown as measured over all runs of an arm; and how many of such cells, in all real runs
        of builds slowed on purpose, were called slower.
    curve : tuple of (float, float, float)
        True slowdown, power of the median cell and of the worst cell, resampled from the A/A runs' scatter.
    mutants : tuple of Power
        Of the cells that became slower by what is claimed to be found, or more.
    concerned : tuple of (int, float, float, float)
        For each mutant: how many cells it concerns, their least, median and largest ratio.
    """

    outcomes: tuple[Outcome, ...]
    disturbed: int
    false_alarms: Rate
    near: Rate
    false_cells: Rate
    alike: NDArray[np.float64]
    by_backend: tuple[Power, ...]
    by_level: tuple[Power, ...]
    by_slowdown: tuple[tuple[float, float, Rate], ...]
    curve: tuple[tuple[float, float, float], ...]
    mutants: tuple[Power, ...]
    concerned: tuple[tuple[int, float, float, float], ...]


def summarize(runs: Sequence[Run], resampled: int = RESAMPLED, arms: Sequence[Arm] = ARMS) -> Summary:
    """What a campaign's runs come to."""
    alone = [run for run in runs if not run.disturbed]
    of = {arm.name: [run for run in alone if run.arm == arm.name] for arm in arms}
    alike = of[ALIKE]
    cells = list(alike[0].logs) if alike else []
    injected = [cell.text for cell in gated.of(dict.fromkeys(cell.split()[0] for cell in cells), INJECTED)]
    backends = list(dict.fromkeys(cell.split()[0] for cell in cells))
    near, false_alarms = _suites(alike, resampled)
    levels = {share: of[work(share)] for share in LEVELS}
    mutants = [(mutant, of[arm.name]) for arm in arms if of[arm.name] for mutant in arm.mutants]
    changed = [[cell for cell in cells if mutant.concerns(cell)] for mutant, _ in mutants]
    on_purpose = [arm.name for arm in arms if arm.mutants or arm.name in map(work, LEVELS)]
    slowed = [of[name] for name in on_purpose if of[name]]
    return Summary(
        outcomes=tuple(_outcome(arm, of[arm.name]) for arm in arms if of[arm.name]),
        disturbed=len(runs) - len(alone),
        false_alarms=false_alarms,
        near=near,
        false_cells=_called([run.verdicts[cell] for run in alike for cell in run.verdicts]),
        alike=np.array([np.median(logs) for run in alike for logs in run.logs.values()]),
        by_backend=tuple(
            _power(f"{backend} {operation}", share, found, _of(injected, backend, operation), resampled)
            for share, found in levels.items() if found
            for backend in backends for operation in OPERATIONS
        ),
        by_level=tuple(
            _power("all cells", share, found, injected, resampled) for share, found in levels.items() if found
        ),
        by_slowdown=_by_slowdown(slowed),
        curve=_curve(alike, resampled),
        mutants=tuple(
            _power(
                f"{mutant.backend or 'all'}: {mutant.name}", float("nan"), runs,
                [cell for cell in own if _ratio(runs, cell) >= decision.CLAIM], resampled,
            )
            for (mutant, runs), own in zip(mutants, changed, strict=True)
        ),
        concerned=tuple(
            (len(own), *_range([_ratio(runs, cell) for cell in own]))
            for (_, runs), own in zip(mutants, changed, strict=True)
        ),
    )  # fmt: skip


def _of(cells: Iterable[str], backend: str, operation: str) -> list[str]:
    return [cell for cell in cells if cell.split()[:2] == [backend, operation]]


def _called(verdicts: Iterable[str]) -> Rate:
    verdicts = list(verdicts)
    return Rate(sum(verdict == Verdict.SLOWER for verdict in verdicts), len(verdicts))


def _outcome(arm: Arm, runs: Sequence[Run]) -> Outcome:
    exits = [run.exit for run in runs]
    drift = max(max(run.control, 1 / run.control) - 1 for run in runs)
    return Outcome(
        arm, Rate(exits.count(Exit.SLOWER), len(exits)), Rate(exits.count(Exit.INCONCLUSIVE), len(exits)),
        float(np.median([run.seconds for run in runs])), drift,
    )  # fmt: skip


def _pooled(runs: Sequence[Run], cell: str) -> NDArray[np.float64]:
    """The first rounds of every run, as many as every run has."""
    return np.concatenate([run.logs[cell][: decision.ROUNDS] for run in runs])


def _power(what: str, share: float, runs: Sequence[Run], cells: Sequence[str], resampled: int) -> Power:
    rng = np.random.default_rng(0)
    powers = []
    for cell in cells:
        logs = _pooled(runs, cell)
        drawn = logs[rng.integers(0, logs.size, (resampled, decision.ROUNDS))]
        powers.append(float(decision.calls_slower(drawn).mean()) ** 2)
    return Power(
        what, share, _range([_ratio(runs, cell) for cell in cells]), len(cells),
        _called(run.verdicts[cell] for run in runs for cell in cells),
        float(np.mean(powers or np.nan)), min(powers, default=float("nan")),
    )  # fmt: skip


def _ratio(runs: Sequence[Run], cell: str) -> float:
    """A cell's true ratio, as far as all rounds of all runs know it."""
    return float(np.exp(np.median(_pooled(runs, cell))))


def _range(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Least, median and largest."""
    return (min(ratios), float(np.median(ratios)), max(ratios)) if ratios else (np.nan, np.nan, np.nan)


def _by_slowdown(arms: Sequence[Sequence[Run]]) -> tuple[tuple[float, float, Rate], ...]:
    found: list[list[str]] = [[] for _ in _BINS[1:]]
    for runs in arms:
        for cell in set.intersection(*(set(run.logs) for run in runs)):
            place = int(np.searchsorted(_BINS, _ratio(runs, cell) - 1, side="right")) - 1
            if place >= 0:
                found[place] += [run.verdicts[cell] for run in runs]
    bins = zip(_BINS, _BINS[1:], found, strict=False)
    return tuple((low, high, _called(verdicts)) for low, high, verdicts in bins if verdicts)


def _suites(runs: Sequence[Run], resampled: int) -> tuple[Rate, Rate]:
    """Resampled A/A suites in which some cell is called slower: once, and twice."""
    if not runs:
        return Rate(0, 0), Rate(0, 0)
    table = np.stack([_pooled(runs, cell) for cell in runs[0].logs])  # (cells, rounds): a round stays together
    rng = np.random.default_rng(1)
    once = twice = 0
    for _ in range(resampled):
        first, second = (
            decision.calls_slower(table[:, rng.integers(0, table.shape[1], decision.ROUNDS)]) for _ in range(2)
        )
        once += bool(first.any())
        twice += bool((first & second).any())
    return Rate(once, resampled), Rate(twice, resampled)


def _curve(runs: Sequence[Run], resampled: int) -> tuple[tuple[float, float, float], ...]:
    """Power against the true slowdown, for each cell's own scatter in the A/A runs."""
    if not runs:
        return ()
    rng = np.random.default_rng(2)
    pooled = [_pooled(runs, cell) for cell in runs[0].logs]
    drawn = [(logs - np.median(logs))[rng.integers(0, logs.size, (resampled // 4, decision.ROUNDS))] for logs in pooled]
    points = []
    for slowdown in np.arange(0.0, 0.2001, 0.005):
        twice = [float(decision.calls_slower(logs + np.log1p(slowdown)).mean()) ** 2 for logs in drawn]
        points.append((float(slowdown), float(np.median(twice)), min(twice)))
    return tuple(points)
