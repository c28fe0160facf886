"""Processes beside this one: Ctrl-C is the near end's to handle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from helpers import known
from softmax_ce_bench.measure.peer_process import peer_process
from softmax_ce_bench.measure.process import interrupts_held_off

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals are masked on POSIX systems")

ECHO = "import sys; print('ready', flush=True); print(sys.stdin.readline().strip())"


def test_a_child_goes_on_after_an_interrupt() -> None:
    with interrupts_held_off():
        child = subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.send_signal(signal.SIGINT)  # before Python has begun ...
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)  # ... and after
    assert child.communicate("still here\n", timeout=300) == ("still here\n", None)
    assert child.returncode == 0


def test_an_interrupt_meanwhile_comes_afterwards() -> None:
    reached = []

    def start() -> None:
        with interrupts_held_off():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            reached.append("the end of what must not be interrupted")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_peer_goes_on_after_an_interrupt_while_it_starts() -> None:
    with peer_process("numpy-written", 1) as child:
        child.send("start")
        os.kill(known(child.pid), signal.SIGINT)
        child.answer()
        assert child.cpu_seconds > 0
