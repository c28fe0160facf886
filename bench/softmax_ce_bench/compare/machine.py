"""Where a run is made, and with what."""

from __future__ import annotations

import subprocess
from pathlib import Path

import softmax_ce as sce
from softmax_ce_bench import info
from softmax_ce_bench.compare.model import Machine


def collect() -> Machine:
    """This machine, as it is recorded."""
    facts = info.collect()
    return Machine(
        cpu=facts["cpu"],
        instruction_sets=tuple(facts["instruction_sets"]),
        cpus_available=facts["cpus_available"],
        cpus_installed=facts["cpus_installed"],
        os=facts["os"],
        thread_variables=dict(facts["thread_variables"]),
        python=facts["python"],
        softmax_ce=facts["softmax_ce"],
        commit=commit(Path(sce.__file__).parent),
        packages=dict(facts["packages"]),
    )


def commit(folder: Path) -> str | None:
    """The commit that a folder of a checkout is at, with "+" behind it if its files differ; None without git."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        if not _git(folder, "ls-files", "."):  # installed below somebody else's checkout
            return None
        return head + "+" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    asked = ["git", "-C", str(folder), *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
