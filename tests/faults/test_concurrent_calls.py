"""Many threads at once, calls from within a pool, and the user's own parallel Numba code beside ours."""

from __future__ import annotations

import pytest

from child import python, survive
from conftest import available


def test_eight_threads_on_every_backend_at_once() -> None:
    """Each of the eight goes through all the backends, so that different ones meet in the pool."""
    survive("""
import threading, scenario, softmax_ce as sce
names = [info.name for info in sce.backends() if info.available]
failed = []
def call(first):
    try:
        for k in range(8):
            scenario.check(names[(first + k) % len(names)], threads=1 + k % 4)
    except BaseException as error:
        failed.append(error)
callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
for caller in callers: caller.start()
for caller in callers: caller.join()
assert not failed, failed
""")


def test_from_within_a_pool_s_threads(backend: str) -> None:
    """Of the standard library's pool, and of ours: with as many threads as there are, or more."""
    survive(f"""
import scenario
from concurrent.futures import ThreadPoolExecutor
from softmax_ce import threads
with ThreadPoolExecutor(4) as pool:
    for done in [pool.submit(scenario.check, {backend!r}) for _ in range(8)]:
        done.result()
threads.run(lambda start, stop: scenario.check({backend!r}), 8, 1 << 22, 4)
""")


PRANGE = """
import threading, numpy as np, scenario
from numba import njit, prange, threading_layer
@njit(parallel=True)
def total(x):
    s = 0.0
    for i in prange(x.size):
        s += x[i]
    return s
x = np.ones(100_000)
if {first}:
    assert total(x) == x.size
failed = []
def call(backend):
    try:
        for _ in range(5):
            scenario.check(backend)
    except BaseException as error:
        failed.append(error)
ours = [threading.Thread(target=call, args=(name,)) for name in ("numba", "numpy", "cython", None)]
for thread in ours: thread.start()
for _ in range(50):
    assert total(x) == x.size
for thread in ours: thread.join()
call("numba")
assert not failed, failed
print(threading_layer())
"""


@pytest.mark.parametrize(
    "first",
    [pytest.param(True, id="loaded first"), pytest.param(False, id="loaded after", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_the_user_s_own_prange_beside_ours(layer: str, first: bool) -> None:
    for name in ("numba", "cython"):
        available(name)
    done = python(PRANGE.format(first=first), timeout=300, NUMBA_THREADING_LAYER=layer)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"Numba has no threading layer {layer} here")
    assert (done.returncode, done.stdout.strip()) == (0, layer), done.stderr


def test_the_fault_is_real() -> None:
    """Two threads in Numba's workqueue at once end the process: what the kernels here must not rely on."""
    available("numba")
    done = python(
        """
import threading, numpy as np
from numba import njit, prange
@njit(parallel=True, nogil=True)
def total(x):
    s = 0.0
    for i in prange(x.size):
        s += x[i]
    return s
x = np.ones(1_000_000)
total(x)
callers = [threading.Thread(target=lambda: [total(x) for _ in range(1000)]) for _ in range(4)]
for caller in callers: caller.start()
for caller in callers: caller.join()
""",
        timeout=300,
        NUMBA_THREADING_LAYER="workqueue",
    )
    assert done.returncode != 0
    assert "concurrent access" in done.stderr.lower()
