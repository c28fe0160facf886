"""Run other programs, and show their output only if they fail."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Wrong(Exception):
    """A file of the release, or a step towards it, is not as it should be. The message says what is wrong."""


def run(
    *command: str | Path, folder: Path = ROOT, without: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Return the output of a command. Raise Wrong with everything that it printed if it fails."""
    # This process's own path would put the checkout into the environments under test.
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", *without}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=folder, env={**inherited, **(environment or {})}
    )
    if done.returncode != 0:
        raise Wrong(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
