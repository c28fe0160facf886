"""Copies of the project's tree in which sources are changed. The working tree itself is never changed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutation"
PACKAGE = Path("kernels", "softmax_ce")

_FOLDERS = ("kernels", "bench", "tools", "tests", "docs", "examples")
_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "asv.conf.json",
          "pyproject.toml", "setup.py")  # fmt: skip


class Tree:
    """A copy that imports find before the installed package.

    Parameters
    ----------
    name : str
        The name of its folder below ``build/mutation``. An existing folder is replaced.

    Attributes
    ----------
    root, package : Path
    """

    def __init__(self, name: str) -> None:
        self.root = BUILD / name
        self.package = self.root / PACKAGE
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in _FOLDERS:
            shutil.copytree(ROOT / folder, self.root / folder, ignore=shutil.ignore_patterns("*.egg-info", ".*"))
        for file in _FILES:
            shutil.copy2(ROOT / file, self.root / file)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that imports from this tree."""
        paths = [str(self.root / folder) for folder in ("kernels", "bench", ".", "tests")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            # A mutant may be as long as its source and written in the same second: byte code would be taken for its.
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": str(BUILD / "numba"),
            "SOFTMAX_CE_REQUIRE_ALL": "1",  # a mutant without which there is no backend must not have its tests skipped
            **more,
        }

    @contextmanager
    def changed(self, file: Path, content: bytes) -> Iterator[None]:
        """Give a file other content for a while, and restore it with its own times afterwards."""
        kept = file.with_name(f"{file.name}.kept")
        file.rename(kept)
        try:
            file.write_bytes(content)
            yield
        finally:
            kept.replace(file)


def python() -> str:
    """Return the interpreter that has the project's tools."""
    return sys.executable
