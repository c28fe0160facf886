"""The number of threads, and a small thread pool in which the caller works too.

Kernels release the GIL and take a range of rows, so a pool of plain Python threads serves every backend. OpenMP and
Numba's prange are not used: both were seen to hang or kill a forked child, or to abort under concurrent calls.

The pool is renewed after a fork. If the system refuses a thread, fewer are used. A call from one of the pool's threads
cannot deadlock, because no call waits for a helper that has not started on its rows. A backend may hand out the pieces
of a call itself, without the GIL (contract.Team); each thread that the pool wakes then makes one call.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from softmax_ce import forks
from softmax_ce.contract import ROW_ELEMENTS, Team
from softmax_ce.interpreters import in_sub_interpreter
from softmax_ce.variables import whole_number, word

Task = Callable[[int, int], object]

SERIAL_ELEMENTS = 1 << 16  # below this, unless a backend says otherwise, waking a helper costs more than it saves
_PIECE = 1 << 16  # the least elements in a piece: 256 KiB of float32, some 20 us of work
LONGEST = 1 << 22  # the most elements in a piece: every 50 ms, control returns to Python, which notices Ctrl-C
_MOST = 4 * (os.cpu_count() or 1) + 28  # the most threads: more would only wait, and none ever ends
_PIECES_A_THREAD = 8  # enough to even out a busy core

# For tests, which need helpers on small work: see sharing_from. 0 leaves the decision to the backends.
_SHARED_FROM = "SOFTMAX_CE_SERIAL_ELEMENTS"
_shared_from = whole_number(_SHARED_FROM, word(_SHARED_FROM), "each backend's own number is used") or 0


@functools.cache
def _granted() -> float:
    """Return the quota, read once in a process: reading the files takes longer than a small call."""
    return _quota()


def available_cpus() -> int:
    """Return how many CPUs this process may use, from its affinity, a container's quota and OMP_NUM_THREADS.

    Returns
    -------
    int
        At least 1. A quota of 1.5 CPUs counts as 1: a second thread would be throttled.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        count = os.cpu_count() or 1
    count = max(1, math.floor(min(count, _granted())))
    asked = _threads_asked_for(os.environ.get("OMP_NUM_THREADS", ""))
    return count if asked is None else max(1, min(count, asked))


@functools.lru_cache(maxsize=8)
def _threads_asked_for(text: str) -> int | None:
    """Return the number that OMP_NUM_THREADS gives for the outermost level, the first in its list."""
    return whole_number("OMP_NUM_THREADS", text.partition(",")[0], "every CPU that this process may use counts")


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPUs that the control groups (v2 and v1) grant; infinity without a limit."""
    grant = math.inf
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return grant
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        base = root / controllers if controllers else root
        # Every ancestor may set a limit. Inside a container, the path may be the host's, so the root is read too.
        here = base / group.lstrip("/")
        for folder in (here, *(p for p in here.parents if p == base or base in p.parents)):
            grant = min(grant, _limit(folder))
    return grant


def _limit(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def run(
    task: Task, n_rows: int, n_classes: int, threads: int | None, serial_elements: int = SERIAL_ELEMENTS,
    team: Callable[[int, int], Team] | None = None,
) -> None:  # fmt: skip
    """Call ``task(start, stop)`` for ranges that cover every row exactly once.

    Parameters
    ----------
    task : callable
        Works on rows [start, stop). Its result must not depend on how the rows are cut.
    n_rows, n_classes : int
        The size of the work.
    threads : int or None
        The most threads to use; None is the number of CPUs that this process may use. 1 never enters the pool.
    serial_elements : int
        Work below this size runs on one thread, whatever `threads` is.
    team : callable, optional
        ``team(threads, longest)`` returns a :class:`~softmax_ce.contract.Team`, which does the work in place of `task`
        on several threads, or if the work is long.

    Raises
    ------
    Exception
        The exception of a task, raised after every thread has stopped using the buffers.
    """
    elements = _elements(n_rows, n_classes)
    if elements < serial_below(serial_elements) or (team is None and n_rows < 2):
        threads = 1
    elif threads is None:
        threads = available_cpus()
    if threads == 1 and elements <= LONGEST:
        task(0, n_rows)
        return
    threads = min(threads, _MOST)
    _Job(_PythonTeam(task, n_rows, n_classes, threads) if team is None else team(threads, LONGEST)).work_as_caller()


def serial_below(elements: int) -> int:
    """Return the size below which work runs on one thread, for a backend with this `serial_elements`."""
    return min(elements, _shared_from) if _shared_from else elements


@contextlib.contextmanager
def sharing_from(elements: int) -> Iterator[None]:
    """Share work of this size or more among threads, in the calls of every thread. For tests.

    The variable SOFTMAX_CE_SERIAL_ELEMENTS, read when this module is imported, has this effect on a whole process.
    """
    global _shared_from
    before = _shared_from
    _shared_from = elements
    try:
        yield
    finally:
        _shared_from = before


def _elements(n_rows: int, n_classes: int) -> int:
    """Return the size of the work on some rows."""
    return n_rows * (n_classes + ROW_ELEMENTS)


class _PythonTeam:
    """A team for any task. It hands out the rows piece by piece, under a lock."""

    def __init__(self, task: Task, n_rows: int, n_classes: int, threads: int) -> None:
        even = _elements(n_rows, n_classes) // (threads * _PIECES_A_THREAD)
        piece = LONGEST if threads == 1 else min(LONGEST, max(_PIECE, even))
        # If there are few rows, each thread still gets some.
        step = min(max(1, piece // _elements(1, n_classes)), -(-n_rows // threads))
        self.helpers = min(threads, -(-n_rows // step)) - 1
        self._task = task
        self._n_rows = n_rows
        self._step = step
        self._lock = threading.Lock()
        self._next = 0

    def work(self, helping: bool) -> bool:
        with self._lock:
            start = self._next
            self._next = stop = min(start + self._step, self._n_rows)
        if start >= stop:
            return False
        self._task(start, stop)
        return True

    def cancel(self) -> None:
        with self._lock:
            self._next = self._n_rows

    def settled(self) -> bool:
        return False  # the job counts its helpers


class _Job:
    """The work of a team, shared by the caller and the helpers that arrive in time."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._lock = threading.Lock()
        self._over = False
        self._helpers = 0
        self._error: BaseException | None = None
        self._helpers_gone = threading.Lock()

    def work_as_caller(self) -> None:
        try:
            if helpers := self._team.helpers:
                _pool.ask_for(helpers, self)
            while self._team.work(False):
                pass
        finally:
            # After an interrupt too: no helper may touch the caller's buffers once the caller has left.
            self._wait_for_helpers()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the error, its traceback and this frame would keep the caller's buffers alive

    def work_as_helper(self) -> None:
        with self._lock:
            if self._over:
                return
            self._helpers += 1
            if self._helpers == 1:
                self._helpers_gone.acquire()
        try:
            while self._team.work(True):
                pass
        except BaseException as error:
            self._error = error
            self._team.cancel()
        finally:
            with self._lock:
                self._helpers -= 1
                if self._helpers == 0:
                    self._helpers_gone.release()

    def _wait_for_helpers(self) -> None:
        interrupted: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._over = True
                self._team.cancel()
                if self._team.settled():
                    break
                with self._helpers_gone:
                    break
            except BaseException as error:  # a second Ctrl-C is raised only after the helpers have finished
                interrupted = error
        if interrupted is not None:
            raise interrupted


class _Pool:
    """Daemon threads that wait for jobs. Their number grows to the largest that was requested."""

    def __init__(self) -> None:
        self._reset()
        forks.in_child(self._reset)

    def _reset(self) -> None:
        # After a fork, the child has none of the parent's threads, and perhaps a lock that nobody will release.
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._size = 0

    def ask_for(self, helpers: int, job: _Job) -> None:
        if self._size < helpers:
            with self._lock:
                while self._size < helpers and self._start():
                    self._size += 1
        for _ in range(min(helpers, self._size)):
            self._jobs.put(job)

    def _start(self) -> bool:
        """Start one more thread and return whether the system allowed it. The caller works too, so none is needed."""
        if in_sub_interpreter():  # if one ends while a thread of it is alive, the process dies
            return False
        jobs = self._jobs
        thread = threading.Thread(target=_serve, args=(jobs,), name="softmax-ce", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        return True


def _serve(jobs: SimpleQueue[_Job]) -> None:
    while True:
        job = jobs.get()
        job.work_as_helper()
        del job  # the caller's buffers are not kept alive while this thread sleeps


_pool = _Pool()
