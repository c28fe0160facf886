"""The comparison: the digits fit, who is ranked and who is not, time, memory, and what is said."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import clocks
import softmax_ce as sce
import wrong_backends
from helpers import known
from softmax_ce import registry
from softmax_ce_bench import ceilings, compare, peers
from softmax_ce_bench.compare import BASE, CompareRequest, RequestError, budget, first_call
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.compare.decision import fastest
from softmax_ce_bench.compare.result import (
    CallOptions,
    Candidate,
    CellOperation,
    ColdStart,
    ComparedCell,
    Control,
    Entry,
    Inputs,
    Run,
    Settings,
    Timing,
)
from softmax_ce_bench.inputs import digits, workloads
from softmax_ce_bench.inputs.workloads import Shape, synthetic
from softmax_ce_bench.measure import cold_start, memory, operations, peak, timing
from softmax_ce_bench.measure.machine import Machine
from softmax_ce_bench.measure.operations import LOSSES
from softmax_ce_bench.measure.peer_process import PeerProcesses
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.report import comparison, record, words
from softmax_ce_bench.truth import judge
from softmax_ce_bench.truth.errors import Errors, worst_ulp

AVAILABLE = [info.name for info in sce.backends() if info.available]
SMALL = Shape("small", 60, 40, "small enough for a test")
BUILT = pytest.mark.skipif(ceilings.why_unavailable is not None, reason=f"not built: {ceilings.why_unavailable}")


# Softmax regression on handwritten digits


@pytest.fixture(scope="module", params=["float64", "float32"])
def base_fit(request):
    return request.param, digits.fit(BASE, dtype=request.param)


@pytest.mark.parametrize("backend", AVAILABLE)
def test_every_backend_draws_the_same_loss_curve(backend, base_fit):
    dtype, base = base_fit
    fit = digits.fit(backend, dtype=dtype)
    assert fit.over_bound(base) <= 1
    assert fit.accuracy >= digits.PASS_ACCURACY
    assert fit.losses[0] == pytest.approx(math.log(10), rel=1e-6)  # zero weights: every digit as likely
    assert np.all(np.diff(fit.losses) < 1e-6)  # gradient descent descends
    assert fit.losses[-1] < 0.25


def test_the_bound_is_sharp_enough_to_be_worth_something(base_fit):
    dtype, base = base_fit
    assert np.all(base.bounds > 0)
    # In float64 an error of one part in 10^11 stands out after all steps, in float32 one of two per cent.
    assert base.bounds[-1] / base.losses[-1] < {"float64": 1e-11, "float32": 2e-2}[dtype]


def test_a_gradient_that_is_slightly_wrong_leaves_the_bound():
    base = digits.fit(BASE)
    with backend_like(BASE, "off", scale_gradient=1 + 1e-9):
        off = digits.fit("off")
    assert off.over_bound(base) > 100
    assert off.accuracy == base.accuracy  # which would never have shown it


NO_LOGITS = np.empty((0, 10))


def test_a_nan_in_the_curve_is_no_agreement():
    base = digits.Fit("a", np.ones(3), np.full(3, 0.1), 1.0, NO_LOGITS)
    other = digits.Fit("b", np.array([1.0, np.nan, 1.0]), np.full(3, 0.1), 1.0, NO_LOGITS)
    assert other.over_bound(base) == math.inf
    near = digits.Fit("c", np.array([1.0, 1.1, 1.0]), np.full(3, 0.1), 1.0, NO_LOGITS)
    assert near.over_bound(base) == pytest.approx(0.5)
    assert near.difference(base) == pytest.approx(0.1)


# Measuring


class backend_like:
    """For a while, one more backend: another one's kernels, its gradient scaled or its calls failing."""

    def __init__(self, name, own_name, *, scale_gradient=1.0, error=None):
        original = sce.get_backend(name)
        self.name = own_name

        def hard(*arguments):
            if error is not None:
                raise error
            original.hard(*arguments)
            grad, start, stop = arguments[10], arguments[-2], arguments[-1]
            if grad is not None:
                grad[start:stop] *= scale_gradient

        self.module = SimpleNamespace(
            __name__=own_name, BACKEND=replace(original.info, name=own_name), hard=hard, soft=original.soft
        )

    def __enter__(self):
        registry.register(self.module)

    def __exit__(self, *_):
        registry.unregister(self.name)


@contextmanager
def registered(backend):
    registry.register(backend)
    try:
        yield backend.BACKEND.name
    finally:
        registry.unregister(backend.BACKEND.name)


class Slow(wrong_backends.CorrectBackend):
    """Right, and by the clock it is given eleven times as slow as the others."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def hard(self, *arguments):
        super().hard(*arguments)
        self._clock.now += 10 * clocks.TICK


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of a machine that nobody else uses, by which a run measures and keeps its time budget."""
    clock = clocks.quiet_machine(monkeypatch)
    monkeypatch.setattr(compare, "run", partial(compare.run, clock=clock))
    return clock


def source(shape=SMALL, dtype="float32", **options):
    return planning.Source("test", shape, dtype, **options)


def small_plan(*backends, dtype="float32", **options):
    settings: dict[str, Any] = {"threads": (1,), "seconds": 600.0, "sources": (source(dtype=dtype),)} | options
    return CompareRequest(backends, **settings)


def entry_of(cell, name):
    return next(entry for entry in cell.entries if entry.name == name)


def test_backends_are_measured_checked_and_ranked():
    run = compare.run(small_plan(*AVAILABLE))
    (cell,) = run.cells
    assert (run.complete, run.fits, cell.rounds) == (True, [], 8)
    assert [entry.name for entry in cell.entries] == [BASE, *(name for name in AVAILABLE if name != BASE)]
    for entry in cell.entries:
        if not sce.get_backend(entry.name).info.stable:
            continue
        assert entry.status == "ranked"
        errors = known(entry.errors)
        assert errors.over_bound == max(errors.loss_over_bound, errors.grad_over_bound) <= 1
        assert tuple(entry.timings) == LOSSES
        for timed in entry.timings.values():
            assert len(timed.seconds) == cell.rounds
            assert min(timed.seconds) > 0
            assert timed.time.low <= timed.time.median <= timed.time.high
            assert timed.speedup.low <= timed.speedup.median <= timed.speedup.high
    base = cell.entries[0]
    assert all(timed.speedup == Ratio(1.0, 1.0, 1.0) for timed in base.timings.values())
    assert all(facts.fastest for facts in cell.operations.values())
    assert base.timings["fused"].time.median == pytest.approx(np.exp(np.median(np.log(base.timings["fused"].seconds))))


@BUILT
@pytest.mark.parametrize("soft", [False, True])
def test_rates_are_the_bytes_that_must_be_moved_over_the_time(soft):
    (cell,) = compare.run(small_plan(sources=(source(dtype="float64", soft=soft),))).cells
    array = 60 * 40 * 8
    reads = array * (2 if soft else 1)
    assert {o: facts.bytes for o, facts in cell.operations.items()} == {
        "forward": reads, "backward": reads + array, "fused": reads + array,
    }  # fmt: skip
    loops = {loop.loop: loop for loop in cell.ceilings}
    assert loops["read"].bytes == array
    assert loops["copy"].bytes == 2 * array
    fused, best = cell.entries[0].timings["fused"], loops[known(cell.operations["fused"].ceiling)]
    assert best.time.median == min(loop.time.median for loop in cell.ceilings if loop.loop != "read")
    assert cell.operations["forward"].ceiling == "read"
    assert fused.gb_per_s == pytest.approx((reads + array) / fused.time.median / 1e9)
    share = (reads + array) / np.array(fused.seconds) / (best.bytes / np.array(best.seconds))
    assert known(fused.of_ceiling).median == pytest.approx(paired_ratio(share, np.ones(8)).median)


def test_a_backend_that_overflows_is_listed_and_not_ranked():
    (cell,) = compare.run(small_plan("naive")).cells
    naive = cell.entries[1]
    overflowing = int((synthetic(SMALL, "float32").logits > 88.7228).any(axis=1).sum())
    assert known(naive.errors).over_bound == known(naive.errors).grad_ulp == math.inf
    assert naive.reason == f"NaN or infinite in {overflowing} of 60 checked rows, where the result is finite"
    assert (naive.status, naive.timings) == ("rejected", {})
    assert cell.operations["fused"].fastest == (BASE,)


def test_a_backend_that_overflows_by_design_is_timed_but_never_ranked():
    run = compare.run(small_plan("naive", dtype="float64"))
    naive = run.cells[0].entries[1]
    assert (naive.status, naive.reason) == ("unranked", "it overflows by design")  # e^100 fits in float64
    assert known(naive.errors).over_bound <= 1
    assert tuple(naive.timings) == LOSSES
    assert "naive is not ranked: it overflows by design" in printed(comparison.cell_table(run, run.cells[0]))
    assert run.cells[0].operations["fused"].fastest == (BASE,)
    cell = made({"numpy": 1.0, "naive": 9.0}, unstable="naive")
    shown = printed(comparison.cell_table(a_run(cell), cell))
    assert [line.split()[0] for line in shown.splitlines() if "* " in line] == ["numpy"]
    assert "9.00x" in shown
    assert words.finding(cell, BASE) == "numpy is fastest in every operation"


def test_a_wrong_backend_and_a_failing_one_are_rejected_with_the_reason():
    with backend_like(BASE, "off", scale_gradient=1.001), backend_like(BASE, "broken", error=OSError("no such\nluck")):
        (cell,) = compare.run(small_plan("off", "broken")).cells
    _, off, broken = cell.entries
    assert known(off.errors).over_bound > 10
    assert known(off.reason).startswith("its worst error is ")
    assert broken.reason == "raised OSError: no such luck"
    assert (off.status, broken.status, off.timings, broken.timings) == ("rejected", "rejected", {}, {})


@pytest.mark.parametrize("wrong", [wrong_backends.MaximumOfTheArray, wrong_backends.CancellingGradient])
def test_a_planted_wrong_backend_never_wins(wrong):
    with registered(wrong()) as name:
        (cell,) = compare.run(small_plan(name)).cells
    planted = entry_of(cell, name)
    assert planted.status == "rejected"
    assert "worst error is" in planted.reason or "NaN or infinite" in planted.reason
    assert all(name not in facts.fastest for facts in cell.operations.values())


def test_a_planted_slow_backend_is_ranked_last(clock):
    with registered(Slow(clock)) as name:
        (cell,) = compare.run(small_plan(name)).cells
    assert entry_of(cell, name).status == "ranked"
    assert entry_of(cell, name).timings["fused"].speedup.median == pytest.approx(1 / 11)
    assert cell.operations["fused"].fastest == (BASE,)


def test_a_backend_that_raises_only_while_it_is_timed_is_rejected_and_the_others_go_on():
    original = sce.get_backend(BASE)
    calls = []

    def hard(*arguments):
        calls.append(1)
        if len(calls) > 5:
            raise MemoryError("all gone")
        original.hard(*arguments)

    module = SimpleNamespace(
        __name__="fickle", BACKEND=replace(original.info, name="fickle"), hard=hard, soft=original.soft
    )
    registry.register(module)
    try:
        (cell,) = compare.run(small_plan("fickle")).cells
    finally:
        registry.unregister("fickle")
    fickle = entry_of(cell, "fickle")
    assert (fickle.status, fickle.reason, fickle.timings) == ("rejected", "raised MemoryError: all gone", {})
    assert len(cell.entries[0].timings["fused"].seconds) == cell.rounds == 8


# The grid


def test_the_grid_is_every_workload_with_every_number_of_threads(monkeypatch):
    monkeypatch.setitem(workloads.SETS, "quick", (SMALL,))
    sources = tuple(planning.built_in("quick", ("float32", "float16"))) + tuple(
        planning.of_shapes(((3, 5),), ("float64",))
    )
    run = compare.run(CompareRequest((BASE,), sources, threads=(1, 2), operations=("forward",), seconds=600))
    sizes = ("digits 1797x10 float32", "small 60x40 float32", "digits 1797x10 float16", "small 60x40 float16")
    assert [cell.key for cell in run.cells] == [
        f"{size}, {count}" for size in (*sizes, "3x5 float64") for count in ("1 thread", "2 threads")
    ]
    assert all(tuple(cell.operations) == ("forward",) for cell in run.cells)
    assert [cell.inputs.set for cell in run.cells] == ["quick"] * 8 + ["shapes"] * 2
    assert run.fits[0].accuracy >= digits.PASS_ACCURACY
    assert run.fits[0].passed


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (CallOptions(weight="drawn"), "weight=drawn"),
        (CallOptions(label_smoothing=0.1), "label-smoothing=0.1"),
        (CallOptions(z_loss=1e-4), "z-loss=0.0001"),
        (CallOptions(reduction="none"), "reduction=none"),
    ],
)
def test_options_reach_every_call_and_the_reference(options, text):
    seen = []
    original = sce.get_backend(BASE)

    def hard(*arguments):
        seen.append(arguments)
        original.hard(*arguments)

    module = SimpleNamespace(__name__="spy", BACKEND=replace(original.info, name="spy"), hard=hard, soft=original.soft)
    registry.register(module)
    try:
        run = compare.run(small_plan("spy", options=options))
    finally:
        registry.unregister("spy")
    (cell,) = run.cells
    assert cell.key == f"small 60x40 float32, {text}, 1 thread"
    spy = entry_of(cell, "spy")
    assert spy.status == "ranked"
    assert spy.errors.over_bound <= 1
    label_mass, base_mass, z_loss = seen[-1][3], seen[-1][4], seen[-1][6]
    if options.weight == "drawn":
        weights = 0.5 + np.random.default_rng(8).random(40)  # folding may scale them
        np.testing.assert_allclose(label_mass / label_mass[0], weights / weights[0], rtol=1e-6)
    elif options.label_smoothing:
        np.testing.assert_allclose(base_mass, 0.1 / 40, rtol=1e-6)
    elif options.z_loss:
        assert z_loss == pytest.approx(1e-4)
    else:
        assert seen[-1][8] == [1.0]  # no division by the rows


def test_the_same_cell_twice_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match="small 60x40 float32, 1 thread is given twice"):
        compare.run(small_plan(sources=(source(), source())))
    with pytest.raises(RequestError, match=r"there are 40 classes in small 60x40 float32, .* the shape \(39,\)"):
        compare.run(small_plan(options=CallOptions(weight="file"), weight=np.ones(39)))


def test_what_does_not_fit_into_memory_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 22 * 10**9)
    monkeypatch.setattr(workloads, "synthetic", None)  # would raise
    huge = source(Shape("huge", 1_000_000, 100_000, "too large"))
    said = r"huge 1000000x100000 float32 needs about 1.2 TB \(logits and gradient 400 GB each\), and 22 GB is free"
    with pytest.raises(RequestError, match=said):
        compare.run(small_plan(sources=(huge,)))


def test_memory_is_that_of_the_machine_or_of_the_container_whichever_is_less(tmp_path):
    meminfo, groups = tmp_path / "meminfo", tmp_path / "groups"
    groups.mkdir()
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.available(meminfo, groups) == 4000 << 10
    (groups / "memory.max").write_text("3000000\n")
    (groups / "memory.current").write_text("1500000\n")
    (groups / "memory.stat").write_text("anon 5\ninactive_file 400000\n")
    assert memory.available(meminfo, groups) == 1_900_000
    (groups / "memory.max").write_text("max\n")
    assert memory.available(meminfo, groups) == 4000 << 10


@pytest.mark.parametrize(("count", "text"), [(400e9, "400 GB"), (823_422_976, "823 MB"), (1024, "1.02 kB"), (7, "7 B")])
def test_sizes_have_three_digits(count, text):
    assert memory.size(count) == text


# Time


class Clock:
    """Seconds that pass only by work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_share_is_in_proportion_to_a_round_and_never_more_than_the_rounds_need():
    clock = Clock()
    shared = budget.Budget(20.0, clock)
    shared.start()
    shared.learn(1000, {"a": 1.0})  # 1 ms an element
    small, large = (100, ["a"]), (300, ["a"])
    spare = 19 - shared.fixed(100) - shared.fixed(300)
    assert shared.share([large, small]) == pytest.approx(shared.fixed(300) + spare * 0.75)
    assert shared.share([small]) == pytest.approx(shared.fixed(100) + 0.1 * (timing.MOST_ROUNDS + 2))
    clock.now = 18.0
    assert shared.left == 1.0
    assert shared.share([small, small]) < 1.0
    clock.now = 30.0
    assert shared.share([small]) == pytest.approx(shared.fixed(100))
    assert shared.least(100, ["a"]) == pytest.approx(shared.fixed(100) + 0.2)


def test_what_small_calls_cost_says_little_of_large_ones():
    shared = budget.Budget(100.0, Clock())
    shared.learn(1000, {"a": 1.0})
    assert shared.a_round(8000, ["a"]) == pytest.approx(8.0)
    assert shared.a_round(10**9, ["a"]) == pytest.approx(1.0)  # as if nothing were known
    shared.learn(10**9, {"a": 0.5})
    shared.learn(1000, {"a": 1.0})  # what larger calls cost is kept
    assert shared.a_round(10**9, ["a"]) == pytest.approx(0.5)


class Sampler:
    def __init__(self, clock: Clock, seconds: float, error: Exception | None = None) -> None:
        self.clock, self.seconds, self.error = clock, seconds, error

    def calibrate(self, sample_seconds: float) -> int:
        self.sample(1)
        return 1

    def sample(self, calls: int) -> float:
        if self.error is not None:
            raise self.error
        self.clock.now += self.seconds
        return self.seconds


def timely(clock: Clock, seconds: float, takes: list[float]):
    shared = budget.Budget(seconds, clock)
    shared.start()
    candidates = {
        str(k): budget.DeadlineSampler(str(k), Sampler(clock, taken), shared) for k, taken in enumerate(takes)
    }
    return timing.measure(
        candidates, seconds=seconds, most_seconds=seconds, clock=clock, control=lambda: None, most_rounds=50
    )


def test_the_budget_is_kept_even_where_not_one_round_fits():
    clock = Clock()
    with pytest.raises(budget.OutOfTime):
        timely(clock, 10.0, [4.0] * 20)
    assert clock.now <= 10.0 + 4.0  # one call too long, not twenty
    clock = Clock()
    assert timely(clock, 50.0, [4.0, 4.0]).rounds == 5  # 8 s of warming up, then rounds of 8 s
    assert clock.now == 48.0


def test_whose_error_it_was_is_told():
    clock = Clock()
    shared = budget.Budget(1.0, clock)
    shared.start()
    with pytest.raises(budget.CandidateFailed, match="who: gone") as failed:
        budget.DeadlineSampler("who", Sampler(clock, 1.0, OSError("gone")), shared).calibrate(1e-3)
    assert isinstance(failed.value.error, OSError)


def test_cells_that_are_out_of_time_are_named(monkeypatch):
    clock = Clock()
    real = timing.measure

    def measured(*arguments, **options):
        found = real(*arguments, **(options | {"clock": time.perf_counter, "seconds": 0.0}))
        clock.now += 100.0
        return found

    monkeypatch.setattr(timing, "measure", measured)
    seen: list[float] = []

    class Watch(compare.Listener):
        def stage(self, text, done, left):
            seen.append(done)

    plan = small_plan(sources=(source(), source(dtype="float64")), seconds=50.0, counts_loading=True)
    run = compare.run(plan, Watch(), clock=clock)
    assert [cell.key for cell in run.cells] == ["small 60x40 float32, 1 thread"]
    (left_out,) = run.not_measured
    assert left_out.key == "small 60x40 float64, 1 thread"
    assert left_out.reason.startswith("the time was up: it takes ")
    assert run.complete is False
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= seen[-1] <= 1
    assert "small 60x40 float64, 1 thread: not measured; the time was up" in printed(comparison.closing(run))


# Peers


class Peer:
    """Stands in for a worker: answers with NumPy's results, perhaps spoilt."""

    cpu_seconds = 0.0
    spoil: Callable[..., Any] = staticmethod(lambda loss, grad: (loss, grad))
    error: str | None = None

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.questions: list[str] = []
        self.arguments: tuple[Any, ...] = ()

    def send(self, question, *arguments):
        self.questions.append(question)
        if question == "load":
            self.workload = arguments[0]() if callable(arguments[0]) else arguments[0]
        self.arguments = arguments

    def answer(self):
        if self.error is not None:
            raise ProcessError(self.error)
        if self.questions[-1] == "others":
            (operation,) = self.arguments
            result = operations.call(sce, operation, self.workload.logits, self.workload.targets, backend=BASE)()
            found = operations.TABLE[operation].results(result)
            others = {part: each for part, each in found.items() if part not in ("loss", "grad")}
            return {part: self.spoil(0.0, each)[1] for part, each in others.items()}
        if self.questions[-1] == "result":
            loss, grad = sce.cross_entropy_with_grad(self.workload.logits, self.workload.targets, backend=BASE)
            return self.spoil(float(loss), grad[self.arguments[0]])
        return {"calibrate": 1, "sample": 1e-6}.get(self.questions[-1])

    def ask(self, question, *arguments):
        self.send(question, *arguments)
        return self.answer()

    def close(self):
        self.questions.append("close")


def peers_run(peer=Peer, **options):
    workers = []

    def make(name, threads):
        workers.append(peer(name, threads))
        return workers[-1]

    plan = small_plan(peers=("scipy",), **options)
    return compare.run(plan, processes=PeerProcesses(make)), workers


def test_a_peer_is_checked_timed_and_ranked_like_a_backend():
    run, (worker,) = peers_run()
    scipy = entry_of(run.cells[0], "scipy")
    assert scipy.status == "ranked"
    assert scipy.errors.over_bound <= 1
    assert tuple(scipy.timings) == LOSSES
    assert scipy.timings["fused"].seconds == (1e-6,) * 8
    assert run.cells[0].operations["fused"].fastest == ("scipy",)
    assert run.cells[0].operations["backward"].fastest == ("scipy",)
    assert worker.threads == 1
    assert worker.questions[-1] == "close"
    assert next(c for c in run.candidates if c.name == "scipy").includes.startswith("special.log_softmax")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda loss, grad: (loss, grad * 1.5), "its gradient at row "),
        (lambda loss, grad: (loss * 1.01, grad), "its loss is "),
        (lambda loss, grad: (math.nan, grad), "its loss is nan"),
    ],
)
def test_a_wrong_peer_is_listed_with_the_reason_and_not_ranked(spoil, reason):
    class Wrong(Peer):
        pass

    Wrong.spoil = staticmethod(spoil)
    run, _ = peers_run(Wrong)
    scipy = entry_of(run.cells[0], "scipy")
    assert scipy.status == "rejected"
    assert scipy.reason.startswith(reason)
    assert scipy.timings == {}
    assert run.cells[0].operations["fused"].fastest == (BASE,)


def test_a_peer_whose_process_ends_is_rejected_and_the_others_go_on():
    class Gone(Peer):
        error = "the process of scipy ended"

    run, _ = peers_run(Gone)
    assert entry_of(run.cells[0], "scipy").reason == "the process of scipy ended"
    assert run.cells[0].rounds == 8


def test_peers_are_left_out_where_they_cannot_take_part(monkeypatch):
    run, workers = peers_run(options=CallOptions(label_smoothing=0.1))
    scipy = entry_of(run.cells[0], "scipy")
    assert (scipy.status, workers) == ("skipped", [])
    assert scipy.reason == "peers are called without options: label-smoothing"
    run, _ = peers_run(dtype="float16")
    assert entry_of(run.cells[0], "scipy").reason.endswith("not float16")
    sklearn = CompareRequest((), (source(),), peers=("sklearn",), operations=("softmax",), threads=(1,), seconds=600.0)
    (cell,) = compare.run(sklearn, processes=PeerProcesses(Peer)).cells
    assert entry_of(cell, "sklearn").reason == "scikit-learn has no softmax"
    monkeypatch.setattr(planning.CompareRequest, "peers_that_fit", lambda self, source: ())
    run, _ = peers_run()
    assert "its process would need about" in entry_of(run.cells[0], "scipy").reason


def test_the_written_formula_is_what_speed_ups_are_relative_to():
    plan = small_plan("numba" if "numba" in AVAILABLE else "naive", peers=("numpy-written",), base="numpy-written")
    run = compare.run(plan, processes=PeerProcesses(Peer))  # no process is started for it
    (cell,) = run.cells
    written = entry_of(cell, "numpy-written")
    assert run.settings.base == "numpy-written"
    assert [timed.speedup for timed in written.timings.values()] == [Ratio(1.0, 1.0, 1.0)] * 3
    for operation, timed in cell.entries[0].timings.items():
        against = np.array(written.timings[operation].seconds) / np.array(timed.seconds)
        assert timed.speedup.median == pytest.approx(paired_ratio(against, np.ones(8)).median)
    assert "speed-up over numpy-written" in " ".join(printed(comparison.closing(run)).split())


def test_where_the_written_formula_cannot_be_the_numpy_backend_is_the_base():
    sources = (source(),)
    base_for = planning.base_for
    assert base_for(("scipy", "numpy-written"), sources, CallOptions()) == "numpy-written"
    assert base_for(("scipy",), sources, CallOptions()) == BASE
    assert base_for(("numpy-written",), sources, CallOptions(), ("fused", "an operation that it has not")) == BASE
    assert base_for(("numpy-written",), sources, CallOptions(label_smoothing=0.1)) == BASE
    assert base_for(("numpy-written",), (source(dtype="float16"),), CallOptions()) == BASE


@pytest.mark.parametrize("soft", [False, True])
def test_the_normalizers_are_judged_and_timed(soft):
    names = ("softmax", "log_softmax", "logsumexp")
    run = compare.run(small_plan(*AVAILABLE, sources=(source(soft=soft),), peers=("numpy-written",), operations=names,
                                 base="numpy-written"))  # fmt: skip
    (cell,) = run.cells
    array = 60 * 40 * 4
    assert {o: facts.bytes for o, facts in cell.operations.items()} == {
        "softmax": 2 * array, "log_softmax": 2 * array, "logsumexp": array,
    }  # fmt: skip
    for entry in cell.entries:
        errors = known(entry.errors)
        assert tuple(errors.operations) == names
        if entry.status == "ranked":
            assert tuple(entry.timings) == names
            worst = max(each.over_bound for each in errors.operations.values())
            assert errors.over_bound == max(worst, errors.loss_over_bound, errors.grad_over_bound)
            assert errors.over_bound_of("softmax") == errors.operations["softmax"].over_bound <= 1
    shown = printed(comparison.cell_table(run, cell, verbose=True))
    assert "log_softmax" in shown
    again = record.from_dict(json.loads(record.as_text(record.as_dict(run))))
    assert printed(comparison.whole(again)) == printed(comparison.whole(run))


def test_a_backend_and_a_peer_whose_normalizer_is_wrong_are_rejected():
    class Wrong(Peer):
        pass

    Wrong.spoil = staticmethod(lambda loss, grad: (loss, grad + np.float32(0.5) if loss == 0.0 else grad))
    run, _ = peers_run(Wrong, operations=("log_softmax",))
    scipy = entry_of(run.cells[0], "scipy")
    assert scipy.status == "rejected"
    assert scipy.reason.startswith("its result at row 0, class 0 is ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sce, "softmax", lambda x, **_: np.full_like(x, 1 / 40))
        (cell,) = compare.run(small_plan(operations=("softmax", "fused"))).cells
    assert known(cell.entries[0].errors).operations["softmax"].over_bound > 100
    assert known(cell.entries[0].errors).over_bound_of("fused") <= 1
    assert cell.entries[0].status == "rejected"


def test_records_of_version_2_are_read():
    run = compare.run(small_plan())
    old = json.loads(record.as_text(record.as_dict(run)))
    old["version"] = 2
    for entry in old["cells"][0]["entries"]:
        del entry["errors"]["operations"]
    assert record.from_dict(old) == run
    assert "operations" not in old["cells"][0]["entries"][0]["errors"]  # it is left as it was
    for broken in ([1], [{"entries": 3}], [{"entries": [None, {"errors": 5}]}], "cells"):
        with pytest.raises(record.RecordError):
            record.from_dict(old | {"cells": broken})


def test_records_of_version_3_are_read():
    run = compare.run(small_plan(operations=("fused", "softmax")))
    old = json.loads(record.as_text(record.as_dict(run)))
    old["version"] = 3
    for entry in old["cells"][0]["entries"]:
        entry["errors"]["normalizers"] = entry["errors"].pop("operations")
    assert record.from_dict(old) == run


@pytest.mark.parametrize("soft", [False, True])
def test_hessian_and_divergence_are_judged_and_timed(soft):
    names = ("hessian", "kl")
    run = compare.run(small_plan(*AVAILABLE, sources=(source(soft=soft),), peers=("numpy-written",), operations=names,
                                 base="numpy-written"))  # fmt: skip
    (cell,) = run.cells
    array = 60 * 40 * 4
    assert {o: facts.bytes for o, facts in cell.operations.items()} == {
        "hessian": (4 if soft else 3) * array, "kl": 3 * array,
    }  # fmt: skip
    assert run.settings.base == "numpy-written"
    ranked = [entry for entry in cell.entries if entry.status == "ranked"]
    assert {BASE, "numpy-written"} <= {entry.name for entry in ranked}
    for entry in ranked:
        errors = known(entry.errors)
        assert tuple(entry.timings) == tuple(errors.operations) == names
        if entry.name != "numpy-written":  # float32 throughout: its divergence is less accurate
            assert max(errors.over_bound, *(errors.over_bound_of(o) for o in names)) <= 1
        assert [len(errors.ulp_of(o)) for o in names] == [3, 1]
    again = record.from_dict(json.loads(record.as_text(record.as_dict(run))))
    assert printed(comparison.whole(again)) == printed(comparison.whole(run))


@pytest.mark.parametrize(("operation", "function"), [("hessian", "cross_entropy_with_hessian"),
                                                     ("kl", "kl_divergence_with_grad")])  # fmt: skip
def test_a_wrong_hessian_or_divergence_is_rejected(operation, function, monkeypatch):
    right = getattr(sce, function)

    def wrong(*arguments, **options):
        *others, last = right(*arguments, **options)
        return (*others, last * np.float32(1.001))

    monkeypatch.setattr(sce, function, wrong)
    (cell,) = compare.run(small_plan(operations=(operation, "fused"))).cells
    errors = known(cell.entries[0].errors)
    assert errors.over_bound_of(operation) > 10
    assert errors.over_bound_of("fused") <= 1
    assert cell.entries[0].status == "rejected"


@pytest.mark.parametrize("operation", ["hessian", "kl"])
def test_a_peer_whose_hessian_or_divergence_is_wrong_is_rejected(operation):
    class Wrong(Peer):
        spoil = staticmethod(lambda loss, grad: (loss, grad * np.float32(1.1) if loss == 0.0 else grad))

    name = "sklearn" if operation == "hessian" else "torch"
    if peers.BY_NAME[name].why_missing is not None:
        pytest.skip(f"{name} is not installed")
    plan = CompareRequest((), (source(),), peers=(name,), operations=(operation,), threads=(1,), seconds=600.0)
    for kind, status in ((Peer, "ranked"), (Wrong, "rejected")):
        (cell,) = compare.run(plan, processes=PeerProcesses(kind)).cells
        assert entry_of(cell, name).status == status


# More than two axes


IMAGES = Shape("images", 4800, 5, "", inner=(40, 60))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_classes_on_axis_1_are_judged_and_timed(soft, reduction, monkeypatch):
    monkeypatch.setattr(judge, "CHECKED_ELEMENTS", 1000)  # a subset, and so another shape
    asked: set[int] = set()

    def watched(function, *given, axis, **options):
        asked.add(axis)
        return function(*given, axis=axis, **options)

    for name in {row.function for row in operations.TABLE.values() if not row.takes_layer}:
        monkeypatch.setattr(sce, name, partial(watched, getattr(sce, name)))
    plan = small_plan(
        sources=(planning.Source("segmentation", IMAGES, "float32", soft),), peers=("numpy-written",),
        operations=tuple(operations.TABLE), options=CallOptions(reduction=reduction),
    )  # fmt: skip
    (cell,) = compare.run(plan).cells
    numpy, written = cell.entries
    assert asked == {1}
    assert (cell.inputs.rows, cell.inputs.classes, cell.inputs.targets) == (4800, 5, "soft" if soft else "hard")
    assert (numpy.status, tuple(numpy.timings)) == ("ranked", tuple(operations.TABLE))
    assert known(numpy.errors).over_bound <= 1
    assert cell.checked_rows == 200
    assert written.status == "skipped"
    if reduction == "mean":
        assert written.reason == "NumPy, written out is called with two axes here, not 4"
    assert planning.base_for(("numpy-written",), plan.sources, CallOptions()) == BASE


def test_a_wrong_axis_is_rejected(monkeypatch):
    wrong = sce.softmax
    monkeypatch.setattr(sce, "softmax", lambda x, axis=-1, **options: wrong(x, axis=-1, **options))
    plan = small_plan(sources=(planning.Source("segmentation", IMAGES, "float32"),), operations=("softmax",))
    (cell,) = compare.run(plan).cells
    assert cell.entries[0].status == "rejected"


# Errors


def test_errors_in_units_in_the_last_place():
    truth = np.array([1.0, 1.5, 2.0, 0.0], np.longdouble)
    u = np.float32(2.0**-23)
    assert worst_ulp(np.array([1, 1.5 + u, 2, 0], np.float32), truth) == 1.0
    assert worst_ulp(np.array([1, 1.5, 2 + 2 * u, 0], np.float32), truth) == 1.0  # the unit doubles at 2
    assert worst_ulp(np.array([1, 1.5, 2, 3e-45], np.float32), truth) == 2.0  # of the smallest subnormal
    assert worst_ulp(np.array([np.nan, 1.5, 2, 0], np.float32), truth) == math.inf
    third = np.array([1.0], np.longdouble) / 3
    assert worst_ulp(third.astype(np.float16), third) <= 0.5
    assert worst_ulp(third.astype(workloads.dtype_of("bfloat16")), third) <= 0.5


# Before the first call


def test_the_peak_of_a_call_is_what_it_allocates():
    def taking(count):
        return lambda: np.ones(count << 17)  # MiB

    small, large = peak.of_call(taking(8)), peak.of_call(taking(64))
    if small is None or large is None:
        pytest.skip("the system does not tell")
    assert (large - small) / 2**20 == pytest.approx(56, abs=4)
    assert known(peak.of_call(lambda: None)) < 2**21


@pytest.mark.parametrize(
    ("start", "base", "saving", "calls"),
    [(3.0, 1.0, 0.01, 200.0), (3.0, 1.0, 0.0, math.inf), (3.0, 1.0, -1.0, math.inf), (0.5, 1.0, 0.1, 0.0),
     (0.5, 1.0, -0.1, math.inf), (math.nan, 1.0, 0.1, math.inf)],
)  # fmt: skip
def test_break_even_is_the_later_start_over_what_a_call_saves(start, base, saving, calls):
    assert first_call.calls_until_even(start, base, saving) == pytest.approx(calls)


def test_cold_starts_are_measured_in_fresh_processes(monkeypatch):
    asked = []

    def fresh(name, cache):
        asked.append(name)
        return {"numpy": (0.1, 0.2, 0.001), "naive": (0.1, 0.05, 0.001)}[name]

    monkeypatch.setattr(cold_start, "fresh_process", fresh)
    monkeypatch.setattr(peak, "measure", lambda name, *_: {"numpy": 5, "naive": 7}[name])
    monkeypatch.setattr(cold_start.measure, "__kwdefaults__", {"seed": 0, "run": fresh})
    run = compare.run(small_plan("naive", dtype="float64", cold_start=True))
    base, naive = run.cold_starts
    assert set(asked) == {"numpy", "naive"}
    assert (base.import_seconds, base.first_call_cold, base.first_call_cached, base.peak_memory) == (0.1, 0.2, 0.2, 5)
    assert (naive.first_call_cold, naive.peak_memory, naive.failed) == (0.05, 7, None)
    assert naive.peak_memory_cell == run.cells[0].key
    assert base.break_even == ()
    assert [even.operation for even in naive.break_even] == list(LOSSES)
    timed = {entry.name: entry.timings["fused"].time.median for entry in run.cells[0].entries}
    expected = 0.0 if timed["naive"] <= timed["numpy"] else math.inf  # it starts earlier
    assert naive.break_even[2].cold == expected


# Ranking and words


def made(times, *, rejected=(), unstable=(), rounds=20, drift=1.0, **options):
    """A cell with given speed-ups: name -> median, or (median, low, high); the same for every operation."""
    entries = []
    for name, speedup in times.items():
        ratio = Ratio(*speedup) if isinstance(speedup, tuple) else Ratio(speedup, speedup, speedup)
        seconds = 1e-3 / ratio.median
        timed = Timing((seconds,) * rounds, 1, Ratio(seconds, seconds, seconds), ratio, 1.0, None)
        status = "rejected" if name in rejected else "unranked" if name in unstable else "ranked"
        reason = {"rejected": "is wrong", "unranked": "it overflows by design"}.get(status)
        errors = Errors(0.5, 0.5, 0.25, 1.0, 2.0)
        entries.append(Entry(name, status, reason, errors, dict.fromkeys(LOSSES, timed)))
    operations = {o: CellOperation(96, None, fastest(entries, o, rounds)) for o in LOSSES}
    cell = ComparedCell(
        key="made 4x3 float32, auto threads",
        inputs=Inputs("made", "test", "for a test", 4, 3, "float32", "hard"),
        options=CallOptions(),
        threads=None,
        checked_rows=4,
        telling_rows=4,
        rounds=rounds,
        took=1.0,
        timer_overhead=1e-7,
        control=Control((1e-3 * drift,) * rounds, (1e-3,) * rounds, Ratio(drift, drift, drift)),
        drifted=max(drift, 1 / drift) - 1 > timing.CONTAMINATED,
        crowded=False,
        cpus_of_others=0.0,
        ceilings=(),
        why_no_ceilings="none in a test",
        operations=operations,
        entries=tuple(entries),
    )
    return replace(cell, **options)


def a_run(*cells, **options):
    """A run that holds the cells."""
    machine = Machine("a CPU", ("avx2",), 2, 2, "an OS", {}, "3", "0", None, {"numpy": "2", "numba": None})
    settings = Settings(BASE, LOSSES, "buffers", 30.0, 2e-3, 100, 1000, 0.95, 0.03, 0.03)
    names = dict.fromkeys(entry.name for cell in cells for entry in cell.entries)
    candidates = tuple(Candidate(name, "backend", name, None, "", "a call", True, True, None, "") for name in names)
    contaminated = any(cell.drifted or cell.crowded for cell in cells)
    settings_of_run: dict[str, Any] = {"cells": list(cells), "complete": True, "contaminated": contaminated} | options
    return Run("2026-01-01", ("compare",), machine, settings, candidates, **settings_of_run)


@pytest.mark.parametrize(
    ("times", "winners"),
    [
        ({"numpy": 1.0, "a": 2.0, "b": 3.0}, ("b",)),
        ({"numpy": 1.0, "a": 2.95, "b": 3.0}, ("b", "a")),  # a gap of 1.7 %
        ({"numpy": 1.0, "a": 2.9, "b": 3.0}, ("b",)),  # of 3.4 %
        ({"numpy": 1.0, "a": (2.5, 2.2, 2.8), "b": (3.0, 2.7, 3.3)}, ("b", "a")),  # the intervals overlap
        ({"numpy": 1.0, "a": (2.5, 2.2, 2.6), "b": (3.0, 2.7, 3.3)}, ("b",)),
        ({"numpy": 1.0, "a": 0.5}, ("numpy",)),
    ],
)
def test_ties_are_called_ties(times, winners):
    assert made(times).operations["fused"].fastest == winners


def test_who_is_wrong_is_never_fastest():
    assert made({"numpy": 1.0, "a": 9.0}, rejected="a").operations["fused"].fastest == ("numpy",)
    assert made({"numpy": 1.0}, rejected=("numpy",)).operations["fused"].fastest == ()
    assert made({"numpy": 1.0, "a": 9.0}, rounds=5).operations["fused"].fastest == ()  # too few rounds to tell


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            made({"numpy": 1.0, "a": 3.0}),
            "a is fastest in every operation (3.00x, 3.00x and 3.00x the speed of numpy)",
        ),
        (made({"numpy": 1.0, "b": 2.99, "a": 3.0}), "a and b tie in every operation"),
        (made({"numpy": 1.0, "a": 0.5}), "numpy is fastest in every operation"),
        (made({"numpy": 1.0}, rejected=("numpy",)), "no candidate is correct here"),
        (made({"numpy": 1.0}, rounds=3), "too few rounds (3) to tell; a longer --time-budget gives more"),
    ],
)
def test_findings_in_words(cell, said):
    assert words.finding(cell, BASE) == said


def test_findings_that_differ_by_operation():
    cell = made({"numpy": 1.0, "a": 3.0, "b": 2.0})
    entry = cell.entries[2]
    entry.timings["forward"] = replace(entry.timings["forward"], speedup=Ratio(4.0, 3.9, 4.1))
    cell.operations["forward"] = CellOperation(48, None, fastest(cell.entries, "forward", 20))
    expected = (
        "b is fastest in forward (4.00x the speed of numpy); "
        "a is fastest in backward and fused (3.00x and 3.00x the speed of numpy)"
    )
    assert words.finding(cell, BASE) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (4.5678e-6, "4.57 µs"), (1.0, "1.00 s"), (9.996e-4, "1.00 ms"), (130e-9, "130 ns")],
)
def test_durations_have_three_digits(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5216, "0.52"), (0.0034, "0.0034"), (66.33, "66.3"), (281_309.0, "2.8e5"), (math.inf, "inf"), (0.0, "0")],
)
def test_numbers_are_short(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(("calls", "text"), [(0.0, "0"), (12.3, "13"), (123_456.0, "120,000"), (math.inf, "never")])
def test_calls_in_words(calls, text):
    assert words.calls(calls) == text


def test_contamination_is_said():
    quiet = made({"numpy": 1.0})
    assert "CONTAMINATED" not in printed(comparison.closing(a_run(quiet)))
    drifted = made({"numpy": 1.0}, drift=1 / 1.04, key="another", inputs=replace(quiet.inputs, name="drifting"))
    crowded = made(
        {"numpy": 1.0}, cpus_of_others=1.4, crowded=True, key="third", inputs=replace(quiet.inputs, name="crowded")
    )
    run = a_run(quiet, drifted, crowded)
    assert run.contaminated
    said = printed(comparison.closing(run))
    assert "CONTAMINATED: on drifting (4.0%), the control differed from itself by more than 3%" in said
    assert "on crowded (1.4), other programs" in said


def test_the_table_before_the_first_call():
    cell = made({"numpy": 1.0, "a": 2.0})
    starts = [
        ColdStart("numpy", None, 0.05, 0.001, 0.001, 1e-5, 4_200_000, cell.key, ()),
        ColdStart("a", None, 0.05, 12.5, 0.3, 1e-5, None, cell.key, ()),
        ColdStart("b", "raised OSError: no", None, None, None, None, None, None, ()),
    ]
    run = a_run(cell, cold_starts=starts)
    run.cold_starts = first_call.with_break_even(run)
    shown = printed(comparison.cold_table(run))
    # 12.499 s later, 0.5 ms saved a call; 0.299 s with a cache.
    assert "a 50.0 ms 12.5 s 300 ms - 25,000 / 600" in " ".join(shown.split())
    assert "numpy 50.0 ms 1.00 ms 1.00 ms 4.2 MB -" in " ".join(shown.split())
    assert "b: raised OSError: no" in shown


def printed(renderable, width=400) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_table_fits_into_eighty_columns():
    times = {"numpy": 1.0, "numba": (12.25, 12.1, 12.4), "numpy-written": (0.52, 0.51, 0.53)}
    cell = made(times)
    assert max(len(line) for line in printed(comparison.cell_table(a_run(cell), cell), width=80).splitlines()) <= 80
    wide = printed(comparison.cell_table(a_run(cell), cell, verbose=True), width=120)
    assert max(len(line) for line in wide.splitlines()) <= 120
    assert "12.2x (12.1-12.4)" in wide
