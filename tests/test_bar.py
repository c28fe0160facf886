"""The progress bar: drawn at each new stage, else not too often."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import pytest
from rich.console import Console

from softmax_ce_bench.terminal import bar


class Shown:
    """Stands for rich's bars, and keeps what was drawn."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, float, str]] = []

    def add_task(self, *_: Any, **__: Any) -> int:
        return 0

    def update(self, _task: int, *, description: str, completed: float, left: str, refresh: bool) -> None:
        assert refresh
        self.drawn.append((description, completed, left))


def test_it_is_drawn_for_each_stage_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Shown()
    one = bar.Bar(shown)  # type: ignore[arg-type]
    one.draw("a", 0.0)
    one.draw("a", 0.1, 9.6)  # too soon
    now[0] += 1.01 * bar.REDRAW_SECONDS
    one.draw("a", 0.2, 9.4)
    one.draw("b", 0.3, math.inf)
    one.draw("c: 1", 0.4, 599.0, stage="c")
    one.draw("c: 2", 0.5, 598.0, stage="c")  # too soon
    one.draw("d", 0.6, 1800.0)
    assert shown.drawn == [
        ("a", 0.0, ""), ("a", 0.2, "9 s left,"), ("b", 0.3, ""), ("c: 1", 0.4, "599 s left,"),
        ("d", 0.6, "30 min left,"),
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_drawn_in_a_pipe(terminal: bool) -> None:
    file = io.StringIO()
    with bar.progress(Console(file=file, force_terminal=terminal, width=80)) as shown:
        bar.Bar(shown).draw("what is done", 0.5)
    assert ("what is done" in file.getvalue()) == terminal
