"""A pytest plugin whose clocks jump: no test's outcome may depend on them.

``PYTHONPATH=tests .venv/bin/python -m pytest -p jumping_clocks``. At every fiftieth look or so, a monotonic clock is up
to three seconds ahead, as after a suspension, and the time of day is set by as much in either direction. Processes that
tests start have clocks of their own, which do not jump.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

_OFTEN = 0.02
_FAR = 3.0  # seconds
_draw = random.Random(0)


def _jumping(name: str, per_second: int = 1, *, back: bool = False) -> Callable[[], float]:
    real, ahead = getattr(time, name), [0.0]

    def read() -> float:
        if _draw.random() < _OFTEN:
            ahead[0] += _draw.uniform(-_FAR if back else 0.0, _FAR) * per_second
        return real() + type(real())(ahead[0])

    read.__module__, read.__name__ = "time", name  # by which pytest-benchmark looks for it
    return read


for _name in ("monotonic", "perf_counter"):
    setattr(time, _name, _jumping(_name))
    setattr(time, f"{_name}_ns", _jumping(f"{_name}_ns", 10**9))
time.time = _jumping("time", back=True)
