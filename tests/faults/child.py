"""Python in a process of its own, with a time limit: a fault may kill it or hang it, and the tests go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SHARED = {"SOFTMAX_CE_SERIAL_ELEMENTS": "65536"}  # threads share what the scenario computes; less is left alone


def python(
    code: str, *, timeout: float = 300, command: Sequence[str] = (sys.executable,), **environment: str
) -> subprocess.CompletedProcess[str]:
    """How a fresh interpreter ended that ran this; it can import scenario.py. A hang is a TimeoutExpired."""
    paths = environment.pop("PYTHONPATH", ""), str(HERE), os.environ.get("PYTHONPATH", "")
    with subprocess.Popen(
        [*command, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **SHARED, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        start_new_session=True,  # so that children of its own that hang go with it
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            _end_session(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _end_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the second
        os.killpg(leader, signal.SIGKILL)


def survive(code: str, *, timeout: float = 300, command: Sequence[str] = (sys.executable,), **environment: str) -> str:
    """What it printed; it must have ended by itself and with exit code 0."""
    done = python(code, timeout=timeout, command=command, **environment)
    assert done.returncode == 0, f"ended with {ending(done)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ending(done: subprocess.CompletedProcess[str]) -> str:
    """Its exit code, or the name of the signal that ended it."""
    return signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
