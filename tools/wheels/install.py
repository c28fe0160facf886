"""Install into fresh environments without a compiler."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tools.wheels.commands import run

INSTALLED = Path(__file__).with_name("installed.py")
NO_COMPILER = {"CC": "/nonexistent", "CXX": "/nonexistent"}


class Environment:
    """A new virtual environment of a Python in a new folder."""

    def __init__(self, folder: Path, python: str) -> None:
        run(sys.executable, "-m", "virtualenv", "--quiet", "--python", python, folder)
        self.folder = folder
        self.python = folder / "bin" / "python"

    def pip(self, *arguments: str | Path, without: Sequence[str] = (), **environment: str) -> None:
        command = (self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)
        run(*command, without=without, environment=environment)

    def check(self, *options: str, **environment: str) -> str:
        """Return the output of installed.py, run in this environment and from its folder."""
        return run(self.python, "-I", INSTALLED, *options, folder=self.folder, environment=environment)


def wheel_without_compiler(wheel: Path, environment: Environment) -> str:
    """Install the wheel with NumPy alone where nothing can be compiled, and run it and the correctness suite."""
    environment.pip("install", "--only-binary", ":all:", wheel, **NO_COMPILER)
    environment.check(**NO_COMPILER)
    environment.pip("install", "--only-binary", ":all:", "mpmath")
    return environment.check("--conformance", **NO_COMPILER)


def sdist_without_compiler(source: Path, environment: Environment) -> str:
    """Check that the sdist installs where nothing can be compiled, and return why a backend is missing."""
    environment.pip("install", source, without=("SOFTMAX_CE_REQUIRE_ALL",), **NO_COMPILER)
    return environment.check("--no-extension", **NO_COMPILER)
