"""A fork after a parallel call, and in the middle of things: the child computes, and right."""

from __future__ import annotations

import os
import subprocess

import pytest

from child import python, survive

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def test_os_fork_and_a_grandchild(backend: str) -> None:
    survive(f"""
import os, scenario
def fork(depth):
    scenario.check({backend!r})  # the pool has its threads now
    if depth:
        child = os.fork()
        if child == 0:
            fork(depth - 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        scenario.check({backend!r})
fork(2)
""")


def test_multiprocessing_by_fork(backend: str) -> None:
    survive(f"""
import multiprocessing, scenario
scenario.check({backend!r})
with multiprocessing.get_context("fork").Pool(2) as workers:
    workers.starmap(scenario.check, [({backend!r},)] * 4)
scenario.check({backend!r})
""")


def test_a_fork_while_other_threads_call(backend: str) -> None:
    """Helpers are at work, locks are held: the child has neither, and must not wait for them."""
    survive(f"""
import os, threading, scenario
scenario.check({backend!r})
stop = threading.Event()
def call():
    while not stop.is_set():
        scenario.check({backend!r})
callers = [threading.Thread(target=call) for _ in range(2)]
for caller in callers: caller.start()
codes = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        scenario.check({backend!r})
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for caller in callers: caller.join()
assert codes == [0] * 8, codes
""")


def test_a_fork_while_a_backend_is_being_loaded() -> None:
    """The registry's lock is held by a thread that the child does not have."""
    survive(
        """
import os, sys, threading, types, softmax_ce, scenario
from softmax_ce import registry
loading, forked = threading.Event(), threading.Event()
class Slow(types.ModuleType):
    def __getattr__(self, name):
        loading.set()
        forked.wait(30)
        raise AttributeError(name)
sys.modules["slow_backend"] = Slow("slow_backend")
registry._known()["slow"] = registry.BackendInfo(name="slow", module="slow_backend")
loader = threading.Thread(target=registry.is_available, args=("slow",))
loader.start()
assert loading.wait(300)
child = os.fork()
if child == 0:
    scenario.check("numpy")
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
forked.set()
loader.join()
assert code == 0
""",
    )


def test_the_fault_is_real() -> None:
    """An ordinary pool, as concurrent.futures has it, hangs in such a child: the time limit is what notices."""
    with pytest.raises(subprocess.TimeoutExpired):
        python(
            """
import os
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(int).result()
child = os.fork()
if child == 0:
    pool.submit(int).result()
    os._exit(0)
os.waitpid(child, 0)
""",
            timeout=2,
        )
