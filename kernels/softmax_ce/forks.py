"""State that a forked child must renew.

The child has none of the parent's threads, and it may inherit a lock that one of them held.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def in_child(renew: Callable[[], None]) -> None:
    """Call `renew` in each child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


class Lock:
    """A reentrant lock that is free in a forked child, even if a thread of the parent held it."""

    def __init__(self) -> None:
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. A child that was forked while it was held releases the lock that it inherited."""
        with self._lock:
            yield
