"""Programs of others, run with their output kept back unless they fail."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Wrong(Exception):
    """An artefact, or a step on the way to it, is not as it should be; the message says what is wrong."""


def run(
    *command: str | Path, folder: Path = ROOT, without: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Return what it printed; Wrong with everything that it said, where it failed."""
    # This process's own path would put the checkout into the environments under test.
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", *without}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=folder, env={**inherited, **(environment or {})}
    )
    if done.returncode != 0:
        raise Wrong(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
