"""What several test modules use and pytest need not know of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TypeVar

T = TypeVar("T")


def known(value: T | None) -> T:
    """Return what is not None; if it is, the test fails."""
    assert value is not None
    return value


def run_python(code: str, **environment: str) -> str:
    """A fresh interpreter's output; its exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment_without(*names: str, **environment: str) -> dict[str, str]:
    """This process's environment less some variables, plus others."""
    return {name: value for name, value in os.environ.items() if name not in names} | environment
