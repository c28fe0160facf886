"""One cell: check every candidate, then time all that are right in the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, load, peers, timing
from softmax_ce_bench.compare import crew as crews
from softmax_ce_bench.compare import memory
from softmax_ce_bench.compare.budget import Budget, Failed, Timely
from softmax_ce_bench.compare.crew import Crew
from softmax_ce_bench.compare.judge import Judge, raised
from softmax_ce_bench.compare.model import (
    RANKED,
    REJECTED,
    SKIPPED,
    UNRANKED,
    Ceiling,
    Cell,
    Control,
    Entry,
    Errors,
    Inputs,
    Operation,
    Timing,
)
from softmax_ce_bench.compare.plan import BASE, Plan, Planned
from softmax_ce_bench.compare.ranking import fastest
from softmax_ce_bench.stats import Ratio, paired_ratio
from softmax_ce_bench.timing import Sampler, Samples
from softmax_ce_bench.workloads import Workload

LOOPS = {"forward": ("read",), "backward": ("copy", "stream"), "fused": ("copy", "stream")}

_SERIAL_IN_PEERS = 1 << 15  # elements: PyTorch's grain, below which it works on one thread

Tell = Callable[[str, float], None]
Verdict = tuple[Errors | None, str | None]


class Ready:
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
        self.workload = make()
        rows, classes = self.workload.shape
        logits = self.workload.logits
        self.options = plan.call_options(classes)
        self.judge = Judge(self.workload, self.options)
        self.grad = np.empty((rows, classes), logits.dtype.newbyteorder("="))
        self.grad.fill(0)  # its pages are there
        real = np.float64 if logits.dtype.itemsize == 8 else np.float32
        self.loss = np.zeros(rows if plan.options.reduction == "none" else (), real)


@dataclass(slots=True)
class _Field:
    """Who takes part in a cell, and why somebody does not."""

    verdicts: dict[str, Verdict]
    skipped: dict[str, str]
    samplers: dict[tuple[str, str], Sampler]  # by name and operation
    loops: dict[str, Sampler]
    why_no_loops: str | None


def measure(plan: Plan, planned: Planned, ready: Ready, crew: Crew, budget: Budget, share: float, tell: Tell) -> Cell:
    """Check and time one cell.

    Parameters
    ----------
    plan : Plan
    planned : Planned
        The cell.
    ready : Ready
    crew : Crew
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
    here = _gathered(plan, planned, ready, crew, tell)
    tell(f"{ready.workload.name}: warming up", 0.0)
    before = _reading(crew)
    samples = _timed(here, ready, budget, begin + share, tell)
    others = load.cpus_of_others(before, _reading(crew))
    crowded = load.is_crowded(others, _threads(plan, planned, here, ready))
    learned = {name: float(np.median(seconds)) for name, seconds in samples.seconds.items()}
    budget.learn(planned.source.elements, learned)
    loops = tuple(_ceiling(loop, ready.workload, samples) for loop in here.loops)
    sizes = {operation: bytes_moved(operation, ready.workload) for operation in plan.operations}
    best = {operation: _best(operation, loops) for operation in plan.operations}
    entries = tuple(
        _entry(name, here, samples, {o: (sizes[o], best[o]) for o in plan.operations})
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
    arrays = 1 + (workload.targets.ndim == 2) + (operation != "forward")
    return int(arrays * workload.logits.nbytes)


def calls(plan: Plan, planned: Planned, ready: Ready, name: str) -> dict[str, Callable[[], object]]:
    """A backend's operations as functions without arguments."""
    x, y = ready.workload.logits, ready.workload.targets
    options: dict[str, Any] = {
        "backend": name, "threads": planned.threads, "reduction": plan.options.reduction, **ready.options
    }  # fmt: skip
    out: dict[str, Any] = {} if plan.allocate else {"out": ready.loss}
    grad: dict[str, Any] = {} if plan.allocate else {"grad_out": ready.grad}
    made: dict[str, Callable[[], object]] = {
        "forward": partial(sce.cross_entropy, x, y, **out, **options),
        "backward": partial(sce.cross_entropy_grad, x, y, **grad, **options),
        "fused": partial(sce.cross_entropy_with_grad, x, y, **out, **grad, **options),
    }
    return {operation: made[operation] for operation in plan.operations}


def _gathered(plan: Plan, planned: Planned, ready: Ready, crew: Crew, tell: Tell) -> _Field:
    """Check everybody; those who are right get samplers. The base is timed even where it is wrong."""
    title = ready.workload.name
    verdicts: dict[str, Verdict] = {}
    samplers: dict[tuple[str, str], Sampler] = {}
    for name in plan.names:
        tell(f"{title}: checking {name}", 0.0)
        verdicts[name] = ready.judge.backend(name, planned.threads)
        if name == BASE or verdicts[name][1] is None:
            for operation, call in calls(plan, planned, ready, name).items():
                samplers[name, operation] = timing.Local(call)
    skipped = _skipped(plan, planned, ready)
    guests = [name for name in plan.peers if name not in skipped]
    if guests:
        tell(f"{title}: checking {', '.join(guests)}", 0.0)
        crew.gather(guests, planned.threads or available_cpus())
        verdicts |= crew.verdicts(guests, ready.judge)
        right = [guest for guest in guests if verdicts[guest][1] is None]
        remote, failed = crew.samplers(right, ready.workload, ready.make, plan.operations)
        samplers |= remote
        verdicts |= {name: (verdicts[name][0], reason) for name, reason in failed.items()}
    loops, why_no_loops = _loops(plan, planned, ready)
    return _Field(verdicts, skipped, samplers, loops, why_no_loops)


def _skipped(plan: Plan, planned: Planned, ready: Ready) -> dict[str, str]:
    """Why a peer does not take part, for each that does not."""
    fitting = plan.peers_that_fit(planned.source)
    found = {}
    for name in plan.peers:
        reason = crews.why_not(name, ready.workload, ready.options, plan.options.reduction, plan.operations)
        if reason is None and name not in fitting:
            needed = memory.needed_by_peer(planned.source.elements, planned.source.dtype)
            reason = f"its process would need about {memory.size(needed)}, which are not free beside the others"
        if reason is not None:
            found[name] = reason
    return found


def _loops(plan: Plan, planned: Planned, ready: Ready) -> tuple[dict[str, Sampler], str | None]:
    """The loops that do the operations' jobs, and why there are none."""
    if not plan.ceilings:
        return {}, "they were not asked for"
    if ceilings.why_unavailable is not None:
        return {}, f"the copy and read loops are not available: {ceilings.why_unavailable}"
    logits = ready.workload.logits
    if not logits.flags.c_contiguous:
        return {}, "the logits are not C-contiguous, as the copy and read loops need them"
    wanted = dict.fromkeys(loop for operation in plan.operations for loop in LOOPS[operation])
    if ceilings.best_copy() == "copy":
        wanted.pop("stream", None)  # no non-temporal stores here
    return {loop: timing.Local(ceilings.call(loop, logits, ready.grad, planned.threads)) for loop in wanted}, None


def _timed(here: _Field, ready: Ready, budget: Budget, end: float, tell: Tell) -> Samples:
    """Samples of everybody; whoever raises is rejected, and the others begin again."""
    while True:
        candidates = {label(*key): Timely(key[0], sampler, budget) for key, sampler in here.samplers.items()}
        candidates |= {label(CEILING, loop): Timely(loop, sampler, budget) for loop, sampler in here.loops.items()}
        text = f"{ready.workload.name}: timing {len({name for name, _ in here.samplers})} candidates in turn"
        try:
            return timing.measure(
                candidates,
                seconds=end - budget.clock(),
                most_seconds=budget.left,
                on_round=partial(tell, text),
                clock=budget.clock,
            )
        except Failed as failure:
            if failure.who == BASE or failure.who in here.loops:
                raise failure.error from None
            here.verdicts[failure.who] = here.verdicts[failure.who][0], raised(failure.error)
            here.samplers = {key: sampler for key, sampler in here.samplers.items() if key[0] != failure.who}


def _threads(plan: Plan, planned: Planned, here: _Field, ready: Ready) -> int:
    """The most threads that one of those who were timed works on."""
    infos = [sce.get_backend(name).info for name in plan.names]
    if any(name in peers.BY_NAME for name, _ in here.samplers):
        infos.append(sce.BackendInfo("", "", serial_elements=_SERIAL_IN_PEERS))
    return load.threads_used(planned.threads, *ready.workload.shape, infos)


def _reading(crew: Crew) -> load.Reading | None:
    """The load on the machine; the peers' processes are ours."""
    reading = load.read()
    return None if reading is None else replace(reading, own=reading.own + crew.cpu_seconds)


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
    own = [ceiling for ceiling in loops if ceiling.loop in LOOPS[operation]]
    return min(own, key=lambda ceiling: ceiling.time.median, default=None)


def _entry(name: str, here: _Field, samples: Samples, jobs: dict[str, tuple[int, Ceiling | None]]) -> Entry:
    """What was found of one candidate."""
    if name in here.skipped:
        return Entry(name, SKIPPED, here.skipped[name], None, {})
    errors, reason = here.verdicts[name]
    timings = {
        operation: _timing(name, operation, samples, size, ceiling)
        for operation, (size, ceiling) in jobs.items()
        if (name, operation) in here.samplers
    }
    if reason is not None:
        return Entry(name, REJECTED, reason, errors, timings)
    if name in peers.BY_NAME or sce.get_backend(name).info.stable:
        return Entry(name, RANKED, None, errors, timings)
    return Entry(name, UNRANKED, "it overflows by design", errors, timings)


def _timing(name: str, operation: str, samples: Samples, size: int, ceiling: Ceiling | None) -> Timing:
    own = label(name, operation)
    seconds = samples.seconds[own]
    time = _interval(seconds)
    of_ceiling = None
    if ceiling is not None:  # bytes a second over bytes a second
        of_ceiling = paired_ratio(np.asarray(ceiling.seconds) * (size / ceiling.bytes), seconds)
    speedup = paired_ratio(samples.seconds[label(BASE, operation)], seconds)
    return Timing(_tuple(seconds), samples.calls[own], time, speedup, size / time.median / 1e9, of_ceiling)


def _interval(seconds: Any) -> Ratio:
    return paired_ratio(seconds, np.ones(len(seconds)))


def _tuple(seconds: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in seconds)
