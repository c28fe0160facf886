"""The peers of a run: a process each, started anew where the number of threads is another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from softmax_ce_bench import peers
from softmax_ce_bench.compare.result import Errors
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure.operations import NORMALIZERS
from softmax_ce_bench.peers import Remote, Worker, WorkerError
from softmax_ce_bench.truth.judge import Judge, raised

_SENT = 1 << 24  # bytes


class Crew:
    """Workers for the peers.

    Parameters
    ----------
    make_worker : callable
        (name, threads) -> worker.
    """

    def __init__(self, make_worker: Callable[[str, int], Any] = Worker) -> None:
        self._make = make_worker
        self._workers: dict[str, Any] = {}
        self._threads = 0

    @property
    def cpu_seconds(self) -> float:
        """What all the processes have used; they are no others."""
        return float(sum(worker.cpu_seconds for worker in self._workers.values()))

    def gather(self, names: Iterable[str], threads: int) -> None:
        """Have a process for each of the names with so many threads. They start, and import, side by side."""
        if threads != self._threads:
            self.dismiss()
            self._threads = threads
        for name in names:
            if name not in self._workers:
                self._workers[name] = self._make(name, threads)

    def verdicts(
        self, names: list[str], judge: Judge, operations: Iterable[str] = ()
    ) -> dict[str, tuple[Errors | None, str | None]]:
        """Each peer's worst errors on the checked rows, and why it is rejected, if it is.

        Normalizers among the operations are judged too, where a peer has them.
        """
        operations = tuple(operations)
        subset = judge.subset
        self._load(names, subset)
        rows = np.arange(subset.shape[0])
        found: dict[str, tuple[Errors | None, str | None]] = {}
        for name in names:
            try:
                self._workers[name].answer()
                worker = self._workers[name]
                more = {o: worker.ask("normalized", o, rows) for o in normalizers_of(name, operations)}
                loss, grad = worker.ask("result", rows)
                found[name] = judge.peer(loss, grad, more)
            except WorkerError as error:
                found[name] = None, raised(error).removeprefix("raised WorkerError: ")
        return found

    def samplers(
        self, names: list[str], workload: Workload, make: Callable[[], Workload], operations: Iterable[str]
    ) -> tuple[dict[tuple[str, str], Remote], dict[str, str]]:
        """Load the workload whole; what is to be timed by (name, operation), and why one is left out.

        A large one is made over there, in place of being sent.
        """
        self._load(names, workload if workload.logits.nbytes <= _SENT else make)
        ready: dict[tuple[str, str], Remote] = {}
        failed = {}
        for name in names:
            try:
                self._workers[name].answer()
            except WorkerError as error:
                failed[name] = raised(error).removeprefix("raised WorkerError: ")
                continue
            for operation in operations:
                if operation in peers.BY_NAME[name].operations:
                    ready[name, operation] = Remote(self._workers[name], operation)
        return ready, failed

    def dismiss(self) -> None:
        """End the processes."""
        for worker in self._workers.values():
            worker.close()
        self._workers = {}

    def _load(self, names: list[str], source: Workload | Callable[[], Workload]) -> None:
        for name in names:
            try:
                self._workers[name].send("load", source)
            except WorkerError:  # it has ended: make a new one, once
                self._workers[name].close()
                self._workers[name].send("load", source)


def why_not(
    name: str, workload: Workload, options: dict[str, Any], reduction: str, operations: Iterable[str]
) -> str | None:
    """Why a peer does not take part in a cell, or None."""
    if options or reduction != "mean":
        asked = [option.replace("_", "-") for option in options] + [f"reduction {reduction}"] * (reduction != "mean")
        return f"peers are called without options here: {', '.join(asked)}"
    peer = peers.BY_NAME[name]
    if not set(operations) & set(peer.operations):
        return f"{peer.title} has no {' or '.join(operations)}"
    if workload.logits.itemsize == 2:
        return f"peers are called with float32 or float64 here, not {workload.dtype}"  # whose losses they round
    return peer.why_not(workload)


def normalizers_of(name: str, operations: Iterable[str]) -> list[str]:
    """Those of the operations that are normalizers, and that a peer has."""
    return [o for o in operations if o in NORMALIZERS and o in peers.BY_NAME[name].operations]
