"""The pool: every row once, errors come through, forks and refused threads survive, limits are read."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from helpers import known, run_python
from softmax_ce import threads, variables


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_every_row_is_handed_out_once(rows: int, count: int) -> None:
    seen = np.zeros(rows, int)

    def task(start: int, stop: int) -> None:
        seen[start:stop] += 1

    with threads.sharing_from(1):
        threads.run(task, rows, 500, count)
    assert (seen == 1).all()


def test_one_thread_never_enters_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads._pool, "ask_for", lambda *_: pytest.fail("the pool was asked"))
    where = set()
    threads.run(lambda start, stop: where.add(threading.get_ident()), 10_000, 10_000, 1)
    assert where == {threading.get_ident()}


def test_small_work_stays_on_one_thread_however_many_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(threads._pool, "ask_for", lambda helpers, job: asked.append(helpers))
    monkeypatch.setattr(threads, "available_cpus", lambda: 4)
    for count in (None, 1, 2, 3, 1000):
        threads.run(lambda start, stop: None, 100, 10, count)
        threads.run(lambda start, stop: None, 100, 10, count, team=lambda *_: pytest.fail("a team was made"))
        threads.run(lambda start, stop: None, 1000, 1000, count, 1000 * 1024 + 1)
    assert asked == []
    threads.run(lambda start, stop: None, 1000, 1000, 3, 1000 * 1024)
    threads.run(lambda start, stop: None, 1000, 10_000, None)
    threads.run(lambda start, stop: None, 1_000_000, 10, None)
    assert asked == [2, 3, 3]


def test_tests_can_have_small_work_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(threads._pool, "ask_for", lambda helpers, job: asked.append(helpers))

    def pieces(elements: int) -> list[int]:
        asked.clear()
        with threads.sharing_from(elements):
            threads.run(lambda start, stop: None, 100, 10, 3, 10_000)
        return asked.copy()

    assert [pieces(elements) for elements in (3400, 3401, 0)] == [[2], [], []]
    with threads.sharing_from(5), threads.sharing_from(7):
        assert threads.serial_below(6) == 6
        assert threads.serial_below(8) == 7
    assert threads.serial_below(8) == 8
    code = "from softmax_ce import threads; print(threads.serial_below(500_000))"
    assert run_python(code, SOFTMAX_CE_SERIAL_ELEMENTS="123").strip() == "123"


@pytest.mark.parametrize("count", [None, 1, 2, 64, np.int64(3), True])
def test_a_small_call_stays_on_one_thread(count: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With options that the full path computes too."""
    monkeypatch.setattr(threads._pool, "ask_for", lambda *_: pytest.fail("the pool was asked"))
    x, y = np.zeros((50, 100), np.float32), np.zeros(50, np.int64)
    for given in (x, np.asfortranarray(x)):
        each: tuple[dict[str, Any], ...] = ({}, {"label_smoothing": 0.5})
        for options in each:
            loss = sce.cross_entropy(given, y, backend=backend, threads=count, **options)
            np.testing.assert_allclose(loss, np.log(100), rtol=1e-6)
        np.testing.assert_allclose(sce.softmax(given, backend=backend, threads=count), 0.01, rtol=1e-6)
        np.testing.assert_allclose(sce.log_softmax(given, backend=backend, threads=count), -np.log(100), rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "count", "helpers"), [(1, 2, []), (2, 2, [1]), (3, 2, [1]), (2, 3, [1]), (4, 3, [1]), (7, 3, [2])]
)
def test_each_thread_gets_some_of_few_rows(
    rows: int, count: int, helpers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row cannot be shared out; of two, each thread gets one."""
    asked: list[int] = []
    monkeypatch.setattr(threads._pool, "ask_for", lambda helpers, job: asked.append(helpers))
    pieces: list[int] = []
    with threads.sharing_from(1):
        threads.run(lambda start, stop: pieces.append(stop - start), rows, 10, count)
    assert asked == helpers
    assert sum(pieces) == rows
    assert max(pieces) <= -(-rows // count) or not helpers


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_a_team_is_made_for_all_the_threads_even_of_one_row(rows: int, count: int) -> None:
    made: list[tuple[int, int]] = []

    class Idle:
        helpers = 0

        def __init__(self, threads: int, longest: int) -> None:
            made.append((threads, longest))

        def work(self, helping: bool) -> bool:
            return False

        def cancel(self) -> None: ...

        def settled(self) -> bool:
            return True

    threads.run(lambda start, stop: pytest.fail("the team does it"), rows, 1 << 20, count, team=Idle)
    assert made == [(count, threads.LONGEST)]


def test_long_work_comes_back_to_python() -> None:
    """In pieces of at most 2**22 elements, on one thread too, so that an interrupt is seen."""
    pieces: list[int] = []
    threads.run(lambda start, stop: pieces.append(stop - start), 1000, 100_000, 1)
    assert max(pieces) * 100_000 <= 1 << 22 < (max(pieces) + 2) * 100_000
    assert sum(pieces) == 1000


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_is_long_work_is_a_piece(count: int) -> None:
    pieces: list[int] = []
    threads.run(lambda start, stop: pieces.append(stop - start), 4, 1 << 22, count)
    assert pieces == [1, 1, 1, 1]


@pytest.mark.parametrize("classes", [1, 24, 100])
def test_short_rows_come_in_large_pieces(classes: int) -> None:
    pieces: list[int] = []
    threads.run(lambda start, stop: pieces.append(stop - start), 1 << 22, classes, 1)
    assert sum(pieces) == 1 << 22
    assert 10_000 < max(pieces) <= (1 << 22) // classes


def test_rows_that_are_cancelled_are_handed_out_no_more() -> None:
    pieces: list[tuple[int, int]] = []
    rows = threads._PythonTeam(lambda start, stop: pieces.append((start, stop)), 10, 1 << 20, 2)
    assert rows.helpers == 1
    assert rows.work(False) is True
    assert rows.work(True) is True
    assert rows.settled() is False
    rows.cancel()
    assert rows.work(False) is False
    assert rows.work(True) is False
    assert len(pieces) == 2


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
            working.acquire(timeout=300)  # until a helper is at work
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
    assert threads._pool._jobs.empty(), "nobody will take the job, and its buffers stay in memory"


def test_a_sub_interpreter_gets_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threads, "in_sub_interpreter", lambda: True)
    by = set()
    threads.run(lambda start, stop: by.add(threading.current_thread()), 1000, 10_000, 4)
    assert by == {threading.current_thread()}
    assert threads._pool._size == 0


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
    with threads.sharing_from(1):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=300)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []
    inner: list[Any] = []

    def nested(start: int, stop: int) -> None:
        inner.append(sce.cross_entropy(x, y, backend=backend, threads=4) == right[0])

    with threads.sharing_from(1):
        threads.run(nested, 16, 1 << 20, 4)
    assert all(inner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("rows", [64, 2])
def test_a_forked_child_has_a_pool_of_its_own(rows: int, backend: str) -> None:
    code = f"""
import os, numpy as np, softmax_ce as sce
x = np.random.default_rng(0).standard_normal(({rows}, 20000)).astype(np.float32); y = np.zeros({rows}, int)
before = sce.cross_entropy(x, y, backend={backend!r}, threads=4)
child = os.fork()
if child == 0:
    os._exit(0 if sce.cross_entropy(x, y, backend={backend!r}, threads=4) == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code, SOFTMAX_CE_SERIAL_ELEMENTS="1").strip() == "0"


@pytest.mark.parametrize(
    ("files", "group", "granted"),
    [
        ({"": "max 100000"}, "0::/", float("inf")),
        ({"": "150000 100000"}, "0::/", 1.5),
        ({"a": "400000 100000", "a/b": "max 100000"}, "0::/a/b", 4.0),
        ({"": "200000 100000"}, "0::/not/seen/from/inside", 2.0),
        ({"a:b": "300000 100000"}, "0::/a:b", 3.0),
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


@pytest.mark.parametrize(
    ("controllers", "quota", "granted"),
    [
        ("cpu", 250_000, 2.5),
        ("cpu,cpuacct", 250_000, 2.5),
        ("cpuacct,cpu", 250_000, 2.5),
        ("cpu", -1, float("inf")),
        ("cpuset", 250_000, float("inf")),
        ("memory", 250_000, float("inf")),
    ],
)
def test_an_old_control_group_is_read_too(controllers: str, quota: int, granted: float, tmp_path: Path) -> None:
    folder = tmp_path / controllers / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text(f"12:pids:/docker\n4:{controllers}:/docker\n")
    assert threads._quota(tmp_path, own) == granted


def test_the_system_s_control_groups_are_the_ones_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/self/cgroup": "0::/Xen\n", "/sys/fs/cgroup/Xen/cpu.max": "150000 100000\n"}

    def read(path: Path, **_: Any) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in files)
    assert threads._quota() == 1.5


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert threads._quota(tmp_path, tmp_path / "own") == float("inf")


def test_without_any_limit_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for quota, expected in ((float("inf"), 8), (2.9, 2), (0.5, 1)):
        monkeypatch.setattr(threads, "_granted", lambda quota=quota: quota)
        # 0: this process.
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8 if pid == 0 else 3)), raising=False)
        assert threads.available_cpus() == expected


@pytest.mark.parametrize(("installed", "expected"), [(6, 6), (1, 1), (None, 1)])
def test_where_affinity_is_not_told_every_cpu_counts(
    installed: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_granted", lambda: float("inf"))
    monkeypatch.setattr(os, "cpu_count", lambda: installed)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert threads.available_cpus() == expected


def test_omp_num_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unbounded = threads.available_cpus()
    for text, expected in (("1", 1), ("1,2", 1), ("", unbounded), (" ", unbounded), ("1000", unbounded), ("0", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads.available_cpus() == expected, text


@pytest.mark.parametrize("text", ["many", "\u00b2", "-1", "1.5", "0x2"])
def test_what_is_no_number_of_threads_is_one_warning(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unbounded = threads.available_cpus()
    monkeypatch.setattr(variables, "_complained", set())
    threads._threads_asked_for.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", f"{text},2")
    with pytest.warns(RuntimeWarning, match="OMP_NUM_THREADS=.* is not a whole number") as caught:
        assert [threads.available_cpus() for _ in range(3)] == [unbounded] * 3
    assert [text in str(each.message) for each in caught] == [True]


# What hands out its own pieces: rows for (100, 1000), the chunks of long rows for the others.
SHAPES = [(100, 1000), (1, 4097), (1, 300_000), (3, 20_000), (9, 5000)]


def call_of(shape: tuple[int, int], dtype: Any, soft: bool) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A team kernel, its arguments less threads and longest, and its outputs by name."""
    rng = np.random.default_rng(1)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    kernels = known(sce.get_backend(available("cython")).team)
    row, scale = np.ones(1), np.ones(1, dtype)
    outputs = {name: np.zeros(shape[0], dtype) for name in ("loss", "row_max", "log_sum")}
    outputs["grad"] = np.zeros(shape, dtype)
    written = (outputs["loss"], outputs["grad"], outputs["row_max"], outputs["log_sum"])
    if soft:
        return kernels.soft, (x, rng.random(shape).astype(dtype), scale, None, 0.1, row, row, *written), outputs
    labels = rng.integers(0, shape[1], shape[0])
    return kernels.hard, (x, labels, -100, scale, None, 0.0, 0.1, row, row, *written), outputs


def finish(team: Any, helping: bool) -> None:
    while team.work(helping):
        pass


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_team_computes_the_kernel_s_bits(shape: tuple[int, int], dtype: str, soft: bool) -> None:
    """With more threads than pieces and than CPUs, and with one that takes all."""
    kernel, arguments, outputs = call_of(shape, dtype, soft)
    backend = sce.get_backend(available("cython"))
    whole: Any = backend.soft if soft else backend.hard
    whole(*arguments, 0, shape[0])
    right = {name: output.copy() for name, output in outputs.items()}
    for count, longest in ((1, 1 << 22), (1, 2000), (2, 1 << 22), (2, 2000), (40, 1 << 22)):
        for output in outputs.values():
            output[...] = 7
        team = kernel(*arguments, count, longest)
        helpers = [threading.Thread(target=finish, args=(team, True)) for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        finish(team, helping=False)
        team.cancel()  # as the pool does; what was handed out is finished all the same
        for helper in helpers:
            helper.join()
        assert team.settled()
        for name, output in outputs.items():
            np.testing.assert_array_equal(output, right[name], err_msg=f"{name}, {count} threads, {longest}")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_helper_that_comes_late_finds_nothing(shape: tuple[int, int]) -> None:
    kernel, arguments, outputs = call_of(shape, "float32", False)
    team = kernel(*arguments, 4, 1 << 22)
    finish(team, helping=False)
    assert team.settled()
    for output in outputs.values():
        output[...] = 7
    assert not team.work(True)
    assert team.settled()
    assert all((output == 7).all() for output in outputs.values())


@pytest.mark.parametrize("shape", [(1000, 1000), (1, 300_000), (3, 200_000)])
def test_a_cancelled_team_hands_out_nothing(shape: tuple[int, int]) -> None:
    """`longest` brings the threads back to Python; nobody is kept waiting for a step that nobody will end."""
    kernel, arguments, outputs = call_of(shape, "float32", False)
    team = kernel(*arguments, 4, 2000)
    assert team.helpers == 3
    assert team.work(False)
    assert team.work(True)
    team.cancel()
    assert not team.work(True)
    assert not team.work(False)
    assert team.settled()
    assert (outputs["grad"] == 0).any()


@pytest.mark.parametrize("shape", [(8000, 1000), (2, 4_000_000)])
def test_an_interrupt_in_the_middle_of_a_team(shape: tuple[int, int]) -> None:
    """The caller leaves when no helper is at work any more, and its buffers are its own again."""
    kernel, arguments, outputs = call_of(shape, "float32", False)

    class Interrupted:
        def __init__(self, count: int, longest: int) -> None:
            self._team = kernel(*arguments, count, 5000)  # back in Python often
            self.helpers, self.cancel, self.settled = self._team.helpers, self._team.cancel, self._team.settled

        def work(self, helping: bool) -> bool:
            more = self._team.work(helping)
            if not helping:
                raise KeyboardInterrupt
            return more

    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            threads.run(lambda start, stop: pytest.fail("the team does it"), *shape, 4, team=Interrupted)
        for output in outputs.values():
            output[...] = 7
        time.sleep(0.001)  # in which a helper that was still there would write
        assert all((output == 7).all() for output in outputs.values())


def test_an_error_in_a_helper_s_team_reaches_the_caller() -> None:
    """Also when the caller would not have had to wait: what failed is never settled."""

    class Failing:
        helpers = 2

        def __init__(self, count: int, longest: int) -> None:
            self._failed, self._cancelled = threading.Event(), threading.Event()

        def work(self, helping: bool) -> bool:
            if not helping:
                assert self._cancelled.wait(300), "nobody is told to stop"
                return False
            self._failed.set()
            raise MemoryError("no scratch")

        def cancel(self) -> None:
            self._cancelled.set()

        def settled(self) -> bool:
            return not self._failed.is_set()

    for _ in range(20):
        with pytest.raises(MemoryError, match="no scratch"):
            threads.run(lambda start, stop: None, 4, 1 << 20, 3, team=Failing)


@pytest.mark.parametrize("shape", [(64, 5000), (2, 100_000), (1, 1_000_000)])
def test_eight_callers_at_once(shape: tuple[int, int], backend: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    y = rng.integers(0, shape[1], shape[0])
    right = sce.cross_entropy_with_grad(x, y, backend=backend, threads=1)
    wrong: list[Any] = []

    def call(count: int) -> None:
        for _ in range(5):
            loss, grad = sce.cross_entropy_with_grad(x, y, backend=backend, threads=count)
            if loss != right[0] or not np.array_equal(grad, right[1]):
                wrong.append(loss)

    callers = [threading.Thread(target=call, args=(2 + k,)) for k in range(8)]
    with threads.sharing_from(1):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=300)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


@pytest.mark.parametrize(("name", "by"), [("numba", "rows"), ("cython", "rows"), ("cython", "team")])
def test_other_threads_run_during_a_call(name: str, by: str) -> None:
    """A compiled kernel lets go of the interpreter. Nobody takes it away: it is asked to after 1000 seconds."""
    backend = sce.get_backend(available(name))
    x = np.zeros((64, 20_000), np.float32)
    one, row, loss = np.ones(1, np.float32), np.ones(1), np.empty(64, np.float32)
    call = x, np.zeros(64, np.int64), -100, one, None, 0.0, 0.0, row, row, loss, None, None, None
    backend.warmup([np.float32])
    steps, over = [0], threading.Event()

    def step() -> None:
        while not over.is_set():
            steps[0] += 1
            time.sleep(1e-5)

    other = threading.Thread(target=step)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        other.start()
        while not steps[0]:
            time.sleep(1e-5)
        for _ in range(1000):
            begun = steps[0]
            if by == "rows":
                backend.hard(*call, 0, 64)
            else:
                assert backend.team is not None
                backend.team.hard(*call, 1, 1 << 40).work(False)
            if steps[0] > begun:
                break
        assert steps[0] > begun
    finally:
        sys.setswitchinterval(interval)
        over.set()
        other.join()
    np.testing.assert_allclose(loss, np.log(20_000), rtol=1e-6)
