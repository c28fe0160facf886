"""Ask git about a repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SECONDS = 60.0  # a large checkout on a slow disk


def ask(folder: Path, *arguments: str) -> str:
    """Return the output of git in the repository that contains a folder.

    Raises
    ------
    FileNotFoundError
        There is no git.
    subprocess.SubprocessError
        It fails, or takes too long.
    """
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout.strip()


def commit(folder: Path) -> str | None:
    """Return the commit of a checkout, with "+" appended if its files differ, or None without git."""
    try:
        head = ask(folder, "rev-parse", "--short=12", "HEAD")
        if not ask(folder, "ls-files", "."):  # installed below somebody else's checkout
            return None
        return head + "+" * bool(ask(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
