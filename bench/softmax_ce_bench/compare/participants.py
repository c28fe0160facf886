"""The candidates of a cell: their verdicts and samplers, and the reasons why others are left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.ceilings import products
from softmax_ce_bench.compare.request import BASE, CompareRequest, PlannedCell
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import candidates, load, memory, timing
from softmax_ce_bench.measure.candidates import SharedArrays
from softmax_ce_bench.measure.operations import OTHERS, TABLE
from softmax_ce_bench.measure.peer_process import PeerProcesses, PeerSampler, other_results
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.measure.timing import Call, Sampler
from softmax_ce_bench.truth.judge import Judge, Judgement, raised

_SERIAL_IN_PEERS = 1 << 15  # elements: PyTorch's grain, below which it works on one thread

Tell = Callable[[str, float], None]


class PreparedWorkload:
    """A workload with the arrays that all candidates share and its reference, for all numbers of threads.

    Parameters
    ----------
    request : CompareRequest
    make : callable
        Makes the workload; in another process too, and so can be pickled.
    """

    def __init__(self, request: CompareRequest, make: Callable[[], Workload]) -> None:
        self.make = make
        self.workload = workloads.in_memory(make())
        self.options = request.call_options(self.workload.shape[1])
        self.judge = Judge(self.workload, self.options)
        self.arrays = SharedArrays(self.workload, request.options.reduction)


class Participants:
    """The candidates of a cell. Candidates with wrong results get no samplers.

    Parameters
    ----------
    request : CompareRequest
    planned : PlannedCell
    ready : PreparedWorkload
    processes : PeerProcesses

    Attributes
    ----------
    verdicts : dict
        Name -> the worst errors, and why the candidate is rejected.
    skipped : dict
        Name -> why a peer does not take part.
    samplers : dict
        (name, operation) -> sampler.
    loops : dict
        Loop -> sampler.
    why_no_loops : str or None
    """

    def __init__(
        self, request: CompareRequest, planned: PlannedCell, ready: PreparedWorkload, processes: PeerProcesses
    ) -> None:
        self._request, self._planned, self._ready, self._processes = request, planned, ready, processes
        self.verdicts: dict[str, Judgement] = {}
        self.samplers: dict[tuple[str, str], Sampler] = {}
        self.skipped = self._skipped()
        self.loops, self.why_no_loops = self._loops()

    def check(self, tell: Tell) -> None:
        """Check every candidate, and make samplers for the correct ones. The base is timed even if it is wrong."""
        request, title = self._request, self._ready.workload.name
        there = [name for name in request.peers if name not in self.skipped]
        here = [name for name in there if peers.BY_NAME[name].in_process]
        remote = [name for name in there if name not in here]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for name in (*request.names, *here):
                tell(f"{title}: checking {name}", 0.0)
                if name in here:
                    self._check_here(name)
                else:
                    self._check_backend(name)
            if remote:
                tell(f"{title}: checking {', '.join(remote)}", 0.0)
                self._check_remote(remote)

    def reject(self, name: str, reason: str) -> None:
        """Remove a candidate."""
        errors, _ = self.verdicts.get(name, (None, None))
        self.verdicts[name] = errors, reason
        self.samplers = {key: sampler for key, sampler in self.samplers.items() if key[0] != name}

    @property
    def features(self) -> int | None:
        """Return the features of the linear layer, or None if no operation takes one."""
        takes_layer = any(TABLE[operation].takes_layer for operation in self._request.operations)
        return self._ready.arrays.features if takes_layer else None

    @property
    def most_threads(self) -> int:
        """Return the largest number of threads that a timed candidate uses."""
        infos = [sce.get_backend(name).info for name in self._request.names]
        if any(name in peers.BY_NAME for name, _ in self.samplers):
            infos.append(sce.BackendInfo("", "", serial_elements=_SERIAL_IN_PEERS))
        return load.threads_used(self._planned.threads, *self._ready.workload.shape, infos)

    def _is_timed(self, name: str) -> bool:
        return name in (BASE, self._request.base) or self.verdicts[name][1] is None

    def _check_backend(self, name: str) -> None:
        request, planned, ready = self._request, self._planned, self._ready
        self.verdicts[name] = ready.judge.backend(name, planned.threads, request.operations)
        if self._is_timed(name):
            made = calls(request, planned, ready, name)
            self.samplers |= {(name, operation): timing.Local(call) for operation, call in made.items()}

    def _check_here(self, name: str) -> None:
        """Check a peer that runs in this process."""
        ready = self._ready
        try:
            small = candidates.peer(name, ready.judge.subset)
            more = {o: other_results(small, o) for o in self._others_of(name)}
            self.verdicts[name] = ready.judge.peer(*small.result(), more)
            prepared = candidates.peer(name, ready.workload)
        except Exception as error:  # as of any candidate
            self.reject(name, raised(error))
            return
        if self._is_timed(name):
            self.samplers |= {(name, o): timing.Local(prepared.calls[o]) for o in self._operations_of(name)}

    def _check_remote(self, names: list[str]) -> None:
        """Check the peers that run in processes of their own."""
        processes, ready = self._processes, self._ready
        processes.gather(names, self._planned.threads or available_cpus())
        failed = processes.load(names, ready.judge.subset)
        for name in names:
            self.verdicts[name] = (None, failed[name]) if name in failed else self._verdict(name)
        right = [name for name in names if self.verdicts[name][1] is None]
        for name, reason in processes.load(right, ready.workload, ready.make).items():
            self.reject(name, reason)
        for name in right:
            if self.verdicts[name][1] is None:
                self.samplers |= {(name, o): PeerSampler(processes[name], o) for o in self._operations_of(name)}

    def _verdict(self, name: str) -> Judgement:
        rows = np.arange(self._ready.judge.subset.shape[0])
        child = self._processes[name]
        try:
            more = {o: child.ask("others", o) for o in self._others_of(name)}
            loss, grad = child.ask("result", rows)
        except ProcessError as error:
            return None, str(error)
        return self._ready.judge.peer(loss, grad, more)

    def _operations_of(self, name: str) -> list[str]:
        return [o for o in self._request.operations if o in peers.BY_NAME[name].operations]

    def _others_of(self, name: str) -> list[str]:
        return [o for o in self._operations_of(name) if o in OTHERS]

    def _skipped(self) -> dict[str, str]:
        """Return the reason for each peer that does not take part."""
        request, planned, ready = self._request, self._planned, self._ready
        fitting = request.peers_that_fit(planned.source)
        found = {}
        for name in request.peers:
            reason = why_not(name, ready.workload, ready.options, request.options.reduction, request.operations)
            if reason is None and name not in fitting:
                needed = memory.needed_by_peer(planned.source.elements, planned.source.dtype)
                reason = f"its process would need about {memory.size(needed)}, more than is free beside the others"
            if reason is not None:
                found[name] = reason
        return found

    def _loops(self) -> tuple[dict[str, Sampler], str | None]:
        """Return the loops that move the operations' bytes, and the reason if there are none."""
        if not self._request.ceilings:
            return {}, "they were not asked for"
        wanted = dict.fromkeys(loop for operation in self._request.operations for loop in TABLE[operation].loops)
        reason = None
        if ceilings.why_unavailable is not None:
            reason = f"the copy and read loops are not available: {ceilings.why_unavailable}"
        elif not self._ready.workload.logits.flags.c_contiguous:
            reason = "the logits are not C-contiguous, as the copy and read loops need them"
        if reason is not None:
            wanted = {loop: None for loop in wanted if loop in products.LOOPS}  # NumPy's alone
        elif ceilings.best_copy() == "copy":
            wanted.pop("stream", None)  # no non-temporal stores here
        threads = self._planned.threads
        loops: dict[str, Sampler] = {loop: timing.Local(self._ready.arrays.loop(loop, threads)) for loop in wanted}
        return loops, None if loops else reason


def calls(request: CompareRequest, planned: PlannedCell, ready: PreparedWorkload, name: str) -> dict[str, Call]:
    """Return a backend's operations as functions without arguments."""
    options: dict[str, Any] = {
        "backend": name, "threads": planned.threads, "reduction": request.options.reduction, **ready.options
    }  # fmt: skip
    return {o: ready.arrays.backend(o, allocate=request.allocate, **options) for o in request.operations}


def why_not(
    name: str, workload: Workload, options: dict[str, Any], reduction: str, operations: Iterable[str]
) -> str | None:
    """Return why a peer does not take part in a cell, or None."""
    if options or reduction != "mean":
        asked = [option.replace("_", "-") for option in options] + [f"reduction {reduction}"] * (reduction != "mean")
        return f"peers are called without options: {', '.join(asked)}"
    peer = peers.BY_NAME[name]
    if not set(operations) & set(peer.operations):
        return f"{peer.title} has no {' or '.join(operations)}"
    if workload.logits.itemsize == 2:
        return f"peers are called with float32 or float64 here, not {workload.dtype}"  # whose losses they round
    return peer.why_not(workload)
