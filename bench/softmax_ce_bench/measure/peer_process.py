"""Peers in processes of their own. Each process may use as many CPUs as it has threads.

Thread pools are sized at import (OpenMP, XLA), and two OpenMP runtimes in one process spoil each other's times, and
ours. A peer's process times its samples with its own clock: what crosses the pipe is one number a sample.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from softmax_ce_bench.inputs.workloads import Workload, as_rows
from softmax_ce_bench.measure import candidates, timing
from softmax_ce_bench.measure.load import Reading
from softmax_ce_bench.measure.load import read as read_load
from softmax_ce_bench.measure.operations import GRAD, LINEAR_GRADS, LOSS, TABLE
from softmax_ce_bench.measure.process import THREAD_VARIABLES, Child, ProcessError, spawned
from softmax_ce_bench.peers import BY_NAME
from softmax_ce_bench.peers.adapters import Prepared

# After a parallel region OpenMP's helpers go on looking for work for some milliseconds, on CPUs that the next
# candidate needs.
SETTLE_SECONDS = 5e-3
_SENT = 1 << 24  # bytes: a larger workload is made in the process, in place of being sent

MakeChild = Callable[[str, int], Any]


def peer_process(name: str, threads: int) -> Child:
    """Return a peer's process, which answers the questions of `PeerService`.

    Parameters
    ----------
    name : str
    threads : int
        The process is held to so many CPUs, where the system can do that.
    """
    return Child(spawned(partial(PeerService, name, threads)), name)


class PeerSampler:
    """An operation of a peer as a :class:`softmax_ce_bench.measure.timing.Sampler`."""

    def __init__(self, child: Child, operation: str, variant: str = "") -> None:
        self._child = child
        self._call = operation, variant

    def calibrate(self, sample_seconds: float) -> int:
        """Warm up, and return how many calls fill a sample."""
        return int(self._child.ask("calibrate", self._call, sample_seconds))

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""
        return float(self._child.ask("sample", self._call, calls))


class PeerProcesses:
    """The processes of a run's peers. They are started anew when the number of threads changes.

    Parameters
    ----------
    make_child : callable
        (name, threads) -> process, in place of `peer_process`.
    """

    def __init__(self, make_child: MakeChild = peer_process) -> None:
        self._make = make_child
        self._children: dict[str, Any] = {}
        self._threads = 0

    def __getitem__(self, name: str) -> Any:
        """Return the process of a peer."""
        return self._children[name]

    def gather(self, names: Iterable[str], threads: int) -> list[str]:
        """Create a process with so many threads for each name, and return the names of the new ones."""
        if threads != self._threads:
            self.close()
            self._threads = threads
        new = [name for name in names if name not in self._children]
        self._children |= {name: self._make(name, threads) for name in new}
        return new

    def start(self, names: Iterable[str]) -> None:
        """Start processes in parallel, and have them import their libraries. What fails here fails again later."""
        self._ask_all(names, "start")

    def load(
        self, names: Iterable[str], workload: Workload, make: Callable[[], Workload] | None = None
    ) -> dict[str, str]:
        """Send a workload to some peers in parallel. Return the reason for each peer that did not accept it.

        Parameters
        ----------
        names : iterable of str
        workload : Workload
        make : callable, optional
            Makes the workload, and can be pickled. A large one is then made in the process.
        """
        small = make is None or workload.logits.nbytes <= _SENT
        return self._ask_all(names, "load", workload if small else make)

    def _ask_all(self, names: Iterable[str], question: str, *arguments: Any) -> dict[str, str]:
        """Ask several processes in parallel. Return what went wrong for each that failed."""
        names = tuple(names)
        for name in names:
            try:
                self._children[name].send(question, *arguments)
            except ProcessError:  # it has ended: start a new one, once
                self._children[name].close()
                self._children[name].send(question, *arguments)
        failed = {}
        for name in names:
            try:
                self._children[name].answer()
            except ProcessError as error:
                failed[name] = str(error)
        return failed

    def reading(self) -> Reading | None:
        """Return a reading of the load in which the processes count as this program."""
        reading = read_load()
        own = sum(child.cpu_seconds for child in self._children.values())
        return None if reading is None else replace(reading, own=reading.own + own)

    def close(self) -> None:
        """End the processes."""
        for child in self._children.values():
            child.close()
        self._children = {}


class PeerService:
    """The questions that a peer's process answers.

    Ask ``load`` first, with a :class:`Workload` or a function that makes it. Then ``result(rows)`` gives the mean loss
    and those rows of its gradient, and ``others(operation, rows)`` some rows of what an operation computes beside
    these. A workload with options of its own is loaded beside the first one as a variant: ``load(workload, variant,
    options)``.
    """

    def __init__(self, name: str, threads: int) -> None:
        _confine(threads)
        self._peer = BY_NAME[name]
        self._threads = threads
        self._prepared: dict[str, Prepared] = {}
        self._ndim = 2

    def start(self) -> None:
        """Import the library by preparing the smallest workload."""
        self._peer.prepare(np.zeros((1, 2), np.float32), np.zeros(1, np.int64), self._threads).result()

    def load(
        self,
        source: Workload | Callable[[], Workload],
        variant: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Accept or make the workload, and prepare the library for it.

        Parameters
        ----------
        source : Workload or callable
        variant : str
            Empty: the workload replaces everything that was loaded; else it is kept beside that under this name.
        options : mapping, optional
            The options of the call.
        """
        if not variant:
            self._prepared = {}  # the last workload's arrays go first
        workload = source() if callable(source) else source
        if not variant:
            self._ndim = workload.logits.ndim
        reason = self._peer.why_not(workload, options)
        if reason is not None:
            raise ValueError(reason)
        # Copies: a library that computes on our memory must not do so on the pages of a mapped file.
        own = replace(workload, logits=np.array(workload.logits), targets=np.array(workload.targets))
        self._prepared[variant] = candidates.prepared(self._peer, own, self._threads, **(options or {}))

    def result(self, rows: Any, variant: str = "") -> tuple[float, Any]:
        """Return the loss and some rows of the gradient. If the logits have more axes, a row is a position."""
        prepared = self._of(variant)
        loss, grad = prepared.result()
        alone = float(prepared.as_array(prepared.calls["forward"]()).mean(dtype=np.float64))  # may be one a row
        if not np.isclose(alone, loss, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ArithmeticError(f"the loss alone is {alone:.6g}, and with the gradient {loss:.6g}")
        if grad.ndim > 2:
            grad = np.moveaxis(grad, 1, -1).reshape(-1, grad.shape[1])
        return loss, np.array(grad[rows])

    def others(self, operation: str, rows: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what an operation computes beside the loss and its gradient, by name.

        Parameters
        ----------
        operation : str
        rows : mapping, optional
            Result -> the rows of it that are wanted. A result that is not there is returned as a whole.
        """
        found = {
            part: each if part in LINEAR_GRADS else as_rows(each, self._ndim)
            for part, each in other_results(self._of(""), operation).items()
        }
        wanted = rows or {}
        return {part: np.array(each[wanted[part]] if part in wanted else each) for part, each in found.items()}

    def calibrate(self, call: tuple[str, str], sample_seconds: float) -> int:
        """Return the number of calls of (operation, variant) that fill a sample."""
        operation, variant = call
        return timing.calibrate(self._of(variant).calls[operation], sample_seconds)

    def sample(self, call: tuple[str, str], calls: int) -> float:
        """Return the seconds per call."""
        operation, variant = call
        taken = timing.Local(self._of(variant).calls[operation]).sample(calls)
        time.sleep(SETTLE_SECONDS)
        return taken

    def _of(self, variant: str) -> Prepared:
        if variant not in self._prepared:
            raise RuntimeError("no workload was loaded")
        return self._prepared[variant]


def other_results(prepared: Prepared, operation: str) -> dict[str, Any]:
    """Return what an operation of a peer computes beside the loss and its gradient, by name, of the mean."""
    found = TABLE[operation].results(prepared.calls[operation]())
    arrays = {part: prepared.as_array(result) for part, result in found.items() if part not in (LOSS, GRAD)}
    if prepared.per_row and "hess" in arrays:
        arrays["hess"] = arrays["hess"] / len(arrays["hess"])
    return arrays


def _confine(threads: int) -> None:
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's remarks on how long it compiles
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[-threads:])  # the last ones: the first takes most interrupts
