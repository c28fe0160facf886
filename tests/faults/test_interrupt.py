"""Ctrl-C in the middle of a long call: raised soon, and the pool is fit for the next call."""

from __future__ import annotations

import sys

import pytest

from child import survive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs address space without memory")

# 0.05 s and a little on an idle machine (the reliability page), in a call that would take some seconds. Here: a quarter
# of the CPU time that the whole call would take, and sent when it has taken a part of that. So no machine is too
# slow, too fast or too busy.
INTERRUPT = """
import os, signal, threading, time, numpy as np, scenario, zeros, softmax_ce as sce
x = zeros.zeros({shape}, {dtype!r})
y = np.zeros(len(x), np.int64)
scenario.check({backend!r})
part = x[: len(x) // 256] if len(x) >= 256 else x[:1, : x.size // 256]
begun = time.process_time()
sce.cross_entropy(part, y[: len(part)], backend={backend!r}, threads={threads})
whole = 256 * (time.process_time() - begun)
sent = []
def interrupt(due):
    while time.process_time() < due:
        time.sleep(0.001)
    sent.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=interrupt, args=(time.process_time() + min(whole / 20, 0.5),)).start()
    sce.cross_entropy(x, y, backend={backend!r}, threads={threads})
except KeyboardInterrupt:
    print((time.process_time() - sent[0]) / whole)
else:
    raise AssertionError("the call ended by itself: it is too short for this test")
scenario.check({backend!r})
"""

LONG = (1 << 26, 256)  # 64 GiB of float32: some seconds on the fastest backend


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_interrupt_is_raised_within_the_call(backend: str, threads: int) -> None:
    code = INTERRUPT.format(shape=LONG, dtype="float32", backend=backend, threads=threads)
    assert float(survive(code)) < 0.25


def test_in_a_staged_call() -> None:
    code = INTERRUPT.format(shape=LONG, dtype="float16", backend=None, threads=4)
    assert float(survive(code)) < 0.25


def test_in_one_long_row() -> None:
    """Threads share it chunk by chunk."""
    code = INTERRUPT.format(shape=(2, 1 << 32), dtype="float32", backend=None, threads=1)
    assert float(survive(code)) < 0.25


def test_a_second_interrupt_waits_for_the_helpers_too() -> None:
    """Interrupts in a row: after each, nobody touches the caller's buffers, and calls go on to be right."""
    survive("""
import os, signal, threading, time, numpy as np, scenario, softmax_ce as sce
x, y = scenario.problem(2000, 5000)
grad = np.empty_like(x)
begun, stop = threading.Event(), threading.Event()
def interrupt():
    begun.wait()  # else one may come while its own thread is started
    while not stop.wait(0.003):
        os.kill(os.getpid(), signal.SIGINT)
sender = threading.Thread(target=interrupt)
def leave(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                sce.cross_entropy_with_grad(x, y, grad_out=grad, threads=4)
        except KeyboardInterrupt:
            pass
quiet = signal.getsignal(signal.SIGINT)
sender.start()
count = 0
for _ in range(20):
    try:
        begun.set()
        signal.signal(signal.SIGINT, quiet)
        leave(0.05)
    except KeyboardInterrupt:
        count += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    grad[:] = 7
    time.sleep(0.01)
    assert (grad == 7).all(), "a helper wrote after the call had ended"
signal.signal(signal.SIGINT, signal.SIG_IGN)
stop.set()
sender.join()
scenario.check()
""")
