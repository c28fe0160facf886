"""The near end of a measured process: started with one build on its path, asked, and ended, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from softmax_ce_bench.measure.process import THREAD_VARIABLES, deaf_children

ANSWER_SECONDS = 120.0  # importing, and compiling with an empty cache, take half a minute on a slow machine


class ProcessError(RuntimeError):
    """A build's process failed; one line says how."""


class Process:
    """One fresh process with a build. It ends with the ``with`` statement, and with this process.

    Parameters
    ----------
    site : Path
        The folder that holds the build's softmax_ce. What Numba compiles is kept there too.
    folder : Path
        The workloads, as :mod:`softmax_ce_bench.gate.worker` has them.
    extra : dict, optional
        Environment variables on top.
    """

    def __init__(self, site: Path, folder: Path, extra: dict[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._pipe, far = Pipe()
        command = [sys.executable, "-s", "-P", "-m", "softmax_ce_bench.gate.worker", str(far.fileno()), str(folder)]
        with far, deaf_children():
            self._process = subprocess.Popen(
                command, env=environment(site) | (extra or {}), cwd=site, pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
            )  # fmt: skip

    def send(self, question: str, *arguments: Any) -> None:
        """Ask without waiting."""
        try:
            self._pipe.send((question, arguments))
        except OSError:
            raise ProcessError(self._obituary()) from None

    def answer(self) -> Any:
        """The answer to what was sent first.

        Raises
        ------
        ProcessError
            The build raised, its process ended, or took longer than `ANSWER_SECONDS`.
        """
        try:
            if not self._pipe.poll(ANSWER_SECONDS):
                raise ProcessError(f"no answer within {ANSWER_SECONDS:.0f} s")
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            raise ProcessError(self._obituary()) from None
        if not good:
            raise ProcessError(value)
        return value

    def ask(self, question: str, *arguments: Any) -> Any:
        """Send, and wait."""
        self.send(question, *arguments)
        return self.answer()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pipe.close()
        self._process.kill()  # it has nothing to put away
        self._process.wait()
        self._said.close()

    def _obituary(self) -> str:
        """How the process ended, with the last line that it said."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"the process ended with {how}" + (f": {lines[-1][:300]}" if lines else "")


def environment(site: Path) -> dict[str, str]:
    """This process's environment, less what would change which kernel runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOFTMAX_CE_", "PYTHON"))}
    return kept | dict.fromkeys(THREAD_VARIABLES, "1") | {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(site / "numba"),
        "SOFTMAX_CE_PROFILE": "",
    }  # fmt: skip
