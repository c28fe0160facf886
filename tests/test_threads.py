"""The pool: every row once, errors come through, forks and refused threads survive, limits are read."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from helpers import run_python
from softmax_ce import threads


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_every_row_is_handed_out_once(rows: int, count: int) -> None:
    seen = np.zeros(rows, int)

    def task(start: int, stop: int) -> None:
        seen[start:stop] += 1

    threads.run(task, rows, 500, count)
    assert (seen == 1).all()


def test_one_thread_never_enters_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads._pool, "ask_for", lambda *_: pytest.fail("the pool was asked"))
    where = set()
    threads.run(lambda start, stop: where.add(threading.get_ident()), 10_000, 10_000, 1)
    assert where == {threading.get_ident()}


def test_small_work_stays_serial_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(threads._pool, "ask_for", lambda helpers, job: asked.append(helpers))
    monkeypatch.setattr(threads, "available_cpus", lambda: 4)
    threads.run(lambda start, stop: None, 100, 10, None)
    assert asked == []
    threads.run(lambda start, stop: None, 100, 10, 3)
    threads.run(lambda start, stop: None, 1000, 10_000, None)
    assert asked == [2, 3]


def test_long_work_comes_back_to_python() -> None:
    """In pieces of at most 2**22 elements, on one thread too, so that an interrupt is seen."""
    pieces: list[int] = []
    threads.run(lambda start, stop: pieces.append(stop - start), 1000, 100_000, 1)
    assert max(pieces) * 100_000 <= 1 << 22
    assert sum(pieces) == 1000


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_any_thread_reaches_the_caller(error: type[BaseException]) -> None:
    def task(start: int, stop: int) -> None:
        if start >= 50:
            raise error("row 50")

    for _ in range(20):
        with pytest.raises(error, match="row 50"):
            threads.run(task, 100, 100_000, 3)


def test_nobody_works_after_the_caller_has_left() -> None:
    """An interrupt in the caller waits for the helpers' pieces."""
    working = threading.Semaphore(0)
    busy: list[int] = []

    def task(start: int, stop: int) -> None:
        if threading.current_thread() is threading.main_thread():
            working.acquire(timeout=5)  # until a helper is at work
            raise KeyboardInterrupt
        busy.append(1)
        working.release()
        for _ in range(1000):
            threading.Event().wait(0)
        busy.pop()

    with pytest.raises(KeyboardInterrupt):
        threads.run(task, 100, 1 << 20, 3)
    assert busy == []


def test_a_refused_thread_means_a_serial_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen = np.zeros(1000, int)

    def task(start: int, stop: int) -> None:
        seen[start:stop] += 1

    threads.run(task, 1000, 10_000, 4)
    assert (seen == 1).all()


def test_calls_within_calls_and_side_by_side(backend: str) -> None:
    """Eight threads at once, each on four threads of the pool: right, and no deadlock."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 500)).astype(np.float32)
    y = rng.integers(0, 500, 64)
    right = sce.cross_entropy_with_grad(x, y, backend=backend, threads=1)
    wrong: list[Any] = []

    def call() -> None:
        for _ in range(5):
            loss, grad = sce.cross_entropy_with_grad(x, y, backend=backend, threads=4)
            if loss != right[0] or not np.array_equal(grad, right[1]):
                wrong.append(loss)

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
    inner: list[Any] = []

    def nested(start: int, stop: int) -> None:
        inner.append(sce.cross_entropy(x, y, backend=backend, threads=4) == right[0])

    threads.run(nested, 16, 1 << 20, 4)
    assert all(inner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_pool_of_its_own(backend: str) -> None:
    code = f"""
import os, numpy as np, softmax_ce as sce
x = np.random.default_rng(0).standard_normal((64, 5000)).astype(np.float32); y = np.zeros(64, int)
before = sce.cross_entropy(x, y, backend={backend!r}, threads=4)
child = os.fork()
if child == 0:
    os._exit(0 if sce.cross_entropy(x, y, backend={backend!r}, threads=4) == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code).strip() == "0"


@pytest.mark.parametrize(
    ("files", "group", "granted"),
    [
        ({"": "max 100000"}, "0::/", float("inf")),
        ({"": "150000 100000"}, "0::/", 1.5),
        ({"a": "400000 100000", "a/b": "max 100000"}, "0::/a/b", 4.0),
        ({"": "200000 100000"}, "0::/not/seen/from/inside", 2.0),
        ({}, "0::/", float("inf")),
        ({"": "nonsense"}, "0::/", float("inf")),
        ({"": "100000 0"}, "0::/", float("inf")),
    ],
)
def test_a_container_s_quota_is_read(files: dict[str, str], group: str, granted: float, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    for folder, text in files.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(text + "\n")
    own = tmp_path / "own"
    own.write_text(group + "\n")
    assert threads._quota(root, own) == granted


def test_an_old_control_group_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "cpu,cpuacct" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text("12:memory:/docker\n4:cpu,cpuacct:/docker\n")
    assert threads._quota(tmp_path, own) == 2.5


def test_without_any_limit_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for quota, expected in ((float("inf"), 8), (2.9, 2), (0.5, 1)):
        monkeypatch.setattr(threads, "_granted", lambda quota=quota: quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        assert threads.available_cpus() == expected


def test_omp_num_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unbounded = threads.available_cpus()
    for text, expected in (("1", 1), ("1,2", 1), ("", unbounded), ("many", unbounded), ("1000", unbounded), ("0", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads.available_cpus() == expected, text
