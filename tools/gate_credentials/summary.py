"""Summarize the runs: counts with exact intervals, and rounds resampled into many more runs than there were.

The two are told apart everywhere. A real run is the whole gate, on the machine, with its second measurement. A
resampled run draws the rounds of one cell (of power), or whole rounds of all cells (of false alarms), with replacement
from the first rounds of all real runs of an arm, and decides by the same functions, look after look up to `MOST_ROUNDS`
rounds: it knows of no disturbance that lasts from one round to the next.
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
from softmax_ce_bench.gate.decision import Exit, Look, Verdict
from tools.gate_credentials.arms import ALIKE, ALIKE_LOADED, ARMS, INJECTED, LEVELS, Arm, work
from tools.gate_credentials.store import GateRun

MOST_ROUNDS = decision.rounds_at(3)  # of a resampled measurement: what a busy machine has time for by default
_CELLS = 45  # of a default run with three backends
_BATCH = 200  # suites that are resampled at once
RESAMPLED = 10_000  # suites; of power, so many measurements a cell
_CONFIDENCE = 0.95
_BINS = (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.10, 0.15, 0.20, 0.50, np.inf)  # of slowdowns as measured


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of successes out of a number of trials, with the exact 95 % interval of Clopper and Pearson."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """Return the fraction, or NaN if there are no trials."""
        return self.count / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Return the interval of the fraction."""
        if not self.of:
            return 0.0, 1.0
        found = scipy.stats.binomtest(self.count, self.of).proportion_ci(_CONFIDENCE, method="exact")
        return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """The results of the real runs of an arm.

    Attributes
    ----------
    arm : Arm
    slower, inconclusive : Rate
        The runs with exit codes 1 and 3.
    seconds, longest : float
        Median and most of a run's measuring.
    drift : float
        Largest of the control.
    others : float
        Median of the CPUs that other programs used.
    """

    arm: Arm
    slower: Rate
    inconclusive: Rate
    seconds: float
    longest: float
    drift: float
    others: float


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
        Cells in real runs, with both measurements.
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
    """All figures of a campaign.

    Attributes
    ----------
    loaded : bool
        Whether the machine was busy in all runs; else it was left alone in those that are not of loaded arms.
    outcomes : tuple of ArmOutcome
    disturbed : int
        Runs that were to be alone on the machine and were not; they count nowhere else.
    false_alarms, near, unsure : Rate
        Resampled A/A suites that are called slower in two measurements or in the first, or have no conclusion.
    false_cells : Rate
        Cells in real A/A runs.
    alike : ndarray
        Every cell's median log ratio in every real A/A run.
    by_backend : tuple of Power
        The power for each level, backend and operation.
    by_level : tuple of Power
    by_slowdown : tuple of (float, float, Rate)
        Least and largest slowdown as measured over all runs of an arm; and how many of such cells, in all real runs
        of builds slowed on purpose, were called slower.
    curve : tuple of (float, float, float)
        True slowdown, power of the median cell and of the worst cell, resampled from the A/A runs' scatter.
    mutants : tuple of Power
        Cells that became slower by the claimed slowdown or more.
    concerned : tuple of (int, float, float, float)
        The number of cells that each mutant concerns, and their least, median and largest ratio.
    """

    loaded: bool
    outcomes: tuple[ArmOutcome, ...]
    disturbed: int
    false_alarms: Rate
    near: Rate
    unsure: Rate
    false_cells: Rate
    alike: NDArray[np.float64]
    by_backend: tuple[Power, ...]
    by_level: tuple[Power, ...]
    by_slowdown: tuple[tuple[float, float, Rate], ...]
    curve: tuple[tuple[float, float, float], ...]
    mutants: tuple[Power, ...]
    concerned: tuple[tuple[int, float, float, float], ...]


def summarize(runs: Sequence[GateRun], resampled: int = RESAMPLED, arms: Sequence[Arm] = ARMS) -> Summary:
    """Return the figures of a campaign's runs."""
    alone = [run for run in runs if not run.disturbed]
    of = {arm.name: [run for run in alone if run.arm == arm.name] for arm in arms}
    loaded = not of[ALIKE]
    alike = of[ALIKE_LOADED if loaded else ALIKE]
    cells = list(alike[0].logs) if alike else []
    injected = [cell.text for cell in gated.of(dict.fromkeys(cell.split()[0] for cell in cells), INJECTED)]
    backends = list(dict.fromkeys(cell.split()[0] for cell in cells))
    near, false_alarms, unsure = _suites(alike, resampled)
    levels = {share: of.get(work(share, loaded=loaded), []) for share in LEVELS}
    mutants = [(mutant, of[arm.name]) for arm in arms if of[arm.name] for mutant in arm.mutants]
    changed = [[cell for cell in cells if mutant.concerns(cell)] for mutant, _ in mutants]
    on_purpose = [
        arm.name for arm in arms if arm.mutants or arm.name in [work(share, loaded=loaded) for share in LEVELS]
    ]
    slowed = [of[name] for name in on_purpose if of[name]]
    return Summary(
        loaded=loaded,
        outcomes=tuple(_outcome(arm, of[arm.name]) for arm in arms if of[arm.name]),
        disturbed=len(runs) - len(alone),
        false_alarms=false_alarms,
        near=near,
        unsure=unsure,
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


def _outcome(arm: Arm, runs: Sequence[GateRun]) -> ArmOutcome:
    exits = [run.exit for run in runs]
    drift = max(max(run.control, 1 / run.control) - 1 for run in runs)
    return ArmOutcome(
        arm, Rate(exits.count(Exit.SLOWER), len(exits)), Rate(exits.count(Exit.INCONCLUSIVE), len(exits)),
        float(np.median([run.seconds for run in runs])), max(run.seconds for run in runs), drift,
        float(np.median([run.others or 0.0 for run in runs])),
    )  # fmt: skip


def _pooled(runs: Sequence[GateRun], cell: str) -> NDArray[np.float64]:
    """Return the first rounds of every run, as many as every run has."""
    return np.concatenate([run.logs[cell][: decision.ROUNDS] for run in runs])


def _power(what: str, share: float, runs: Sequence[GateRun], cells: Sequence[str], resampled: int) -> Power:
    rng = np.random.default_rng(0)
    powers = []
    for cell in cells:
        logs = _pooled(runs, cell)
        powers.append(_twice(logs[rng.integers(0, logs.size, (resampled, MOST_ROUNDS))]))
    return Power(
        what, share, _range([_ratio(runs, cell) for cell in cells]), len(cells),
        _called(run.verdicts[cell] for run in runs for cell in cells),
        float(np.mean(powers or np.nan)), min(powers, default=float("nan")),
    )  # fmt: skip


def _ratio(runs: Sequence[GateRun], cell: str) -> float:
    """Return the best estimate of a cell's true ratio, from all rounds of all runs."""
    return float(np.exp(np.median(_pooled(runs, cell))))


def _range(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the least value, the median and the largest."""
    return (min(ratios), float(np.median(ratios)), max(ratios)) if ratios else (np.nan, np.nan, np.nan)


def _by_slowdown(arms: Sequence[Sequence[GateRun]]) -> tuple[tuple[float, float, Rate], ...]:
    found: list[list[str]] = [[] for _ in _BINS[1:]]
    for runs in arms:
        for cell in set.intersection(*(set(run.logs) for run in runs)):
            place = int(np.searchsorted(_BINS, _ratio(runs, cell) - 1, side="right")) - 1
            if place >= 0:
                found[place] += [run.verdicts[cell] for run in runs]
    bins = zip(_BINS, _BINS[1:], found, strict=False)
    return tuple((low, high, _called(verdicts)) for low, high, verdicts in bins if verdicts)


def _twice(logs: NDArray[np.float64]) -> float:
    """Return the probability that two measurements call a cell slower, in a run of as many cells as the default has."""
    found, _ = decision.follow(logs, _CELLS)
    return float((found == Look.SLOWER).mean()) ** 2


def _suites(runs: Sequence[GateRun], resampled: int) -> tuple[Rate, Rate, Rate]:
    """Resample A/A suites. Return those in which some cell is called slower once and twice, and those without a
    conclusion.
    """
    if not runs:
        return Rate(0, 0), Rate(0, 0), Rate(0, 0)
    table = np.stack([_pooled(runs, cell) for cell in runs[0].logs])  # (cells, rounds): a round stays together
    rng = np.random.default_rng(1)
    once = twice = unsure = 0
    for begin in range(0, resampled, _BATCH):
        suites = min(_BATCH, resampled - begin)
        first, second = (_measured(table, rng.integers(0, table.shape[1], (suites, MOST_ROUNDS))) for _ in range(2))
        slower = first == Look.SLOWER
        again = slower & (second == Look.SLOWER)
        open_ = (first == Look.OPEN) | (slower & (second == Look.OPEN))
        once += int(slower.any(axis=0).sum())
        twice += int(again.any(axis=0).sum())
        unsure += int((open_.any(axis=0) & ~again.any(axis=0)).sum())
    return Rate(once, resampled), Rate(twice, resampled), Rate(unsure, resampled)


def _measured(table: NDArray[np.float64], rounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the result of each cell in each suite, shape (cells, suites), for rounds drawn from a table."""
    drawn = table[:, rounds]
    found, _ = decision.follow(drawn.reshape(-1, drawn.shape[-1]), len(table))
    return found.reshape(drawn.shape[:2])


def _curve(runs: Sequence[GateRun], resampled: int) -> tuple[tuple[float, float, float], ...]:
    """Return the power against the true slowdown, for each cell's own scatter in the A/A runs."""
    if not runs:
        return ()
    rng = np.random.default_rng(2)
    pooled = [_pooled(runs, cell) for cell in runs[0].logs]
    drawn = [(logs - np.median(logs))[rng.integers(0, logs.size, (resampled // 4, MOST_ROUNDS))] for logs in pooled]
    points = []
    for slowdown in np.arange(0.0, 0.2001, 0.005):
        twice = [_twice(logs + np.log1p(slowdown)) for logs in drawn]
        points.append((float(slowdown), float(np.median(twice)), min(twice)))
    return tuple(points)
