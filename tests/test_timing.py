"""Timing and its statistics, on a clock that only moves when a callable says so."""

from __future__ import annotations

import gc
import inspect
import math
import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from softmax_ce import threads as pool
from softmax_ce.contract import BackendInfo
from softmax_ce_bench.measure import load, timing
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, Ratio, paired_ratio


class Clock:
    """Seconds that pass only by work; `speed` may slow the machine down at times."""

    def __init__(self, speed: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now = 0.0
        self.speed = speed
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += seconds / self.speed(self.now)

        return run


def measure(clock: Clock, takes: dict[str, float], **options):
    """Candidates that take so many seconds a call, with a control of one millisecond."""
    candidates = {name: clock.work(name, taken) for name, taken in takes.items()}
    settings: dict[str, Any] = {
        "seconds": 1e9,
        "control": clock.work("control", 1e-3),
        "sample_seconds": 1e-2,
        "most_rounds": 20,
    }
    return timing.measure(candidates, clock=clock, **(settings | options))


def test_times_are_what_the_callables_take():
    samples = measure(Clock(), {"slow": 0.5, "quick": 1e-4})
    assert samples.rounds == 20
    np.testing.assert_allclose(samples.seconds["slow"], 0.5, rtol=1e-9)
    np.testing.assert_allclose(samples.seconds["quick"], 1e-4, rtol=1e-9)
    assert samples.calls["slow"] == 1  # one call is long enough
    assert 100 <= samples.calls["quick"] <= 200  # batched until 10 ms are full
    assert samples.control_ratio == Ratio(1.0, 1.0, 1.0)


def test_every_round_runs_everything_once_in_a_changing_order():
    clock = Clock()
    samples = measure(clock, {"a": 1.0, "b": 1.0, "c": 1.0}, control=clock.work("control", 1.0))
    measured = clock.log[-20 * 5 :]
    rounds = [tuple(measured[k : k + 5]) for k in range(0, 100, 5)]
    assert all(sorted(order) == ["a", "b", "c", "control", "control"] for order in rounds)
    assert len(set(rounds)) > 10
    again = Clock()
    measure(again, {"a": 1.0, "b": 1.0, "c": 1.0}, control=again.work("control", 1.0))
    assert again.log == clock.log  # the same seed, the same order
    assert samples.rounds == 20


def test_a_machine_that_slows_down_leaves_the_paired_ratio():
    # Ten times slower from the 300th second on: the medians move, the ratio within the rounds does not.
    clock = Clock(speed=lambda now: 1.0 if now < 300 else 0.1)
    samples = measure(clock, {"one": 3.0, "two": 6.0}, most_rounds=60)
    ratio = paired_ratio(samples.seconds["two"], samples.seconds["one"])
    assert max(samples.seconds["one"]) > 9 * min(samples.seconds["one"])
    assert ratio.median == pytest.approx(2.0, rel=1e-9)
    assert (ratio.low, ratio.high) == pytest.approx((2.0, 2.0), rel=1e-9)


def test_the_control_shows_a_machine_that_cannot_repeat_itself():
    clock = Clock(speed=lambda now: 1.0 + 0.5 * math.sin(1000 * now))
    calm, restless = measure(Clock(), {"a": 0.1}), measure(clock, {"a": 0.1})
    assert calm.control_ratio.drift == 0
    assert restless.control_ratio.high - restless.control_ratio.low > 0.05


def test_the_time_budget_ends_the_rounds():
    clock = Clock()
    # A round takes 2 s and two samples of the control of 10 ms; warming up takes another few seconds.
    samples = measure(clock, {"a": 1.0, "b": 1.0}, seconds=20.0)
    assert clock.now <= 20.0
    assert samples.rounds == 7
    over = Clock()
    assert measure(over, {"a": 1.0}, seconds=0.0).rounds == 1  # one round always, so that there is something to say


def test_few_rounds_may_take_longer_until_there_is_an_interval():
    clock = Clock()
    samples = measure(clock, {"a": 1.0, "b": 1.0}, seconds=5.0, most_seconds=60.0)
    assert samples.rounds == FEWEST_ROUNDS
    over = Clock()
    samples = measure(over, {"a": 1.0, "b": 1.0}, seconds=5.0, most_seconds=11.0)
    assert samples.rounds < FEWEST_ROUNDS
    assert over.now <= 11.0


def test_short_calls_start_with_one_that_is_not_timed():
    clock = Clock()
    taken = iter([5.0, *[1e-3] * 10, 5.0, *[1e-3] * 10])  # cold, then warm, then cold again

    def run():
        clock.now += next(taken)

    sampler = timing.Local(run, clock=clock)
    assert sampler.sample(10) == pytest.approx(1e-3, rel=1e-9)
    assert sampler.sample(10) == pytest.approx(1e-3, rel=1e-9)
    assert next(taken, None) is None


def test_what_is_put_back_before_a_sample_is_not_timed():
    clock = Clock()
    sampler = timing.Local(clock.work("run", 0.25), clock.work("before", 7.0), clock)
    assert sampler.calibrate(10.0) == 1  # one call, however short: the second would find what the first left
    assert sampler.sample(1) == 0.25
    assert clock.log == ["before", "run"] * 2


def test_a_sampler_from_elsewhere_is_measured_like_a_function():
    class Elsewhere:
        asked: ClassVar[list[int]] = []

        def calibrate(self, sample_seconds):
            return 17

        def sample(self, calls):
            self.asked.append(calls)
            return 0.125

    clock = Clock()
    samples = timing.measure(
        {"far": Elsewhere()}, seconds=1e9, most_rounds=8, control=clock.work("control", 1e-2), clock=clock
    )
    assert samples.calls["far"] == 17
    assert Elsewhere.asked == [17] * 8
    assert samples.seconds["far"].tolist() == [0.125] * 8


def test_progress_ends_at_one():
    fractions: list[float] = []
    measure(Clock(), {"a": 1.0}, on_round=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) == 20


def test_the_collector_is_off_within_a_sample_and_as_it_was_after():
    seen: list[bool] = []
    assert gc.isenabled()
    timing.sample(lambda: seen.append(gc.isenabled()), 3, Clock())
    assert seen == [False] * 3
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timing.sample(lambda: 1 / 0, 1, Clock())
    assert gc.isenabled()


def test_the_timers_overhead_is_what_reading_the_clock_costs():
    ticks = iter(range(10_000))
    assert timing.timer_overhead(lambda: next(ticks) * 1e-7) == pytest.approx(1e-7)


def test_a_clock_that_stands_still_does_not_hang():
    assert timing.calibrate(lambda: None, 1e-3, Clock()) == timing.MOST_CALLS


def test_the_frozen_control_computes_the_same_every_time():
    control = timing.frozen_control()
    control()
    buffer = inspect.getclosurevars(control).nonlocals["buffer"]
    first = buffer.copy()
    np.testing.assert_allclose(first.sum(axis=1, dtype=np.float64), 1.0, rtol=1e-6)
    control()
    np.testing.assert_array_equal(buffer, first)


def test_paired_ratio_knows_constant_factors():
    times = np.linspace(1.0, 9.0, 21)
    ratio = paired_ratio(3 * times, times)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.0), rel=1e-12)
    assert ratio.drift == pytest.approx(2.0)


def test_paired_ratio_pairs():
    # Times that grow a hundredfold over the session, one candidate 10 % slower in every round.
    base = np.geomspace(1, 100, 15)
    assert paired_ratio(1.1 * base, base).high == pytest.approx(1.1)
    assert paired_ratio(1.1 * base[::-1], base).high > 5  # without the pairing, nothing is known


def test_swapping_gives_the_inverse():
    rng = np.random.default_rng(1)
    a, b = np.exp(rng.normal(0, 0.1, (2, 24)))  # an even number: the median lies between two rounds
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.median == pytest.approx(1 / back.median, rel=1e-14)
    assert there.drift == pytest.approx(back.drift, rel=1e-13)
    assert there.low <= there.median <= there.high


def test_too_few_rounds_have_no_interval():
    few, enough = np.ones(FEWEST_ROUNDS - 1), np.ones(FEWEST_ROUNDS)
    assert paired_ratio(few, few) == Ratio(1.0, 0.0, math.inf)
    assert paired_ratio(enough, enough) == Ratio(1.0, 1.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    sessions = 300
    covered = 0
    for seed in range(sessions):
        noise = np.exp(0.05 * rng.standard_t(3, (2, 25)))  # heavy tails, as interrupts have them
        ratio = paired_ratio(1.2 * noise[0], noise[1], seed=seed, resamples=500)
        covered += ratio.low <= 1.2 <= ratio.high
    # 95 % of 300 with a standard deviation of 1.3 %; the bootstrap of a median is slightly off either way.
    assert 0.91 <= covered / sessions <= 0.99


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [([1.0], [1.0, 2.0], "one length"), ([], [], "one length"), ([1.0, 0.0], [1.0, 1.0], "positive")],
)
def test_paired_ratio_refuses(above, below, message):
    with pytest.raises(ValueError, match=message):
        paired_ratio(above, below)


def test_intervals_overlap():
    assert Ratio(2.0, 1.9, 2.1).overlaps(Ratio(2.2, 2.1, 2.3))
    assert not Ratio(2.0, 1.9, 2.1).overlaps(Ratio(2.2, 2.11, 2.3))


def test_load_of_others_is_what_is_left_of_everybody():
    before = load.Reading(clock=10.0, all_processes=100.0, own=7.0)
    after = load.Reading(clock=14.0, all_processes=109.0, own=12.0)
    assert load.cpus_of_others(before, after) == 1.0  # 9 s in all, 5 of them our own, in 4 s
    assert load.cpus_of_others(None, after) is None
    assert load.cpus_of_others(before, load.Reading(10.1, 101.0, 7.0)) is None  # too short to tell


def test_load_reads_the_systems_counters(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 300 99999 555 6 7 8 50 0\nintr 1 2\n")
    reading = load.read(stat)
    if reading is None:
        pytest.skip("no clock ticks on this system")
    assert reading.all_processes * os.sysconf("SC_CLK_TCK") == pytest.approx(100 + 20 + 300 + 6 + 7 + 8)
    assert load.read(tmp_path / "missing") is None


def test_only_the_cpus_that_this_process_may_use_are_looked_at(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9\ncpu0 1 0 0 7 7 0 0 0\ncpu1 0 20 0 7 7 0 0 0\ncpu2 0 0 300 7 7 0 0 9\n")
    for usable, ticks in (({0}, 1), ({1}, 20), ({0, 2}, 310), ({7}, 54)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, usable=usable: usable, raising=False)
        reading = load.read(stat)
        if reading is None:
            pytest.skip("no clock ticks on this system")
        assert reading.all_processes * os.sysconf("SC_CLK_TCK") == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("others", "threads", "usable", "crowded"),
    [
        (1.0, 1, 2, False),  # a thread, and a CPU for it beside the one that is busy
        (1.0, 2, 2, True),
        (0.15, 2, 2, False),  # the system's own background
        (1.2, 1, 2, True),
        (2.0, 1, 2, True),
        (1.0, 1, 1, True),  # on the one CPU that this process may use
        (0.05, 1, 1, False),
        (1.0, 8, 2, True),  # more threads than CPUs want no more than these
        (0.1, 8, 2, False),
        (6.0, 2, 8, False),
        (6.5, 2, 8, True),
        (None, 2, 2, False),
    ],
)
def test_a_cell_is_crowded_where_its_threads_had_no_cpu(others, threads, usable, crowded, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(usable)), raising=False)
    assert load.is_crowded(others, threads) is crowded


def test_the_threads_of_a_call_are_those_that_the_pool_would_give_it(monkeypatch):
    monkeypatch.setattr(pool, "available_cpus", lambda: 4)
    early, late = (BackendInfo("a", "a", serial_elements=size) for size in (10_000, 1_000_000))
    for asked, shape, backends, right in (
        (None, (10, 10), (early, late), 1),
        (None, (100, 100), (late,), 1),
        (None, (100, 100), (early, late), 4),  # a row counts as 24 classes more than it has
        (None, (1000, 1), (early,), 4),
        (None, (100, 10), (early,), 1),
        (None, (1000, 1000), (late,), 4),
        (1, (1000, 1000), (early, late), 1),
        (1, (10**5, 10**5), (early,), 1),
        (3, (10, 10), (late,), 1),  # at most so many
        (3, (1000, 1000), (late,), 3),
        (None, (10**5, 10**5), (), 1),
    ):
        assert load.threads_used(asked, *shape, backends) == right, (asked, shape)
