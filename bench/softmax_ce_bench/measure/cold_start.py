"""Cold start: the time that a fresh process takes to import softmax_ce and to make a backend's first call.

Every sample is a process of its own. In each round every backend has one, in an order drawn anew; a backend that
compiles on first use has two, the first with an empty cache folder, the second with what the first has left there.
Starting the interpreter and importing NumPy come before, and are not in these times.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softmax_ce_bench.measure.process import ProcessError, run_script

PROCESSES = 7

# One row of 10 classes: everything but the first call's own cost is small.
_CODE = """
import json, sys, time
import numpy as np
logits, labels = np.zeros((1, 10), np.float32), np.zeros(1, np.int64)
{before}
begin = time.perf_counter()
{imports}
imported = time.perf_counter()
{call}
first = time.perf_counter()
{call}
second = time.perf_counter()
print(json.dumps([imported - begin, first - imported, second - first]))
"""
_OF_BACKEND = _CODE.format(
    before="",
    imports="import softmax_ce as sce",
    call="sce.cross_entropy_with_grad(logits, labels, backend=sys.argv[1])",
)
_OF_PEER = _CODE.format(
    before="from softmax_ce_bench import peers",
    imports="prepared = peers.BY_NAME[sys.argv[1]].prepare(logits, labels, 1)",
    call="prepared.calls['fused']()",
)

Runner = Callable[[str, Path], Sequence[float]]


@dataclass(frozen=True, slots=True)
class StartTimes:
    """Times of one backend in fresh processes; entry k of each list is from round k.

    Attributes
    ----------
    backend : str
    imported : list of float
        Seconds for ``import softmax_ce``.
    first : list of float
        Seconds for the first call, loading the backend included. Where it compiles, with an empty cache.
    cached : list of float
        Seconds for the first call where an earlier process has left its compiled kernels. Empty for a backend that
        compiles nothing.
    second : list of float
        Seconds for the call after the first.
    """

    backend: str
    imported: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)

    @property
    def until_first(self) -> NDArray[np.float64]:
        """Return the seconds until the first result if nothing is cached."""
        return np.add(self.imported, self.first)

    @property
    def until_first_cached(self) -> NDArray[np.float64]:
        """Return the seconds until the first result if compiled code is cached."""
        return np.add(self.imported, self.cached or self.first)

    def joined(self, other: StartTimes) -> StartTimes:
        """Return these times followed by those of further rounds."""
        return StartTimes(
            self.backend, self.imported + other.imported, self.first + other.first, self.cached + other.cached,
            self.second + other.second,
        )  # fmt: skip


def fresh_process(backend: str, cache: Path) -> Sequence[float]:
    """Return the seconds to import softmax_ce, for a backend's first call and for its second, in a new process.

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
    ProcessError
        The process failed; the message ends with what it wrote.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(cache)}
    return _seconds(f"backend {backend!r}", _OF_BACKEND, backend, environment)


def peer_process(name: str, cache: Path) -> Sequence[float]:
    """Return the seconds to import a peer's library, for the first call and for the second, in a new process.

    Parameters
    ----------
    name : str
    cache : Path
        Not used: no peer keeps compiled code unasked.
    """
    return _seconds(name, _OF_PEER, name)


def _seconds(what: str, code: str, name: str, environment: Mapping[str, str] | None = None) -> Sequence[float]:
    try:
        seconds: list[float] = run_script(code, name, environment=environment)
    except ProcessError as error:
        raise ProcessError(f"a fresh process with {what} failed: {error}") from None
    return seconds


def measure(
    backends: Mapping[str, bool], processes: int = PROCESSES, *, seed: int = 0, run: Runner = fresh_process
) -> list[StartTimes]:
    """Measure the cold starts of several backends in interleaved rounds.

    Parameters
    ----------
    backends : mapping
        Name -> whether it is compiled ahead of time.
    processes : int
        Rounds: fresh processes a backend, and twice as many where it compiles on first use.
    seed : int
        The seed of the order within the rounds.
    run : callable
        The function to use instead of :func:`fresh_process`.

    Returns
    -------
    list of StartTimes
        In the order of `backends`.

    Raises
    ------
    ValueError
        `processes` is less than 1.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    results = {name: StartTimes(name) for name in backends}
    rng = np.random.default_rng(seed)
    for _ in range(processes):
        for name in rng.permutation(list(backends)).tolist():
            _one_round(results[name], backends[name], run)
    return list(results.values())


def _one_round(result: StartTimes, ahead_of_time: bool, run: Runner) -> None:
    with tempfile.TemporaryDirectory(prefix="softmax-ce-") as folder:
        imported, first, second = run(result.backend, Path(folder))
        result.imported.append(imported)
        result.first.append(first)
        result.second.append(second)
        if not ahead_of_time:
            _, cached, _ = run(result.backend, Path(folder))
            result.cached.append(cached)
