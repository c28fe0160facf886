"""One cell: check every candidate, then time all that are right in the same rounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.compare import peer_checks
from softmax_ce_bench.compare.budget import Budget, CandidateFailed, DeadlineSampler
from softmax_ce_bench.compare.decision import fastest
from softmax_ce_bench.compare.request import BASE, Plan, Planned
from softmax_ce_bench.compare.result import (
    RANKED,
    REJECTED,
    SKIPPED,
    UNRANKED,
    Ceiling,
    Cell,
    Control,
    Entry,
    Inputs,
    Operation,
    Timing,
)
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import load, memory, operations, timing
from softmax_ce_bench.measure.peer_process import PeerProcesses, PeerSampler
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import Sampler, Samples
from softmax_ce_bench.truth.judge import Judge, Verdict, raised

_SERIAL_IN_PEERS = 1 << 15  # elements: PyTorch's grain, below which it works on one thread

Tell = Callable[[str, float], None]


class PreparedWorkload:
    """A workload with the buffers that all backends and loops share, so that none has the warmer ones, and the
    reference on it. The same for every number of threads.

    Parameters
    ----------
    plan : Plan
    make : callable
        Makes the workload; in another process too, and so can be pickled.
    """

    def __init__(self, plan: Plan, make: Callable[[], Workload]) -> None:
        self.make = make
        self.workload = workloads.in_memory(make())
        self.options = plan.call_options(self.workload.shape[1])
        self.judge = Judge(self.workload, self.options)
        self.buffers = operations.Buffers(self.workload.logits, plan.options.reduction)


@dataclass(slots=True)
class _Participants:
    """Who takes part in a cell, and why somebody does not."""

    verdicts: dict[str, Verdict]
    skipped: dict[str, str]
    samplers: dict[tuple[str, str], Sampler]  # by name and operation
    loops: dict[str, Sampler]
    why_no_loops: str | None


def measure(
    plan: Plan,
    planned: Planned,
    ready: PreparedWorkload,
    processes: PeerProcesses,
    budget: Budget,
    share: float,
    tell: Tell,
) -> Cell:
    """Check and time one cell.

    Parameters
    ----------
    plan : Plan
    planned : Planned
        The cell.
    ready : PreparedWorkload
    processes : PeerProcesses
    budget : Budget
    share : float
        Seconds for this cell.
    tell : callable
        Told what is going on, and the fraction of the cell that is done.

    Returns
    -------
    Cell

    Raises
    ------
    OutOfTime
        Before one round was complete.
    """
    begin = budget.clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        here = _gathered(plan, planned, ready, processes, tell)
    tell(f"{ready.workload.name}: warming up", 0.0)
    before = processes.reading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the written formula's, of -inf and the like
        samples = _timed(here, ready, budget, begin + share, tell, plan.base)
    others = load.cpus_of_others(before, processes.reading())
    crowded = load.is_crowded(others, _threads(plan, planned, here, ready))
    learned = {name: float(np.median(seconds)) for name, seconds in samples.seconds.items()}
    budget.learn(planned.source.elements, learned)
    loops = tuple(_ceiling(loop, ready.workload, samples) for loop in here.loops)
    sizes = {operation: bytes_moved(operation, ready.workload) for operation in plan.operations}
    best = {operation: _best(operation, loops) for operation in plan.operations}
    entries = tuple(
        _entry(name, here, samples, {o: (sizes[o], best[o]) for o in plan.operations}, plan.base)
        for name in (*plan.names, *plan.peers)
    )
    rows, classes = ready.workload.shape
    ratio = samples.control_ratio
    source = planned.source
    return Cell(
        key=planned.key,
        inputs=Inputs(
            ready.workload.name, source.set, ready.workload.regime, rows, classes, ready.workload.dtype,
            "hard" if ready.workload.targets.ndim == 1 else "soft",
        ),
        options=plan.options,
        threads=planned.threads,
        checked_rows=ready.judge.subset.shape[0],
        telling_rows=ready.judge.telling_rows,
        rounds=samples.rounds,
        took=budget.clock() - begin,
        timer_overhead=samples.overhead,
        control=Control(_tuple(samples.control[0]), _tuple(samples.control[1]), ratio),
        drifted=ratio.drift > timing.CONTAMINATED,
        crowded=crowded,
        cpus_of_others=others,
        ceilings=loops,
        why_no_ceilings=here.why_no_loops,
        operations={
            o: Operation(sizes[o], ceiling.loop if ceiling else None, fastest(entries, o, samples.rounds))
            for o, ceiling in best.items()
        },
        entries=entries,
    )  # fmt: skip


def bytes_moved(operation: str, workload: Workload) -> int:
    """What an operation must move at least, in bytes.

    N*C*itemsize to read the logits, as much to read soft targets, as much to write a gradient. Labels and losses, at
    most a few bytes a row, are not counted.
    """
    row = operations.TABLE[operation]
    arrays = 1 + (row.takes_targets and workload.targets.ndim == 2) + row.writes_array
    return int(arrays * workload.logits.nbytes)


def calls(plan: Plan, planned: Planned, ready: PreparedWorkload, name: str) -> dict[str, Callable[[], object]]:
    """A backend's operations as functions without arguments."""
    workload = ready.workload
    options: dict[str, Any] = {
        "backend": name, "threads": planned.threads, "reduction": plan.options.reduction, **ready.options
    }  # fmt: skip
    buffers = None if plan.allocate else ready.buffers
    return {o: operations.call(sce, o, workload.logits, workload.targets, buffers, **options) for o in plan.operations}


def _gathered(
    plan: Plan, planned: Planned, ready: PreparedWorkload, processes: PeerProcesses, tell: Tell
) -> _Participants:
    """Check everybody; those who are right get samplers. The base is timed even where it is wrong."""
    title = ready.workload.name
    verdicts: dict[str, Verdict] = {}
    samplers: dict[tuple[str, str], Sampler] = {}
    for name in plan.names:
        tell(f"{title}: checking {name}", 0.0)
        normalizers = [operation for operation in plan.operations if operation in operations.NORMALIZERS]
        verdicts[name] = ready.judge.backend(name, planned.threads, normalizers)
        if name in (BASE, plan.base) or verdicts[name][1] is None:
            for operation, call in calls(plan, planned, ready, name).items():
                samplers[name, operation] = timing.Local(call)
    skipped = _skipped(plan, planned, ready)
    here = [name for name in plan.peers if name not in skipped and peers.BY_NAME[name].in_process]
    for name in here:
        tell(f"{title}: checking {name}", 0.0)
        verdicts[name], found = _inside(plan, ready, name)
        if name == plan.base or verdicts[name][1] is None:
            samplers |= found
    guests = [name for name in plan.peers if name not in skipped and name not in here]
    if guests:
        tell(f"{title}: checking {', '.join(guests)}", 0.0)
        processes.gather(guests, planned.threads or available_cpus())
        verdicts |= peer_checks.verdicts(processes, guests, ready.judge, plan.operations)
        right = [guest for guest in guests if verdicts[guest][1] is None]
        failed = processes.load(right, ready.workload, ready.make)
        verdicts |= {name: (verdicts[name][0], reason) for name, reason in failed.items()}
        samplers |= {
            (name, o): PeerSampler(processes[name], o)
            for name in right for o in plan.operations if name not in failed and o in peers.BY_NAME[name].operations
        }  # fmt: skip
    loops, why_no_loops = _loops(plan, planned, ready)
    return _Participants(verdicts, skipped, samplers, loops, why_no_loops)


def _inside(plan: Plan, ready: PreparedWorkload, name: str) -> tuple[Verdict, dict[tuple[str, str], Sampler]]:
    """The verdict on a peer that runs in this process, and its samplers."""
    peer, subset, workload = peers.BY_NAME[name], ready.judge.subset, ready.workload
    try:
        small = peer.prepare(subset.logits, subset.targets, 1)
        more = {o: small.as_array(small.calls[o]()) for o in peer_checks.normalizers_of(name, plan.operations)}
        verdict: Verdict = ready.judge.peer(*small.result(), more)
        calls = peer.prepare(workload.logits, workload.targets, 1).calls
    except Exception as error:  # as of any candidate
        return (None, raised(error)), {}
    return verdict, {(name, o): timing.Local(calls[o]) for o in plan.operations if o in peer.operations}


def _skipped(plan: Plan, planned: Planned, ready: PreparedWorkload) -> dict[str, str]:
    """Why a peer does not take part, for each that does not."""
    fitting = plan.peers_that_fit(planned.source)
    found = {}
    for name in plan.peers:
        reason = peer_checks.why_not(name, ready.workload, ready.options, plan.options.reduction, plan.operations)
        if reason is None and name not in fitting:
            needed = memory.needed_by_peer(planned.source.elements, planned.source.dtype)
            reason = f"its process would need about {memory.size(needed)}, which are not free beside the others"
        if reason is not None:
            found[name] = reason
    return found


def _loops(plan: Plan, planned: Planned, ready: PreparedWorkload) -> tuple[dict[str, Sampler], str | None]:
    """The loops that do the operations' jobs, and why there are none."""
    if not plan.ceilings:
        return {}, "they were not asked for"
    if ceilings.why_unavailable is not None:
        return {}, f"the copy and read loops are not available: {ceilings.why_unavailable}"
    logits = ready.workload.logits
    if not logits.flags.c_contiguous:
        return {}, "the logits are not C-contiguous, as the copy and read loops need them"
    wanted = dict.fromkeys(loop for operation in plan.operations for loop in operations.TABLE[operation].loops)
    if ceilings.best_copy() == "copy":
        wanted.pop("stream", None)  # no non-temporal stores here
    return {
        loop: timing.Local(ceilings.call(loop, logits, ready.buffers.array, planned.threads)) for loop in wanted
    }, None


def _timed(here: _Participants, ready: PreparedWorkload, budget: Budget, end: float, tell: Tell, base: str) -> Samples:
    """Samples of everybody; whoever raises is rejected, and the others begin again."""
    while True:
        candidates = {label(*key): DeadlineSampler(key[0], sampler, budget) for key, sampler in here.samplers.items()}
        candidates |= {
            label(CEILING, loop): DeadlineSampler(loop, sampler, budget) for loop, sampler in here.loops.items()
        }
        text = f"{ready.workload.name}: timing {len({name for name, _ in here.samplers})} candidates in turn"
        try:
            return timing.measure(
                candidates,
                seconds=end - budget.clock(),
                most_seconds=budget.left,
                on_round=partial(tell, text),
                clock=budget.clock,
            )
        except CandidateFailed as failure:
            if failure.who in (BASE, base) or failure.who in here.loops:
                raise failure.error from None
            here.verdicts[failure.who] = here.verdicts[failure.who][0], raised(failure.error)
            here.samplers = {key: sampler for key, sampler in here.samplers.items() if key[0] != failure.who}


def _threads(plan: Plan, planned: Planned, here: _Participants, ready: PreparedWorkload) -> int:
    """The most threads that one of those who were timed works on."""
    infos = [sce.get_backend(name).info for name in plan.names]
    if any(name in peers.BY_NAME for name, _ in here.samplers):
        infos.append(sce.BackendInfo("", "", serial_elements=_SERIAL_IN_PEERS))
    return load.threads_used(planned.threads, *ready.workload.shape, infos)


CEILING = "ceiling:"


def label(name: str, operation: str) -> str:
    return f"{name} {operation}"


def _ceiling(loop: str, workload: Workload, samples: Samples) -> Ceiling:
    seconds = samples.seconds[label(CEILING, loop)]
    time = _interval(seconds)
    size = int(workload.logits.nbytes) * (1 if loop == "read" else 2)
    return Ceiling(loop, size, _tuple(seconds), time, size / time.median / 1e9)


def _best(operation: str, loops: tuple[Ceiling, ...]) -> Ceiling | None:
    """The fastest loop that does the operation's job."""
    own = [ceiling for ceiling in loops if ceiling.loop in operations.TABLE[operation].loops]
    return min(own, key=lambda ceiling: ceiling.time.median, default=None)


def _entry(
    name: str, here: _Participants, samples: Samples, jobs: dict[str, tuple[int, Ceiling | None]], base: str
) -> Entry:
    """What was found of one candidate."""
    if name in here.skipped:
        return Entry(name, SKIPPED, here.skipped[name], None, {})
    errors, reason = here.verdicts[name]
    timings = {
        operation: _timing(name, operation, samples, size, ceiling, base)
        for operation, (size, ceiling) in jobs.items()
        if (name, operation) in here.samplers
    }
    if reason is not None:
        return Entry(name, REJECTED, reason, errors, timings)
    if name in peers.BY_NAME or sce.get_backend(name).info.stable:
        return Entry(name, RANKED, None, errors, timings)
    return Entry(name, UNRANKED, "it overflows by design", errors, timings)


def _timing(name: str, operation: str, samples: Samples, size: int, ceiling: Ceiling | None, base: str) -> Timing:
    own = label(name, operation)
    seconds = samples.seconds[own]
    time = _interval(seconds)
    of_ceiling = None
    if ceiling is not None:  # bytes a second over bytes a second
        of_ceiling = paired_ratio(np.asarray(ceiling.seconds) * (size / ceiling.bytes), seconds)
    speedup = paired_ratio(samples.seconds[label(base, operation)], seconds)
    return Timing(_tuple(seconds), samples.calls[own], time, speedup, size / time.median / 1e9, of_ceiling)


def _interval(seconds: Any) -> Ratio:
    return paired_ratio(seconds, np.ones(len(seconds)))


def _tuple(seconds: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in seconds)
