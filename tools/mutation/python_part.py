"""The mutants of the Python sources."""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.mutation import equivalents
from tools.mutation.operators import Mutant, mutants
from tools.mutation.results import Count, Results
from tools.mutation.server import MutantVerdict, Server
from tools.mutation.testmap import TestMap, record
from tools.mutation.tree import BUILD, PACKAGE, ROOT, Tree

NUMBA = "_backends/numba_jit/"
# Of tests for one mutant, in seconds as recorded, where a worker is warm; where each request imports everything; and of
# the Numba backend, whose compiled code leaves no trace of which test runs which line.
_EFFORT, _COLD_EFFORT, _NUMBA_EFFORT = 20.0, 8.0, 60.0
_RECENT = 12  # tests remembered that noticed mutants of the same file
# What a test may take: a mutant of the Numba backend is compiled anew.
_GRACE = {False: 10.0, True: 60.0}


def all_mutants() -> list[Mutant]:
    """Return the mutants of every Python source of the package."""
    package = ROOT / PACKAGE
    return [
        mutant for path in sorted(package.rglob("*.py"))
        for mutant in mutants(path.read_bytes(), path.relative_to(package).as_posix())
    ]  # fmt: skip


class Bench:
    """A tree with two workers.

    Parameters
    ----------
    number : int
    tests : TestMap
    """

    def __init__(self, number: int, tests: TestMap) -> None:
        self._tree = Tree(f"tree-{number}")
        self._tests = tests
        self._warm = Server(self._tree, "warm")
        self._cold = Server(self._tree, "cold")
        self._recent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_RECENT))
        # Quick ones first, whatever their kind: a few compile in processes of their own, as long as all others take.
        self._of_numba = sorted((t for t in tests.seconds if "numba" in t), key=tests.seconds.__getitem__)

    def judge(self, mutant: Mutant) -> MutantVerdict:
        """Run the tests that may notice a mutant until one does."""
        is_numba = mutant.file.startswith(NUMBA)
        tests = self._of_numba if is_numba else self._tests.of(mutant)
        if not tests:
            return MutantVerdict("survived", how="no test runs it")
        chosen = self._chosen(mutant, tests, is_numba)
        while True:
            server, verdict = self._ask(mutant, chosen, warm=mutant.in_body and not is_numba)
            if verdict.outcome != "killed" or server.is_sound(verdict, chosen):
                break
            chosen = [pair for pair in chosen if pair[0] != verdict.by]  # it fails without a mutant, too
            self._tests.seconds.pop(verdict.by, None)  # another worker may have found it out meanwhile
        if is_numba:
            _forget_compiled()
        if verdict.outcome != "killed":
            return MutantVerdict("survived", how=f"{len(chosen)} tests passed")
        recent = self._recent[mutant.file]
        if verdict.by in self._tests.seconds and verdict.by not in recent:
            recent.appendleft(verdict.by)
        return verdict

    def _ask(self, mutant: Mutant, chosen: list[tuple[str, float]], warm: bool) -> tuple[Server, MutantVerdict]:
        path = self._tree.package / mutant.file
        with self._tree.changed(path, mutant.apply(path.read_bytes())):
            if warm:
                module = ".".join(["softmax_ce", *Path(mutant.file).with_suffix("").parts]).removesuffix(".__init__")
                verdict = self._warm.ask(chosen, module, str(path), mutant.within)
                if verdict.outcome != "unfit" and (
                    verdict.outcome == "killed" or not self._tests.runs_at_import(mutant)
                ):
                    return self._warm, verdict
            is_numba = mutant.file.startswith(NUMBA)
            return self._cold, self._cold.ask(chosen if is_numba else self._within(chosen, _COLD_EFFORT))

    def _chosen(self, mutant: Mutant, tests: Sequence[str], is_numba: bool) -> list[tuple[str, float]]:
        """Return the tests that noticed other mutants of the file, then the rest, within a limited time."""
        known = set(tests)
        first = [test for test in self._recent[mutant.file] if test in known]
        known_seconds = self._tests.seconds
        ordered = [test for test in dict.fromkeys([*first, *tests]) if test in known_seconds]
        limited = [(test, _GRACE[is_numba] + 10 * known_seconds[test]) for test in ordered]
        return self._within(limited, _NUMBA_EFFORT if is_numba else _EFFORT)

    def _within(self, chosen: list[tuple[str, float]], effort: float) -> list[tuple[str, float]]:
        """Return the first test, and all others that fit into so many seconds."""
        left = effort
        fitting: list[tuple[str, float]] = []
        for test, limit in chosen:
            seconds = self._tests.seconds[test]
            if not fitting or seconds <= left:
                fitting.append((test, limit))
                left -= seconds
        return fitting

    def close(self) -> None:
        self._warm.close()
        self._cold.close()


def _forget_compiled() -> None:
    """Delete what Numba has cached for a mutant. The name of the folder identifies the sources."""
    from softmax_ce._backends.numba_jit.cache import salt

    for folder in (BUILD / "numba" / "softmax_ce").glob("*"):
        if folder.name != salt():
            shutil.rmtree(folder, ignore_errors=True)


def run(
    *,
    numba: bool,
    seconds: float,
    only: str,
    sample: int,
    seed: int,
    jobs: int,
    results: Results,
    say: Callable[[str], None],
) -> dict[str, Count]:
    """Judge mutants in random order until all, or `sample` of them, are judged or the time is up.

    Parameters
    ----------
    numba : bool
        If True, judge the mutants of the Numba backend, which is compiled anew for each; else all others.
    seconds : float
        No mutant is begun after this.
    only : str
        A part of the file's name.
    sample : int
        0: all.
    seed : int
        The seed of the order, so that an interrupted run has judged a random sample.
    jobs : int
        Trees worked in at once.
    results : Results
    say : callable
        Called with a line for each step.

    Returns
    -------
    dict
        File -> count.
    """
    real, equivalent = equivalents.split(all_mutants(), equivalents.read())
    real, equivalent = (
        [m for m in some if only in m.file and m.file.startswith(NUMBA) == numba] for some in (real, equivalent)
    )
    real.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
    wanted = real[:sample] if sample else real
    verdicts = {m: v for m in wanted if (v := results.get(m.key, ROOT / PACKAGE / m.file)) is not None}
    say(f"{len(real)} mutants and {len(equivalent)} equivalent ones; {len(verdicts)} of {len(wanted)} judged before")
    todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in wanted:
        if mutant not in verdicts:
            todo.put(mutant)
    if not todo.empty() and seconds > 0:
        tests = TestMap(record(say))
        _work(todo, verdicts, tests, time.monotonic() + seconds, jobs, results, say)
    counts: dict[str, Count] = defaultdict(Count)
    # Only up to the first that is not judged: behind it, verdicts of earlier runs are kept by what they were.
    judged = next((index for index, mutant in enumerate(real) if mutant not in verdicts), len(real))
    for index, mutant in enumerate(real):
        count, verdict = counts[mutant.file], verdicts.get(mutant)
        if verdict is None or index >= judged:
            count.untried += 1
        elif verdict.outcome == "killed":
            count.killed += 1
        else:
            count.survived.append(f"{mutant.file}:{mutant.line}: {mutant.change}  [{mutant.text}] {verdict.how}")
    for mutant in equivalent:
        counts[mutant.file].equivalent += 1
    return dict(sorted(counts.items()))


def _work(
    todo: queue.SimpleQueue[Mutant], verdicts: dict[Mutant, MutantVerdict], tests: TestMap, end: float, jobs: int,
    results: Results, say: Callable[[str], None],
) -> None:  # fmt: skip
    stop, lock = threading.Event(), threading.Lock()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            bench = Bench(number, tests)
            try:
                while not stop.is_set() and time.monotonic() < end:
                    mutant = todo.get_nowait()
                    verdict = bench.judge(mutant)
                    with lock:
                        verdicts[mutant] = verdict
                        results.put(mutant.key, ROOT / PACKAGE / mutant.file, verdict)
                        if verdict.outcome != "killed":
                            say(f"survived: {mutant.file}:{mutant.line}: {mutant.change}  [{mutant.text}]")
                        if len(verdicts) % 100 == 0:
                            say(f"{len(verdicts)} judged")
            finally:
                bench.close()
        except queue.Empty:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        say("interrupted: the verdicts so far are kept")
        stop.set()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]
