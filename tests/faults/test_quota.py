"""A container's CPU quota: no more threads than it grants, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from child import survive

COUNT = """
import os, threading, scenario
from softmax_ce import threads
from pathlib import Path
threads._quota.__defaults__ = (Path({root!r}), Path({own!r}))
os.environ.pop("OMP_NUM_THREADS", None)
os.sched_getaffinity = lambda _: set(range(8))
for _ in range(3):
    scenario.check(threads=None, rows=500)
print(sum(thread.name == "softmax-ce" for thread in threading.enumerate()) + 1)
"""


@pytest.mark.parametrize(
    ("limit", "threads"), [("50000 100000", 1), ("100000 100000", 1), ("250000 100000", 2), ("max 100000", 8)]
)
def test_no_more_threads_than_granted(limit: str, threads: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    assert int(survive(COUNT.format(root=str(tmp_path), own=str(own)))) == threads
