"""A peer in a process of its own, with as many CPUs as it is to have threads.

Thread pools are sized at import (OpenMP, XLA) and two OpenMP runtimes in one process spoil each other's times, and
ours. The worker times its samples with its own clock: what crosses the pipe is one number a sample.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.process import THREAD_VARIABLES, deaf_children
from softmax_ce_bench.peers.adapters import Prepared
from softmax_ce_bench.peers.table import BY_NAME

# After a parallel region OpenMP's helpers go on looking for work for some milliseconds, on CPUs that the next
# candidate needs.
SETTLE_SECONDS = 5e-3


class WorkerError(RuntimeError):
    """What went wrong in the worker, in one line."""


class Worker:
    """The near end: starts the process at the first question, and asks.

    ``ask("load", workload)`` first, with a :class:`Workload` or a function that can be pickled and makes it over there;
    then ``ask("result", rows)`` gives the mean loss and those rows of its gradient, ``ask("normalized", operation,
    rows)`` those rows of a normalizer's result, and :class:`Remote` times. A workload with options of its own is loaded
    beside the first as a variant: ``ask("load", workload, variant, options)``. Close it, or use it in a ``with``
    statement.

    Parameters
    ----------
    name : str
        A peer's.
    threads : int
        The process is held to so many CPUs, where the system can do that.

    Attributes
    ----------
    cpu_seconds : float
        What the process had used at its last answer.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self.cpu_seconds = 0.0
        self._pipe: Connection | None = None
        self._process: Any = None

    def send(self, question: str, *arguments: Any) -> None:
        """Ask without waiting."""
        if self._pipe is None:
            spawning = multiprocessing.get_context("spawn")  # not fork: this process has threads
            self._pipe, far = spawning.Pipe()
            self._process = spawning.Process(target=serve, args=(far, self.name, self.threads), daemon=True)
            if os.name == "posix":
                resource_tracker.ensure_running()  # whose start would let Ctrl-C through to the child again
            with deaf_children():
                self._process.start()
            far.close()
        try:
            self._pipe.send((question, arguments))
        except OSError:
            raise WorkerError(f"the process of {self.name} ended") from None

    def answer(self) -> Any:
        """The answer to what was sent first.

        Raises
        ------
        WorkerError
            The library raised, or its process ended.
        """
        if self._pipe is None:
            raise WorkerError(f"{self.name} was not asked anything")
        try:
            good, value, self.cpu_seconds = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(f"the process of {self.name} ended") from None
        if not good:
            raise WorkerError(value)
        return value

    def ask(self, question: str, *arguments: Any) -> Any:
        """Send, and wait."""
        self.send(question, *arguments)
        return self.answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.terminate()  # it may be in the middle of something long
            self._process.join(2)
            if self._process.is_alive():
                self._process.kill()
            self._pipe = None


class Remote:
    """A worker's operation as a :class:`softmax_ce_bench.measure.timing.Sampler`."""

    def __init__(self, worker: Worker, operation: str, variant: str = "") -> None:
        self._worker = worker
        self._call = operation, variant

    def calibrate(self, sample_seconds: float) -> int:
        """As of the protocol."""
        return int(self._worker.ask("calibrate", self._call, sample_seconds))

    def sample(self, calls: int) -> float:
        """As of the protocol."""
        return float(self._worker.ask("sample", self._call, calls))


def serve(pipe: Connection, name: str, threads: int) -> None:
    """The far end: answer until the near end has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine(threads)
    desk = _Desk(name, threads)
    with suppress(EOFError, OSError):
        while True:
            question, arguments = pipe.recv()
            answer: tuple[bool, Any]
            try:
                answer = True, getattr(desk, question)(*arguments)
            except Exception as error:  # a library may raise anything: it is told, not fatal
                answer = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            pipe.send((*answer, time.process_time()))


def _confine(threads: int) -> None:
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's remarks on how long it compiles
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[-threads:])  # the last ones: the first takes most interrupts


class _Desk:
    """What a worker can be asked."""

    def __init__(self, name: str, threads: int) -> None:
        self._peer = BY_NAME[name]
        self._threads = threads
        self._prepared: dict[str, Prepared] = {}

    def start(self) -> None:
        """Import the library, by way of the smallest workload."""
        self._peer.prepare(np.zeros((1, 2), np.float32), np.zeros(1, np.int64), self._threads).result()

    def load(
        self,
        source: Workload | Callable[[], Workload],
        variant: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the workload, or make it, and prepare the library for it.

        Parameters
        ----------
        source : Workload or callable
        variant : str
            Empty: it takes the place of everything that was loaded; else it is kept beside that under this name.
        options : mapping, optional
            Of the call.
        """
        if not variant:
            self._prepared = {}  # the last workload's arrays go first
        workload = source() if callable(source) else source
        reason = self._peer.why_not(workload, options)
        if reason is not None:
            raise ValueError(reason)
        # Copies: a library that computes on our memory must not do so on the pages of a mapped file.
        arrays = np.array(workload.logits), np.array(workload.targets)
        self._prepared[variant] = self._peer.prepare(*arrays, self._threads, **(options or {}))

    def result(self, rows: Any, variant: str = "") -> tuple[float, Any]:
        """The loss, and some rows of the gradient; rows of (N, C, ...) are its positions."""
        prepared = self._of(variant)
        loss, grad = prepared.result()
        alone = float(prepared.as_array(prepared.calls["forward"]()).mean(dtype=np.float64))  # may be one a row
        if not np.isclose(alone, loss, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ArithmeticError(f"the loss alone is {alone:.6g}, and with the gradient {loss:.6g}")
        if grad.ndim > 2:
            grad = np.moveaxis(grad, 1, -1).reshape(-1, grad.shape[1])
        return loss, np.array(grad[rows])

    def normalized(self, operation: str, rows: Any) -> Any:
        """Some rows of a normalizer's result."""
        prepared = self._of("")
        return np.array(prepared.as_array(prepared.calls[operation]())[rows])

    def calibrate(self, call: tuple[str, str], sample_seconds: float) -> int:
        """Calls of (operation, variant) that fill a sample."""
        operation, variant = call
        return timing.calibrate(self._of(variant).calls[operation], sample_seconds)

    def sample(self, call: tuple[str, str], calls: int) -> float:
        """Seconds a call."""
        operation, variant = call
        taken = timing.Local(self._of(variant).calls[operation]).sample(calls)
        time.sleep(SETTLE_SECONDS)
        return taken

    def _of(self, variant: str) -> Prepared:
        if variant not in self._prepared:
            raise RuntimeError("no workload was loaded")
        return self._prepared[variant]
