"""The comparison: fit the digits with every backend, then check and time all of them on each workload.

Correctness comes before time: a backend whose results are beyond the error bound on a workload is listed
with the reason, and neither timed nor ranked there. A backend that is not stable is timed where it happens
to be right, but ranked nowhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import digits, info, load, oracle, timing, workloads
from softmax_ce_bench.stats import FEWEST_ROUNDS, Ratio, paired_ratio
from softmax_ce_bench.workloads import Workload

BASE = "numpy"  # what speed-ups are relative to
OPERATIONS = ("forward", "backward", "fused")
TIE = 0.03  # a smaller gap is called a tie
CHECKED_ELEMENTS = 200_000  # in extended precision, at most: the oracle takes its time


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare.

    Attributes
    ----------
    backends : tuple of str
        Available ones.
    dtype : {"float32", "float64"}
        Of the built-in workloads.
    threads : int or None
        As for :func:`softmax_ce.cross_entropy`.
    seconds : float
        For everything after the backends have been loaded and compiled.
    own : Workload or None
        The user's arrays, in place of the digits and the built-in shapes.
    """

    backends: tuple[str, ...]
    dtype: str = "float32"
    threads: int | None = None
    seconds: float = 30.0
    own: Workload | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One backend and operation on one workload.

    Attributes
    ----------
    seconds : ndarray, shape (rounds,)
        A call, in each round.
    speedup : Ratio
        The base backend's time over this one's, paired within the rounds.
    """

    seconds: NDArray[np.float64]
    speedup: Ratio

    @property
    def median(self) -> float:
        """Median seconds a call."""
        return float(np.median(self.seconds))


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One backend on one workload.

    Attributes
    ----------
    backend : str
    worst : float
        The worst error over its bound, at most 1 if right; infinity for a wrong NaN or infinity.
    rejected : str or None
        Why it is not ranked here.
    cells : dict
        Operation -> Cell; empty when it was not timed.
    stable : bool
        False: it overflows by design, and is never ranked.
    """

    backend: str
    worst: float
    rejected: str | None
    cells: dict[str, Cell]
    stable: bool

    @property
    def is_ranked(self) -> bool:
        """Whether it may be called fastest."""
        return bool(self.cells) and self.rejected is None and self.stable


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """All backends on one workload.

    Attributes
    ----------
    workload : Workload
    checked_rows : int
        On which the errors were taken.
    telling_rows : int
        Those of them that count and have a finite log-sum-exp: without any, nothing was compared.
    rounds : int
    control : Ratio
        The control against itself.
    overhead : float
        Seconds that timing an empty function takes.
    others : float or None
        CPUs that other programs kept busy meanwhile; None where it is not known.
    crowded : bool
        They left fewer CPUs than the threads need.
    entries : tuple of Entry
    """

    workload: Workload
    checked_rows: int
    telling_rows: int
    rounds: int
    control: Ratio
    overhead: float
    others: float | None
    crowded: bool
    entries: tuple[Entry, ...]

    @property
    def drifted(self) -> bool:
        """Whether the control differed from itself by more than a session may."""
        return self.control.drift > timing.CONTAMINATED

    def fastest(self, operation: str) -> tuple[str, ...]:
        """The fastest eligible backend, then those it ties with, the faster first.

        Backends tie when their intervals overlap or the gap is below `TIE`. Empty when none is eligible, or
        when there are too few rounds to tell.
        """
        if self.rounds < FEWEST_ROUNDS:
            return ()
        ranked = [(e.cells[operation].speedup, e.backend) for e in self.entries if e.is_ranked]
        ranked.sort(key=lambda pair: -pair[0].median)
        if not ranked:
            return ()
        best = ranked[0][0]
        return tuple(name for ratio, name in ranked if best.overlaps(ratio) or best.median < ratio.median * (1 + TIE))


@dataclass(slots=True)
class Comparison:
    """A whole run, filled as it proceeds.

    Attributes
    ----------
    plan : Plan
    machine : dict
        As from :func:`softmax_ce_bench.info.collect`.
    date : str
        When it began: ISO 8601, UTC.
    fits : tuple of Fit
        One a backend, the base first; empty for the user's own arrays.
    results : list of Result
        One a workload.
    """

    plan: Plan
    machine: dict[str, Any]
    date: str
    fits: tuple[digits.Fit, ...] = ()
    results: list[Result] = field(default_factory=list)

    @property
    def contaminated(self) -> list[Result]:
        """The workloads whose times are not to be believed."""
        return [result for result in self.results if result.drifted or result.crowded]


class Listener:
    """Told how a run proceeds. This one does nothing."""

    def stage(self, text: str, done: float) -> None:
        """A step begins or goes on; `done` in [0, 1] is its fraction of the whole run."""

    def fitted(self, comparison: Comparison) -> None:
        """The digits have been fitted."""

    def measured(self, result: Result) -> None:
        """One workload is done."""


def run(plan: Plan, listener: Listener | None = None) -> Comparison:
    """Compare as planned.

    Parameters
    ----------
    plan : Plan
    listener : Listener, optional

    Returns
    -------
    Comparison
    """
    listener = listener or Listener()
    listener.stage("loading the backends", 0.0)
    comparison = Comparison(plan, info.collect(), datetime.now(UTC).isoformat(timespec="seconds"))
    names = measured_backends(plan)
    for name in names:
        listener.stage(f"compiling {name}, if it must be", 0.0)
        with suppress(Exception):  # whatever it raised, it will raise again when it is checked, and be rejected
            sce.get_backend(name).warmup()
    deadline = time.perf_counter() + plan.seconds
    if plan.own is None:
        comparison.fits = _fit(plan, names, listener)
        listener.fitted(comparison)
    steps = list(_workloads(plan, comparison.fits))
    for k, make in enumerate(steps):
        remaining = len(steps) - k
        share_ends = time.perf_counter() + max(0.0, deadline - time.perf_counter()) / remaining
        result = _measure(make(), names, plan.threads, share_ends, _Progress(listener, k / len(steps), 1 / len(steps)))
        comparison.results.append(result)
        listener.measured(result)
    return comparison


def measured_backends(plan: Plan) -> tuple[str, ...]:
    """Those of the plan; the base first, since every speed-up needs it."""
    return (BASE, *(name for name in plan.backends if name != BASE))


def _fit(plan: Plan, names: tuple[str, ...], listener: Listener) -> tuple[digits.Fit, ...]:
    fits = []
    for name in names:
        listener.stage(f"softmax regression on handwritten digits: {name}", 0.0)
        try:
            fits.append(digits.fit(name, threads=plan.threads))
        except Exception:  # as above; but without the base there is nothing to compare with
            if name == BASE:
                raise
    return tuple(fits)


def _workloads(plan: Plan, fits: tuple[digits.Fit, ...]) -> Iterator[Callable[[], Workload]]:
    """One function per workload, so that only one of them is in memory at a time."""
    if plan.own is not None:
        own = plan.own
        yield lambda: own
        return
    yield partial(workloads.from_digits, fits[0], plan.dtype)
    for shape in workloads.SHAPES:
        yield partial(workloads.synthetic, shape, plan.dtype)


@dataclass(frozen=True, slots=True)
class _Progress:
    """A workload's part of the whole run."""

    listener: Listener
    start: float
    share: float

    def __call__(self, text: str, fraction: float = 0.0) -> None:
        self.listener.stage(text, self.start + self.share * fraction)


def _measure(
    workload: Workload, names: tuple[str, ...], threads: int | None, share_ends: float, progress: _Progress
) -> Result:
    """Check, then time, every backend on one workload."""
    progress(f"{workload.name}: computing the reference")
    judged = _Judge(workload, threads)
    verdicts = {}
    for name in names:
        progress(f"{workload.name}: checking {name}")
        verdicts[name] = judged.verdict(name)
    eligible = [name for name in names if name == BASE or verdicts[name][1] is None]
    calls = _calls(workload, eligible, threads)
    before = load.read()
    samples = timing.measure(
        {f"{name} {operation}": call for (name, operation), call in calls.items()},
        seconds=share_ends - time.perf_counter(),
        on_round=lambda fraction: progress(f"{workload.name}: timing {len(eligible)} backends", fraction),
    )
    others = load.cpus_of_others(before, load.read())
    crowded = load.is_crowded(others, threads or available_cpus(), os.cpu_count() or 1)

    def cells(name: str) -> dict[str, Cell]:
        if name not in eligible:
            return {}
        times = {operation: samples.seconds[f"{name} {operation}"] for operation in OPERATIONS}
        return {o: Cell(t, paired_ratio(samples.seconds[f"{BASE} {o}"], t)) for o, t in times.items()}

    entries = tuple(Entry(name, *verdicts[name], cells(name), sce.get_backend(name).info.stable) for name in names)
    return Result(
        workload,
        judged.subset.shape[0],
        judged.telling_rows,
        samples.rounds,
        samples.control_ratio,
        samples.overhead,
        others,
        crowded,
        entries,
    )


class _Judge:
    """The reference on some rows of a workload, and each backend's verdict against it."""

    def __init__(self, workload: Workload, threads: int | None) -> None:
        self.subset = workload.rows(CHECKED_ELEMENTS)
        self._threads = threads
        self._truth = oracle.evaluate(self.subset.logits, self.subset.targets)
        self.telling_rows = int((self._truth.counts & ~self._truth.broken).sum())

    def verdict(self, name: str) -> tuple[float, str | None]:
        """The worst error over its bound, and why the backend is rejected, if it is."""
        backend = sce.get_backend(name)
        logits, truth = self.subset.logits, self._truth
        try:
            loss, grad = sce.cross_entropy_with_grad(
                logits, self.subset.targets, reduction="none", backend=name, threads=self._threads
            )
        except Exception as error:  # a backend from elsewhere may raise anything; the others still run
            return np.inf, f"raised {type(error).__name__}: {error}"
        allowed = oracle.bounds(backend.info, truth, logits.dtype)
        worst = max(
            oracle.over_bound(loss, truth.loss, allowed.loss), oracle.over_bound(grad, truth.grad, allowed.grad)
        )
        if worst <= 1:
            return worst, None
        spoilt = np.isfinite(truth.grad).all(axis=1) & ~np.isfinite(grad.astype(np.float64)).all(axis=1)
        if spoilt.any():
            return worst, f"NaN or infinite in {spoilt.sum()} of {len(spoilt)} checked rows, where the result is finite"
        return worst, f"its worst error is {worst:.3g} times what rounding explains"


def _calls(workload: Workload, names: list[str], threads: int | None) -> dict[tuple[str, str], Callable[[], object]]:
    """Every operation of every backend, into buffers that all share, so that none has the warmer ones."""
    x, y = workload.logits, workload.targets
    grad = np.empty(workload.shape, x.dtype.newbyteorder("="))
    loss = np.empty((), np.float64 if x.dtype.itemsize == 8 else np.float32)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in names:
        options: dict[str, Any] = {"backend": name, "threads": threads}
        calls[name, "forward"] = partial(sce.cross_entropy, x, y, out=loss, **options)
        calls[name, "backward"] = partial(sce.cross_entropy_grad, x, y, grad_out=grad, **options)
        calls[name, "fused"] = partial(sce.cross_entropy_with_grad, x, y, out=loss, grad_out=grad, **options)
    return calls
