"""Build the calls that are timed: an operation of a backend or a peer, or a loop."""

from __future__ import annotations

from typing import Any

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.timing import Call
from softmax_ce_bench.peers.adapters import Prepared


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
        self.buffers = operations.Buffers(workload.logits, reduction) if buffers is None else buffers

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
        return operations.call(sce, operation, self.workload.logits, self.workload.targets, buffers, **options)

    def loop(self, name: str, threads: int | None) -> Call:
        """Return a loop of :mod:`softmax_ce_bench.ceilings` from the logits to the buffer of their size."""
        return ceilings.call(name, self.workload.logits, self.buffers.array, threads)


def peer(name: str, workload: Workload, threads: int | None = 1) -> Prepared:
    """Return a peer that is prepared for a workload in this process."""
    return peers.BY_NAME[name].prepare(workload.logits, workload.targets, threads or available_cpus())
