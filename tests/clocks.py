"""Clocks for tests that measure: what they find depends on neither this machine's speed nor what else it does."""

from __future__ import annotations

from functools import partial

import pytest

from softmax_ce_bench.measure import load, timing

TICK = 1e-4  # seconds
ROUNDS = 8


class TickingClock:
    """Seconds that pass by one tick with every look, and by the work that adds to `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += TICK
        return self.now


def quiet_machine(monkeypatch: pytest.MonkeyPatch, clock: TickingClock | None = None) -> TickingClock:
    """Have this process's functions timed in eight rounds of one call each, on a machine that nobody else uses.

    Every sample takes one tick, and so the control never drifts. Give the clock to whatever has a time budget, too.
    """
    clock = clock or TickingClock()
    monkeypatch.setattr(timing, "measure", partial(timing.measure, most_rounds=ROUNDS, sample_seconds=TICK / 2))
    monkeypatch.setattr(timing.Local.__init__, "__defaults__", (None, clock))  # of `before` and `clock`
    monkeypatch.setattr(load, "read", lambda: None)
    return clock
