"""What every process that is started beside this one needs: its signals, and the size of its thread pools."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Thread pools are sized from these when a library is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def deaf_children() -> Iterator[None]:
    """A process started here never sees Ctrl-C, which is the near end's to handle: the signal is blocked, and a child
    inherits that. One that comes meanwhile is delivered to this process afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
