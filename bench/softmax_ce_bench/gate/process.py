"""The measured processes. Each is started with one build on its path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from softmax_ce_bench.measure.process import THREAD_VARIABLES, Child, ProcessError, command

__all__ = ["ANSWER_SECONDS", "ProcessError", "build_process", "environment", "interpreter"]

ANSWER_SECONDS = 120.0  # importing, and compiling with an empty cache, take half a minute on a slow machine
_HERE = Path(__file__).parent


def build_process(site: Path, folder: Path, extra: dict[str, str] | None = None) -> Child:
    """Return a process that holds a build and answers the questions of :class:`softmax_ce_bench.gate.worker.Service`.

    Parameters
    ----------
    site : Path
        The folder that holds the build's softmax_ce. What Numba compiles is kept there too.
    folder : Path
        The workloads, as :mod:`softmax_ce_bench.gate.worker` has them.
    extra : dict, optional
        Environment variables on top.
    """
    launch = command(interpreter("worker.py"), str(folder), environment=environment(site) | (extra or {}), folder=site)
    return Child(launch, seconds=ANSWER_SECONDS)


def interpreter(program: str) -> list[str]:
    """Return the command that runs a program of this folder by its path, with no other softmax_ce to import."""
    return [sys.executable, "-s", "-P", str(_HERE / program)]


def environment(site: Path) -> dict[str, str]:
    """Return this process's environment without the variables that change which kernel runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOFTMAX_CE_", "PYTHON"))}
    return kept | dict.fromkeys(THREAD_VARIABLES, "1") | {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(site / "numba"),
        "SOFTMAX_CE_PROFILE": "",
    }  # fmt: skip
