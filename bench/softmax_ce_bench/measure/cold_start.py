"""Cold start: what a fresh process pays for importing softmax_ce, and for a backend's first call.

Every sample is a process of its own. In each round every backend has one, in an order drawn anew; a backend that
compiles on first use has two, the first with an empty cache folder, the second with what the first has left there.
Starting the interpreter and importing NumPy come before, and are not in these times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

import softmax_ce as sce

PROCESSES = 7
_TIMEOUT = 300  # seconds a process, compiling included

# One row of 10 classes: everything but the first call's own cost is small.
_CODE = """
import json, sys, time
import numpy as np
logits, labels = np.zeros((1, 10), np.float32), np.zeros(1, np.int64)
begin = time.perf_counter()
import softmax_ce as sce
imported = time.perf_counter()
sce.cross_entropy_with_grad(logits, labels, backend=sys.argv[1])
first = time.perf_counter()
sce.cross_entropy_with_grad(logits, labels, backend=sys.argv[1])
second = time.perf_counter()
print(json.dumps([imported - begin, first - imported, second - first]))
"""

Runner = Callable[[str, Path], Sequence[float]]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Times of one backend in fresh processes; entry k of each list is from round k.

    Attributes
    ----------
    backend : str
    imported : list of float
        Seconds for ``import softmax_ce``.
    first : list of float
        Seconds for the first call, loading the backend included. Where it compiles, with an empty cache.
    cached : list of float
        The same where an earlier process has left its compiled kernels. Empty for a backend that compiles nothing.
    second : list of float
        Seconds for the call after the first.
    """

    backend: str
    imported: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)


def fresh_process(backend: str, cache: Path) -> Sequence[float]:
    """Seconds to import softmax_ce, for the first call and for the second, in a new process.

    Parameters
    ----------
    backend : str
    cache : Path
        Folder for compiled kernels.

    Returns
    -------
    sequence of three floats

    Raises
    ------
    RuntimeError
        The process failed; the message ends with what it said.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", _CODE, backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a fresh process with backend {backend!r} failed: {done.stderr.strip()}")
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def measure(
    backends: Mapping[str, bool], processes: int = PROCESSES, *, seed: int = 0, run: Runner = fresh_process
) -> list[ColdStart]:
    """Cold starts of several backends, in interleaved rounds.

    Parameters
    ----------
    backends : mapping
        Name -> whether it is compiled ahead of time.
    processes : int
        Rounds: fresh processes a backend, and twice as many where it compiles on first use.
    seed : int
        Of the order within the rounds.
    run : callable
        In place of :func:`fresh_process`.

    Returns
    -------
    list of ColdStart
        In the order of `backends`.

    Raises
    ------
    ValueError
        `processes` is less than 1.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    results = {name: ColdStart(name) for name in backends}
    rng = np.random.default_rng(seed)
    for _ in range(processes):
        for name in rng.permutation(list(backends)).tolist():
            _one_round(results[name], backends[name], run)
    return list(results.values())


def _one_round(result: ColdStart, ahead_of_time: bool, run: Runner) -> None:
    with tempfile.TemporaryDirectory(prefix="softmax-ce-") as folder:
        imported, first, second = run(result.backend, Path(folder))
        result.imported.append(imported)
        result.first.append(first)
        result.second.append(second)
        if not ahead_of_time:
            _, cached, _ = run(result.backend, Path(folder))
            result.cached.append(cached)


def spread(seconds: Sequence[float]) -> str:
    """Median, and the range below it; a dash where there is nothing."""
    from softmax_ce_bench.report.words import duration  # here, since the report is made of what is measured here

    if not seconds:
        return "-"
    return f"{duration(float(np.median(seconds)))}\n{duration(min(seconds))} to {duration(max(seconds))}"


@click.command()
@click.option("--processes", type=click.IntRange(min=1), default=PROCESSES, show_default=True, help="Fresh processes.")
def main(processes: int) -> None:
    """Measure the cold start of every available backend."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    available = {info.name: info.ahead_of_time for info in sce.backends() if info.available}
    table = Table(box=box.SIMPLE_HEAD, title=f"Fresh processes: median and range of {processes}")
    for heading in ("backend", "import\nsoftmax_ce", "first call", "first call,\ncached", "second call"):
        table.add_column(heading, no_wrap=True)
    for result in measure(available, processes):
        times = (result.imported, result.first, result.cached, result.second)
        table.add_row(result.backend, *map(spread, times), end_section=True)
    Console().print(table)


if __name__ == "__main__":
    main()
