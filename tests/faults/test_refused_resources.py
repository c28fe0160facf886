"""Threads and memory that the system refuses: a serial run or a clear error, and never a dead process."""

from __future__ import annotations

import sys

import pytest

from child import survive
from conftest import available

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")


def test_no_thread_is_granted(backend: str) -> None:
    """As an unprivileged user, whom the limit binds."""
    survive(f"""
import os, resource, threading, scenario
scenario.check({backend!r}, threads=1)  # everything is loaded and compiled
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    raise AssertionError("the limit does not bind")
for _ in range(3):
    scenario.check({backend!r}, threads=4)
assert threading.active_count() == 1
""")


def test_fewer_threads_than_asked_are_granted() -> None:
    survive("""
import threading, scenario
start = threading.Thread.start
def granted_twice(self):
    if threading.active_count() > 2:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = granted_twice
for _ in range(3):
    scenario.check(threads=8)
assert threading.active_count() == 3
""")


def test_memory_is_refused(backend: str) -> None:
    """With from none to a little left: right, or a MemoryError; afterwards, with memory again, right."""
    output = survive(f"""
import resource, scenario, numpy as np, softmax_ce as sce
x, y = scenario.problem(1000, 5000)
right = scenario.truth(x, y)
wide = np.asfortranarray(x)  # staged
sce.cross_entropy(x[:2], y[:2], backend={backend!r}, threads=1)
def deep(n):  # Linux ends a process whose stack may not grow: let it grow first
    return max([0], key=lambda _: deep(n - 1)) if n else 0
deep(300)
def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
outcomes = set()
most = resource.getrlimit(resource.RLIMIT_AS)
for threads in (1, 4):
    for logits in (x, wide):
        for left in (0, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 12 << 20, 21 << 20, 30 << 20, 60 << 20, 200 << 20):
            resource.setrlimit(resource.RLIMIT_AS, (used() + left, most[1]))
            try:
                result = sce.cross_entropy_with_grad(logits, y, reduction="none", backend={backend!r}, threads=threads)
                outcomes.add("right")
            except MemoryError:
                result = None
                outcomes.add("MemoryError")
            finally:
                resource.setrlimit(resource.RLIMIT_AS, most)
            if result is not None:
                scenario.agree(result, right)
            del result
scenario.check({backend!r})
print(*sorted(outcomes))
""")
    assert output.split() == ["MemoryError", "right"]


def test_a_long_row_whose_scratch_is_refused() -> None:
    """The chunks of one row need a scratch that grows with it."""
    survive("""
import resource, numpy as np, scenario, softmax_ce as sce
x = np.zeros((1, 1 << 24), np.float32)
sce.cross_entropy(x[:, :5000], [0], threads=1)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 17), most[1]))
try:
    loss = float(sce.cross_entropy(x, [0], threads=1))
except MemoryError:
    loss = None
resource.setrlimit(resource.RLIMIT_AS, most)
assert loss is None or abs(loss - 24 * np.log(2)) < 1e-5
scenario.check()
""")


def test_a_row_kernel_whose_scratch_is_refused() -> None:
    """The contract's kernel alone, which no team relieves of a long row: its error, or the right sums."""
    available("cython")
    output = survive("""
import resource, numpy as np, softmax_ce as sce
kernel = sce.get_backend("cython").hard
x, one, row = np.zeros((1, 1 << 24), np.float32), np.ones(1, np.float32), np.ones(1)
loss, top, log_sum = (np.empty(1, np.float32) for _ in range(3))
arguments = np.zeros(1, np.int64), -100, one, None, 0.0, 0.0, row, row, loss, None, top, log_sum, 0, 1
kernel(x[:, :100_000], *arguments)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
most = resource.getrlimit(resource.RLIMIT_AS)
outcomes = []
for left in (1 << 17, most[1]):
    loss[...] = -1
    resource.setrlimit(resource.RLIMIT_AS, (most[1] if left == most[1] else size + left, most[1]))
    try:
        kernel(x, *arguments)
        outcomes.append(round(float(loss[0]) / np.log(2), 4))
    except MemoryError as error:
        outcomes.append(str(error))
print(*outcomes, sep="\\n")
""")
    assert output.splitlines() == ["no memory for a row kernel's scratch", "24.0"]
