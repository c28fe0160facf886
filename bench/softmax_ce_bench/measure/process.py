"""Child processes, and the protocol to talk to them.

A `Child` is started, asked questions, and closed. If the process ends by itself, its last words say how. There,
`serve` answers each question by calling a method of a service. `run_script` runs code in a fresh interpreter, which
prints its answer. Nothing here imports NumPy or softmax_ce: a child may hold another build.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

# Thread pools are sized from these when a library is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

_SCRIPT_SECONDS = 300.0  # compiling included
_LONGEST = 300  # characters of an error


class ProcessError(RuntimeError):
    """A child raised, ended, or did not answer in time. The message is one line."""


class Launched(Protocol):
    """A running process and the pipe to it."""

    pipe: Connection

    @property
    def pid(self) -> int | None:
        """Return the process ID."""

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, negative for a signal, or None if the process still runs after so many seconds."""

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""

    def said(self) -> str:
        """Return the part of its standard output and standard error that was kept."""


class Child:
    """A process that answers questions. Use it in a ``with`` statement, or close it.

    The process starts with the ``with`` statement or with the first question. After `close`, the next question starts a
    new one.

    Parameters
    ----------
    launch : callable
        Starts the process: see `spawned` and `command`.
    name : str
        Names the process in messages.
    seconds : float, optional
        How long an answer may take.

    Attributes
    ----------
    cpu_seconds : float
        The CPU time that the process had used at its last answer.
    """

    def __init__(self, launch: Callable[[], Launched], name: str = "", seconds: float | None = None) -> None:
        self.cpu_seconds = 0.0
        self._launch = launch
        self._name = name
        self._seconds = seconds
        self._running: Launched | None = None

    @property
    def pid(self) -> int | None:
        """Return the process ID, or None if there is no process."""
        return None if self._running is None else self._running.pid

    def start(self) -> None:
        """Start the process unless it is running."""
        if self._running is None:
            self._running = self._launch()

    def send(self, question: str, *arguments: Any) -> None:
        """Ask a question without waiting for the answer."""
        self.start()
        assert self._running is not None
        try:
            self._running.pipe.send((question, arguments))
        except OSError:
            raise ProcessError(self._last_words()) from None

    def answer(self) -> Any:
        """Wait for the answer to the first question that has none yet.

        Raises
        ------
        ProcessError
            The service raised, the process ended, or the answer took too long.
        """
        if self._running is None:
            raise ProcessError(f"{self._title} was not asked anything")
        try:
            if self._seconds is not None and not self._running.pipe.poll(self._seconds):
                raise ProcessError(f"no answer within {self._seconds:.0f} s")
            good, value, self.cpu_seconds = self._running.pipe.recv()
        except (EOFError, OSError):
            raise ProcessError(self._last_words()) from None
        if not good:
            raise ProcessError(value)
        return value

    def ask(self, question: str, *arguments: Any) -> Any:
        """Ask a question and return the answer."""
        self.send(question, *arguments)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            self._running.pipe.close()
            self._running.kill()  # it has nothing to put away, and may be in the middle of something long
            self._running = None

    def __enter__(self) -> Child:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def _title(self) -> str:
        return f"the process of {self._name}" if self._name else "the process"

    def _last_words(self) -> str:
        """Return how the process ended, with the last line that it wrote."""
        assert self._running is not None
        code = self._running.wait(5)
        lines = self._running.said().strip().splitlines()
        return f"{self._title} ended with {ending(code)}" + (f": {lines[-1][:_LONGEST]}" if lines else "")


def ending(code: int | None) -> str:
    """Return in words how a process ended."""
    if code is None or code >= 0:
        return f"exit code {code}"
    hint = ", perhaps for want of memory" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"signal {-code}{hint}"


def spawned(make_service: Callable[[], object]) -> Callable[[], Launched]:
    """Return a function that launches a process with a service of this installation.

    Parameters
    ----------
    make_service : callable
        Called in the process. It is pickled, and so may be a class, a function of a module, or a partial of these.
    """
    return lambda: _Spawned(make_service)


def command(
    words: Sequence[str], *arguments: str, environment: Mapping[str, str], folder: Path
) -> Callable[[], Launched]:
    """Return a function that launches a command, which calls `serve_descriptor` with its first argument.

    Parameters
    ----------
    words : sequence of str
        The command. The number of a file descriptor is added.
    *arguments : str
        The arguments that follow that number.
    environment : mapping
        All variables of the process.
    folder : Path
        The process runs there.
    """
    return lambda: _Command(words, arguments, environment, folder)


class _Spawned:
    """A process that the multiprocessing module spawns. It is not forked, since this process has threads."""

    def __init__(self, make_service: Callable[[], object]) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.pipe, far = spawning.Pipe()
        self._process = spawning.Process(target=_serve_and_close, args=(far, make_service), daemon=True)
        if os.name == "posix":
            resource_tracker.ensure_running()  # whose start would let Ctrl-C through to the child again
        with interrupts_held_off():
            self._process.start()
        far.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def said(self) -> str:
        return ""  # it went to this process's own output


class _Command:
    """A process that runs a command."""

    def __init__(
        self, words: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.pipe, far = multiprocessing.Pipe()
        with far, interrupts_held_off():
            self._process = subprocess.Popen(
                [*words, str(far.fileno()), *arguments], env=environment, cwd=folder, pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
            )  # fmt: skip

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode("utf-8", "replace")


def serve(pipe: Connection, make_service: Callable[[], object]) -> None:
    """Answer the questions of a `Child` until it is closed.

    Parameters
    ----------
    pipe : Connection
    make_service : callable
        Makes the object whose methods are the questions. If it raises, that is the answer to every question.
    """
    service: Any = None
    failed: str | None = None
    try:
        service = make_service()
    except Exception as error:  # a build may not even be importable
        failed = one_line(error)
    with suppress(EOFError, OSError):
        while True:
            question, arguments = pipe.recv()
            answer: tuple[bool, Any] = False, failed
            if failed is None:
                try:
                    answer = True, getattr(service, question)(*arguments)
                except Exception as error:  # a library may raise anything: that is an answer, and not fatal
                    answer = False, one_line(error)
            pipe.send((*answer, time.process_time()))


def serve_descriptor(descriptor: str, make_service: Callable[[], object]) -> None:
    """Call `serve` with the pipe whose file descriptor `command` has passed on."""
    with Connection(int(descriptor)) as pipe:
        serve(pipe, make_service)


def _serve_and_close(pipe: Connection, make_service: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(pipe, make_service)


def one_line(error: Exception) -> str:
    """Return the type and the message of an error in one line of limited length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"


def run_script(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run Python code in a fresh interpreter, and return the JSON value that it prints.

    Raises
    ------
    ProcessError
        The code failed; the message is what it wrote to standard error.
    """
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=_SCRIPT_SECONDS, check=False
    )  # fmt: skip
    if done.returncode != 0:
        raise ProcessError(done.stderr.strip() or f"the process ended with {ending(done.returncode)}")
    return json.loads(done.stdout)


@contextmanager
def interrupts_held_off() -> Iterator[None]:
    """Hold off Ctrl-C while processes are started, so that only this process handles it.

    The signal is blocked, and a child inherits that. One that comes meanwhile is delivered to this process afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
