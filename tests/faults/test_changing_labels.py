"""Labels that another thread changes after they were checked: never an address outside the buffers."""

from __future__ import annotations

import signal

from child import ending, python, survive

PRELUDE = """
import numpy as np, guarded, scenario, softmax_ce as sce
from softmax_ce import threads as pool
from softmax_ce import registry
from softmax_ce.choice import auto
WILD = np.array([1 << 62, -(1 << 62), -(1 << 63), (1 << 63) - 1, 1 << 31, -1, 5000, 1 << 40])
def guard(classes, dtype):
    x, y = scenario.problem(rows=40, classes=classes, dtype=dtype)
    size = x.nbytes // 4096 + 2
    return (guarded.Room(size).place(x, "end"), guarded.Room(size).place(np.zeros_like(x), "end"),
            guarded.Room(2).place(y, "end"))
"""


def test_labels_changed_between_the_check_and_the_kernel(backend: str) -> None:
    """All of them, to the wildest values: such rows count for nothing, as the contract says; the others are right."""
    survive(
        PRELUDE
        + f"""
choose = auto.choose  # called once every label has been checked
def change_first(*arguments, **options):
    y[::2] = np.resize(WILD, len(y[::2]))
    return choose(*arguments, **options)
auto.choose = change_first
auto.fixed, auto.at_once, registry.loaded = None, lambda *_: None, lambda _: None  # the full path alone
pool._shared_from = 1
for classes in (3, 20, 300, 5000):
    for dtype in (np.float32, np.float64):
        for threads in (1, 3):
            x, grad, y = guard(classes, dtype)
            right = scenario.truth(x, np.where(np.arange(len(y)) % 2, y, 0))
            loss, grad = sce.cross_entropy_with_grad(
                x, y, reduction="none", backend={backend!r}, threads=threads, grad_out=grad)
            scenario.agree((loss[1::2], grad[1::2]), (right[0][1::2], right[1][1::2]))
            assert (loss[::2] == 0).all() and (grad[::2] == 0).all()
"""
    )


def test_labels_changed_all_the_time(backend: str) -> None:
    """A race: whatever a call sees, it ends with a result or an IndexError."""
    survive(
        PRELUDE
        + f"""
import threading, time
scenario.check({backend!r})
x, grad, y = guard(300, np.float32)
good, wild = y.copy(), np.resize(WILD, len(y))
stop = threading.Event()
def change():
    while not stop.is_set():
        y[:] = wild
        time.sleep(0)
        y[:] = good
        time.sleep(0)
changer = threading.Thread(target=change)
changer.start()
results = errors = 0
end = time.monotonic() + 0.5
while time.monotonic() < end or results + errors < 4:
    try:
        sce.cross_entropy_with_grad(x, y, reduction="none", backend={backend!r}, threads=2, grad_out=grad)
        results += 1
    except IndexError:
        errors += 1
stop.set()
changer.join()
"""
    )


def test_the_fault_is_real() -> None:
    """A kernel that trusts its labels dies of the same change."""
    done = python(
        PRELUDE
        + """
import ctypes
x, grad, y = guard(300, np.float32)
y[0] = WILD[4]
ctypes.string_at(x.ctypes.data + 4 * int(y[0]), 4)
"""
    )
    assert done.returncode == -signal.SIGSEGV or "AddressSanitizer: SEGV" in done.stderr, ending(done)
