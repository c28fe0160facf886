"""Build the calls that are timed: an operation of a backend or a peer, or a loop."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.timing import Call
from softmax_ce_bench.peers.adapters import Prepared
from softmax_ce_bench.peers.table import Peer


class SharedArrays:
    """A workload with buffers that all backends and loops share, so that their caches are equally warm.

    Parameters
    ----------
    workload : Workload
    reduction : str
        The reduction of the calls.
    buffers : Buffers, optional
        Those of another workload of this shape and dtype, to be shared too.
    """

    def __init__(self, workload: Workload, reduction: str = "mean", buffers: operations.Buffers | None = None) -> None:
        self.workload = workload
        self.buffers = operations.Buffers(workload.logits, reduction, **workload.axis) if buffers is None else buffers

    @cached_property
    def target_logits(self) -> Any:
        """The logits of the second model, for the operations that take them."""
        return operations.make_target_logits(self.workload.logits)

    def backend(self, operation: str, *, allocate: bool = False, **options: Any) -> Call:
        """Return a call of an operation of softmax_ce.

        Parameters
        ----------
        operation : str
        allocate : bool
            The call makes its results, in place of writing into the buffers.
        **options
            The options of the call, including the backend's name and the number of threads.
        """
        buffers = None if allocate else self.buffers
        second = self.target_logits if operations.TABLE[operation].takes_target_logits else None
        logits, targets = self.workload.logits, self.workload.targets
        return operations.call(sce, operation, logits, targets, buffers, second, **self.workload.axis, **options)

    def loop(self, name: str, threads: int | None) -> Call:
        """Return a loop of :mod:`softmax_ce_bench.ceilings` from the logits to the buffer of their size."""
        return ceilings.call(name, self.workload.logits, self.buffers.array, threads)


def peer(name: str, workload: Workload, threads: int | None = 1) -> Prepared:
    """Return a peer that is prepared for a workload in this process."""
    return prepared(peers.BY_NAME[name], workload.logits, workload.targets, threads or available_cpus())


def prepared(which: Peer, logits: Any, targets: Any, threads: int, **options: Any) -> Prepared:
    """Return a peer that is prepared for some arrays. It gets target logits when it is first asked for a divergence."""
    made = which.prepare(logits, targets, threads, **options)
    divergence = which.divergence
    if divergence is None:
        return made
    calls: list[Call] = []

    def run() -> object:
        if not calls:
            calls.append(divergence(logits, operations.make_target_logits(logits), threads))
        return calls[0]()

    return replace(made, calls={**made.calls, "kl": run})
