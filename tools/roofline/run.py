"""Measure session by session: make the workload, judge every candidate, time the correct ones."""

from __future__ import annotations

import fnmatch
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.choice import auto
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Shape, Workload
from softmax_ce_bench.measure import load, timing
from softmax_ce_bench.measure.machine import facts as machine_facts
from softmax_ce_bench.measure.operations import OTHERS, TABLE
from softmax_ce_bench.measure.peer_process import PeerProcesses, PeerSampler
from softmax_ce_bench.measure.process import Child
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import Clock, Sampler, Samples
from softmax_ce_bench.truth import reference
from softmax_ce_bench.truth.reference import SIXTEEN_BIT_STEPS, ReferenceResult
from tools.roofline import isa, machine, pool_cost
from tools.roofline.axes import AxisWorkload
from tools.roofline.candidates import CEILING, SharedWorkload, TimedCall
from tools.roofline.goals import BY_KEY, Goal
from tools.roofline.sessions import Comparison, Scope, Session, sessions

_LONGEST_SHARES = 2.0  # how far a session may go beyond its share for want of rounds
_POOL_SHARE = 0.03  # of the time


@dataclass(frozen=True, slots=True)
class RooflineRequest:
    """What to measure.

    Attributes
    ----------
    quick : bool
        Fewer cells.
    seconds : float
        The time for everything after the backends have been loaded.
    array_mb : float
        Largest logits, in 10**6 bytes.
    only : tuple of str
        Globs of session keys; empty for all.
    most_rounds : int
        A session's, whatever the time.
    """

    quick: bool = False
    seconds: float = 300.0
    array_mb: float = machine.ARRAY_MB
    only: tuple[str, ...] = ()
    most_rounds: int = timing.MOST_ROUNDS

    def wants(self, key: str) -> bool:
        """Return whether a session was asked for."""
        return not self.only or any(fnmatch.fnmatchcase(key, glob) for glob in self.only)


@dataclass(frozen=True, slots=True, eq=False)
class SessionResult:
    """The times of one session.

    Attributes
    ----------
    session : Session
    samples : Samples
        Keyed by the candidates' names.
    rejected : dict
        TimedCall's name -> why it was not timed.
    others : float or None
        CPUs that other programs kept busy meanwhile.
    crowded : bool
        They left fewer than the threads need.
    """

    session: Session
    samples: Samples
    rejected: dict[str, str]
    others: float | None = None
    crowded: bool = False

    @property
    def drifted(self) -> bool:
        """Return whether the control differed from itself by more than is allowed."""
        return self.samples.control_ratio.drift > timing.CONTAMINATED

    def ratio(self, comparison: Comparison) -> Ratio | None:
        """Return the ratio of a comparison, or None if one of its sides was not timed."""
        above = self._seconds(comparison.above)
        below = np.ones(self.samples.rounds) if comparison.below is None else self._seconds(comparison.below)
        return None if above is None or below is None else paired_ratio(above * comparison.scale, below)

    def _seconds(self, candidate: TimedCall) -> Any:
        return self.samples.seconds.get(str(candidate))


@dataclass(slots=True)
class RooflineRun:
    """A whole run, filled as it proceeds.

    Attributes
    ----------
    plan : RooflineRequest
    scope : Scope
    machine : dict
        The facts of :func:`softmax_ce_bench.measure.machine.facts`, with the peers' versions, the caches and the
        instruction set.
    date : str
        When it began: ISO 8601, UTC.
    outcomes : list of SessionResult
    pool : PoolCost or None
        None until it was measured.
    left_out : list of str
        Sessions for which there was no time.
    """

    plan: RooflineRequest
    scope: Scope
    machine: dict[str, Any]
    date: str
    outcomes: list[SessionResult] = field(default_factory=list)
    pool: pool_cost.PoolCost | None = None
    left_out: list[str] = field(default_factory=list)

    def cells(self, goal: Goal, allocating: bool = False) -> list[tuple[SessionResult, Comparison, Ratio]]:
        """Return the measured cells of a goal, in one of the two tables."""
        found = []
        for outcome in self.outcomes:
            for comparison in outcome.session.comparisons:
                if BY_KEY[comparison.goal] is goal and comparison.allocating == allocating:
                    ratio = outcome.ratio(comparison)
                    if ratio is not None:
                        found.append((outcome, comparison, ratio))
        return found


class SessionListener:
    """Receives the progress of a run. This base class ignores it."""

    def stage(self, text: str, done: float) -> None:
        """Called when a step begins or makes progress; `done` in [0, 1] is the fraction of the whole run."""

    def measured(self, outcome: SessionResult) -> None:
        """Called when a session has been measured."""


def prepare(plan: RooflineRequest) -> RooflineRun:
    """Return an empty run that knows what can be measured here: backends, peers, cores, caches."""
    facts = machine_facts() | machine.collect(plan.array_mb) | {"isa": isa.in_use(), "isas": list(isa.supported())}
    facts["peers"] = [
        {
            "name": peer.name,
            "title": peer.title,
            "version": peer.version,
            "includes": peer.includes,
            "why_missing": peer.why_missing,
            "how_to_get": peer.how_to_get,
        }
        for peer in peers.PEERS
    ]
    scope = Scope(
        backends=tuple(b["name"] for b in facts["backends"] if b["available"] and b["stable"]),
        default=auto.default_name(),
        peers=tuple(peer.name for peer in peers.PEERS if peer.why_missing is None),
        cores=available_cpus(),
        array_bytes=facts["array_bytes"],
        large_bytes=facts["large_bytes"],
        quick=plan.quick,
    )
    return RooflineRun(plan, scope, facts, datetime.now(UTC).isoformat(timespec="seconds"))


def chosen(report: RooflineRun) -> list[Session]:
    """Return the sessions that were asked for, without candidates that are not available here."""
    every = [session for session in sessions(report.scope) if report.plan.wants(session.key)]
    if ceilings.why_unavailable is None:
        return every
    without = (replace(s, candidates=tuple(c for c in s.candidates if c.who != CEILING)) for s in every)
    return [session for session in without if session.candidates]


def run(report: RooflineRun, listener: SessionListener | None = None, clock: Clock = time.perf_counter) -> RooflineRun:
    """Measure into the report. If this is interrupted, the report is complete up to the last session."""
    listener = listener or SessionListener()
    for name in report.scope.backends:
        listener.stage(f"compiling {name}, if necessary", 0.0)
        with suppress(Exception):  # whatever it raised, it will raise again when it is checked, and be rejected
            sce.get_backend(name).warmup()
    todo = chosen(report)
    end = clock() + report.plan.seconds * (1 - _POOL_SHARE)
    whole = left = sum(session.weight for session in todo)
    processes = PeerProcesses()
    try:
        for session in todo:
            if session is not todo[0] and clock() >= end:
                report.left_out.append(session.key)
                continue
            _gather(session, processes, report.scope.cores, listener)
            share = max(0.0, end - clock()) * session.weight / left
            progress = _Progress(listener, session.key, 1 - left / whole, session.weight / whole)
            outcome = _one(session, processes, share, report, progress, clock)
            left -= session.weight
            if outcome is not None:
                report.outcomes.append(outcome)
                listener.measured(outcome)
    finally:
        processes.close()
    if report.plan.wants(pool_cost.KEY):
        listener.stage(f"{pool_cost.KEY}: the cost of the threads", 1.0)
        report.pool = pool_cost.measure(report.plan.seconds * _POOL_SHARE, report.plan.most_rounds)
    return report


@dataclass(frozen=True, slots=True)
class _Progress:
    """The part of the whole run that a session takes."""

    listener: SessionListener
    key: str
    start: float
    share: float

    def __call__(self, text: str, fraction: float = 0.0) -> None:
        self.listener.stage(f"{self.key}: {text}", self.start + self.share * fraction)


def _gather(session: Session, processes: PeerProcesses, cores: int, listener: SessionListener) -> None:
    """Have processes for a session's peers. New ones start and import their libraries in parallel."""
    wanted = sorted({c.who for c in session.candidates if c.who in peers.BY_NAME})
    new = processes.gather(wanted, session.threads or cores)
    for name in new:
        listener.stage(f"{session.key}: starting {peers.BY_NAME[name].title}", 0.0)
    processes.start(new)  # what fails here will fail again when a workload is loaded


def _one(
    session: Session, processes: PeerProcesses, share: float, report: RooflineRun, progress: _Progress, clock: Clock
) -> SessionResult | None:
    """Judge and time one session. Return None if no result in it is correct."""
    begin = clock()
    progress("making the workload")
    shared: SharedWorkload | AxisWorkload
    if session.axis is None:
        shared = SharedWorkload(*_numbers(session.shape, session.dtype), session.threads, clock)
    else:
        shared = AxisWorkload(session.axis, session.threads, clock)
    remote = [name for name in peers.BY_NAME if any(c.who == name for c in session.candidates)]
    troubles = processes.load(remote, shared.workload)
    samplers: dict[str, Sampler] = {}
    rejected: dict[str, str] = {}
    for candidate in session.candidates:
        progress(f"checking {candidate}")
        try:
            if candidate.who in remote:
                sampler, complaint = _of_peer(candidate, processes[candidate.who], troubles.get(candidate.who), shared)
            else:
                sampler, complaint = shared.build(candidate)
        except Exception as error:  # a backend or a library may raise anything; the others still run
            rejected[str(candidate)] = f"raised {type(error).__name__}: {error}"
        else:
            if complaint is None:
                samplers[str(candidate)] = sampler
            else:
                rejected[str(candidate)] = complaint
    if not samplers:
        return None
    before = processes.reading()
    samples = timing.measure(
        samplers,
        seconds=share - (clock() - begin),
        most_seconds=_LONGEST_SHARES * share - (clock() - begin),
        most_rounds=report.plan.most_rounds,
        on_round=lambda fraction: progress(f"timing {len(samplers)} candidates", fraction),
        clock=clock,
    )
    others = load.cpus_of_others(before, processes.reading())
    crowded = load.is_crowded(others, _threads(session))
    return SessionResult(session, samples, rejected, others, crowded)


def _threads(session: Session) -> int:
    """Return the largest number of threads that a session's candidates use."""
    asked = [candidate.threads for candidate in session.candidates if candidate.threads is not None]
    shape = session.shape
    return max([load.threads_used(session.threads, shape.rows, shape.classes, sce.backends()), *asked])


@lru_cache(maxsize=3)  # several sessions have the same numbers
def _numbers(shape: Shape, dtype: str) -> tuple[Workload, ReferenceResult]:
    workload = workloads.synthetic(shape, dtype)
    return workload, reference.evaluate(workload.logits, workload.targets)


def _of_peer(
    candidate: TimedCall, child: Child, trouble: str | None, shared: SharedWorkload | AxisWorkload
) -> tuple[Sampler, str | None]:
    """Return the sampler of a peer. An option is loaded as a second workload."""
    what = candidate.what
    if trouble is not None:
        return PeerSampler(child, what), trouble
    if what in OTHERS:
        right = reference.others(shared.workload.logits, shared.workload.targets, what)
        rows = {part: each.rows for part, each in right.items() if each.values.ndim}
        return PeerSampler(child, what), reference.first_complaint(right, child.ask("others", what, rows))
    if isinstance(shared, AxisWorkload):
        truth, name = shared.truth(), ""
    else:
        truth = shared.truth(what)
        name, made = shared.variant(what)
        if name:
            workload = Workload(name, "", made.logits, made.targets)
            child.ask("load", workload, name, made.options)
    sampler = PeerSampler(child, what if what in TABLE else "fused", name)
    return sampler, truth.complaint(*child.ask("result", truth.rows, name), SIXTEEN_BIT_STEPS.get(name, 0.0))
