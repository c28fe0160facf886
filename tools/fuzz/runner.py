"""Searches in watched processes. A process that dies or hangs is a finding too, and its case is known."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.fuzz import state
from tools.fuzz.explore import Failure

WORKER = (sys.executable, "-m", "tools.fuzz.worker")
_HANG = 120.0  # seconds for one case, which may compile; and to begin with the first
_POLL = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one process.

    Attributes
    ----------
    executions : int
        Cases tried.
    seconds : float
    failure : Failure or None
    """

    executions: int
    seconds: float
    failure: Failure | None


def search(
    name: str,
    seed: int,
    seconds: float,
    *,
    case: Any = None,
    command: Sequence[str] | None = None,
    hang: float = _HANG,
    on_progress: Callable[[int], None] = lambda begun: None,
) -> Report:
    """Search in a process of its own, or replay one case there.

    Parameters
    ----------
    name : str
        The name of the property.
    seed : int
    seconds : float
        The time to search, beside what starting takes.
    case : JSON value, optional
        The one to replay.
    command : sequence of str, optional
        The command that starts the worker.
    hang : float
        Seconds after which a case is taken to hang.
    on_progress : callable
        Called now and then with the number of cases that were started.
    """
    arguments = [name, str(seed), str(seconds)] + ([] if case is None else [json.dumps(case)])
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "errors"), "w+b") as errors:
        progress = state.Progress(Path(folder))
        with subprocess.Popen([*(command or WORKER), folder, *arguments], stdout=errors, stderr=errors) as process:
            try:
                hangs = _watch(process, progress, hang, on_progress)
            finally:
                if process.poll() is None:
                    process.kill()
        took = time.monotonic() - start
        outcome = state.read_outcome(Path(folder))
        if outcome is not None:
            return Report(outcome.executions, took, outcome.failure)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")[-10_000:]
        ending = f"it hung for {hang:g} s" if hangs else f"the process ended with {_ending(process.returncode)}"
        return Report(max(progress.begun - 1, 0), took, Failure(progress.case(), f"{ending}\n{said}"))


def _watch(
    process: subprocess.Popen[bytes], progress: state.Progress, hang: float, on_progress: Callable[[int], None]
) -> bool:
    """Wait for the end of a process. Return whether it was stopped because one case took too long."""
    begun, since = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
            return False
        if progress.begun != begun:
            begun, since = progress.begun, time.monotonic()
            on_progress(begun)
        elif time.monotonic() - since > (hang if begun else max(hang, _HANG)):
            process.send_signal(signal.SIGABRT)  # faulthandler says where
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            return True


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
