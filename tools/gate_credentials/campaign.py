"""Run the gate for each arm until all runs are complete or the time is up."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from softmax_ce_bench.gate import builds
from softmax_ce_bench.gate.builds import BuildSource
from softmax_ce_bench.gate.request import GateRequest
from softmax_ce_bench.gate.run import Tell, compare
from softmax_ce_bench.gate.session import Build, BuildError
from softmax_ce_bench.measure.process import interrupts_held_off
from tools.gate_credentials.arms import ARMS, BUILDS, CLEAN, CLONE, Arm, following
from tools.gate_credentials.mutants import BROKEN
from tools.gate_credentials.store import Store

# A neighbour that computes and that moves memory, some tens of megabytes again and again.
_NEIGHBOUR = """
import os, numpy as np
parent, x = os.getppid(), np.random.default_rng(0).standard_normal(4_000_000)
while os.getppid() == parent:
    np.exp(x).sum()
"""


def prepare(source: BuildSource, folder: Path, tell: Tell) -> dict[str, Path]:
    """Build the missing ones of `BUILDS`, and return all folders by name."""
    sites = {name: folder / name for name in BUILDS}
    missing = [name for name, site in sites.items() if not (site / "softmax_ce").is_dir()]
    made = [name for name in missing if name != CLONE]
    if made:
        tell(f"building {', '.join(made)}", 0.0, math.nan)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            new = [(source, Path(unfinished) / name) for name in made]
            builds.make(new, [BUILDS[name] for name in made])
            for name, (_, site) in zip(made, new, strict=True):
                os.replace(site, sites[name])
    if CLONE in missing:  # the same files: what a second build would give
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            shutil.copytree(sites[CLEAN], Path(unfinished) / CLONE, ignore=shutil.ignore_patterns("numba"))
            os.replace(Path(unfinished) / CLONE, sites[CLONE])
    return sites


def broken_build(source: BuildSource, folder: Path) -> str:
    """Return what the gate says about a build that does not compile.

    Raises
    ------
    AssertionError
        It said nothing.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        try:
            builds.make([(source, Path(name) / "site")], [BROKEN])
        except BuildError as error:
            return str(error)
    raise AssertionError("a build whose source is no C was made")


def run(
    source: BuildSource, sites: dict[str, Path], store: Store, deadline: float, tell: Tell,
    arms: Sequence[Arm] = ARMS, scale: int = 1,
) -> bool:  # fmt: skip
    """Run the gate until every arm has its runs or the time is up. Return whether the campaign is complete.

    A run is begun only if one as long as the longest so far would end in time.
    """
    taken: list[float] = []
    while True:
        counts = store.counts()
        arm = following(counts, arms, scale)
        if arm is None:
            return True
        begin = time.monotonic()
        if begin + max(taken, default=0.0) > deadline:
            return False
        total = scale * sum(each.runs for each in arms)
        done = sum(counts.values())
        left = (total - done) * (sum(taken) / len(taken) if taken else math.nan)
        told = partial(_told, tell, f"run {done + 1} of {total}, {arm.name}", done / total, left)
        request = GateRequest(
            source, source, workloads=arm.workloads, seed=counts.get(arm.name, 0),
            command=("gate-credentials",),
        )  # fmt: skip
        pair = Build("base", sites[arm.base], arm.environment), Build("head", sites[arm.head], arm.environment)
        with tempfile.TemporaryDirectory(prefix="softmax-ce-gate-") as folder, neighbour(arm.loaded):
            store.add(arm, compare(request, pair, Path(folder), told))
        taken.append(time.monotonic() - begin)


def _told(tell: Tell, title: str, done: float, left: float, text: str, *_of_the_run: float) -> None:
    """Report the progress of the campaign in place of that of a run."""
    tell(f"{title}: {text}", done, left)


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """Keep a CPU busy meanwhile. The system decides which one."""
    if not wanted:
        yield
        return
    with interrupts_held_off():
        process = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()
