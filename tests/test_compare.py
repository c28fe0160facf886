"""The comparison: the digits fit, who is ranked and who is not, what is said and what is recorded."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import softmax_ce as sce
from softmax_ce import registry
from softmax_ce_bench import compare, digits, timing, workloads
from softmax_ce_bench.compare import BASE, OPERATIONS, Cell, Entry, Plan, Result
from softmax_ce_bench.report import record, tables, words
from softmax_ce_bench.stats import Ratio
from softmax_ce_bench.workloads import Shape, Workload, synthetic

AVAILABLE = [info.name for info in sce.backends() if info.available]
SMALL = Shape("small", 60, 40, "small enough for a test")


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


def test_a_nan_in_the_curve_is_no_agreement():
    base = digits.Fit("a", np.ones(3), np.full(3, 0.1), 1.0, None)
    other = digits.Fit("b", np.array([1.0, np.nan, 1.0]), np.full(3, 0.1), 1.0, None)
    assert other.over_bound(base) == math.inf
    near = digits.Fit("c", np.array([1.0, 1.1, 1.0]), np.full(3, 0.1), 1.0, None)
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


@pytest.fixture(autouse=True)
def short_sessions(monkeypatch):
    """Eight short rounds, however quick or slow the machine is."""
    monkeypatch.setattr(timing, "measure", partial(timing.measure, most_rounds=8, sample_seconds=2e-4))


def small_run(backends, dtype="float32"):
    return compare.run(Plan(tuple(backends), threads=1, seconds=600, own=synthetic(SMALL, dtype)))


def test_backends_are_measured_checked_and_ranked():
    comparison = small_run(AVAILABLE)
    (result,) = comparison.results
    assert comparison.fits == ()
    assert result.rounds == 8
    assert [entry.backend for entry in result.entries] == [BASE, *(name for name in AVAILABLE if name != BASE)]
    for entry in result.entries:
        if not sce.get_backend(entry.backend).info.stable:
            continue
        assert entry.worst <= 1
        assert entry.rejected is None
        for operation in OPERATIONS:
            cell = entry.cells[operation]
            assert cell.seconds.shape == (result.rounds,)
            assert np.all(cell.seconds > 0)
            assert cell.speedup.low <= cell.speedup.median <= cell.speedup.high
    base = result.entries[0]
    assert all(cell.speedup == Ratio(1.0, 1.0, 1.0) for cell in base.cells.values())
    assert all(result.fastest(operation) for operation in OPERATIONS)


def test_a_backend_that_overflows_is_listed_and_not_ranked():
    (result,) = small_run(["naive"]).results
    entry = result.entries[1]
    overflowing = int((result.workload.logits > 88.7228).any(axis=1).sum())
    assert entry.worst == math.inf
    assert entry.rejected == f"NaN or infinite in {overflowing} of 60 checked rows, where the result is finite"
    assert entry.cells == {}
    assert result.fastest("fused") == (BASE,)


def test_a_backend_that_overflows_by_design_is_timed_but_never_ranked():
    (result,) = small_run(["naive"], dtype="float64").results
    naive = result.entries[1]
    assert naive.rejected is None  # e^100 fits in float64
    assert naive.worst <= 1
    assert set(naive.cells) == set(OPERATIONS)
    assert "naive is not ranked: it overflows by design" in printed(tables.result_table(result))
    assert result.fastest("fused") == (BASE,)
    result = made({"numpy": 1.0, "naive": 9.0}, unstable="naive")
    assert result.fastest("fused") == ("numpy",)
    shown = printed(tables.result_table(result))
    assert [line.split()[0] for line in shown.splitlines() if "* " in line] == ["numpy"]
    assert "9.00x" in shown
    assert words.finding(result) == "numpy is fastest in every operation"


def test_a_wrong_backend_and_a_failing_one_are_rejected_with_the_reason():
    with backend_like(BASE, "off", scale_gradient=1.001), backend_like(BASE, "broken", error=OSError("no such luck")):
        (result,) = small_run(["off", "broken"]).results
    _, off, broken = result.entries
    assert off.worst > 10
    assert off.rejected.startswith("its worst error is ")
    assert broken.rejected == "raised OSError: no such luck"
    assert off.cells == broken.cells == {}


def test_every_workload_gets_its_turn_within_the_budget(monkeypatch):
    monkeypatch.setattr(workloads, "SHAPES", (SMALL, replace(SMALL, name="other", rows=30)))
    seen: list[float] = []

    class Watch(compare.Listener):
        def stage(self, text, done):
            seen.append(done)

    comparison = compare.run(Plan((BASE,), threads=1, seconds=0.0), Watch())
    assert [result.workload.name for result in comparison.results] == ["digits", "small", "other"]
    assert [result.rounds for result in comparison.results] == [1, 1, 1]
    assert [result.workload.shape for result in comparison.results] == [(1797, 10), (60, 40), (30, 40)]
    assert comparison.fits[0].accuracy >= digits.PASS_ACCURACY
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= seen[-1] <= 1
    np.testing.assert_allclose(
        sce.cross_entropy(comparison.results[0].workload.logits[:1347], digits.load().labels[:1347]),
        comparison.fits[0].losses[-1],
        rtol=0.01,  # one step further
    )


# Ranking and words


def made(times, *, rejected=(), unstable=(), rounds=20, drift=1.0, **options):
    """A result with given speed-ups: name -> median, or (median, low, high); the same for every operation."""
    entries = []
    for name, speedup in times.items():
        ratio = Ratio(*speedup) if isinstance(speedup, tuple) else Ratio(speedup, speedup, speedup)
        cells = {operation: Cell(np.full(rounds, 1e-3 / ratio.median), ratio) for operation in OPERATIONS}
        entries.append(Entry(name, 0.5, "is wrong" if name in rejected else None, cells, name not in unstable))
    workload = Workload("made", "for a test", np.zeros((4, 3), np.float32), np.zeros(4, np.int64))
    control = Ratio(drift, drift, drift)
    settings = {"others": 0.0, "crowded": False} | options
    return Result(workload, 4, 4, rounds, control, 1e-7, entries=tuple(entries), **settings)


@pytest.mark.parametrize(
    ("times", "fastest"),
    [
        ({"numpy": 1.0, "a": 2.0, "b": 3.0}, ("b",)),
        ({"numpy": 1.0, "a": 2.95, "b": 3.0}, ("b", "a")),  # a gap of 1.7 %
        ({"numpy": 1.0, "a": 2.9, "b": 3.0}, ("b",)),  # of 3.4 %
        ({"numpy": 1.0, "a": (2.5, 2.2, 2.8), "b": (3.0, 2.7, 3.3)}, ("b", "a")),  # the intervals overlap
        ({"numpy": 1.0, "a": (2.5, 2.2, 2.6), "b": (3.0, 2.7, 3.3)}, ("b",)),
        ({"numpy": 1.0, "a": 0.5}, ("numpy",)),
    ],
)
def test_ties_are_called_ties(times, fastest):
    assert made(times).fastest("fused") == fastest


def test_who_is_wrong_is_never_fastest():
    assert made({"numpy": 1.0, "a": 9.0}, rejected="a").fastest("fused") == ("numpy",)
    assert made({"numpy": 1.0}, rejected=("numpy",)).fastest("fused") == ()
    assert made({"numpy": 1.0, "a": 9.0}, rounds=5).fastest("fused") == ()  # too few rounds to tell


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            made({"numpy": 1.0, "a": 3.0}),
            "a is fastest in every operation (3.00x, 3.00x and 3.00x the speed of numpy)",
        ),
        (made({"numpy": 1.0, "b": 2.99, "a": 3.0}), "a and b tie in every operation"),
        (made({"numpy": 1.0, "a": 0.5}), "numpy is fastest in every operation"),
        (made({"numpy": 1.0}, rejected=("numpy",)), "no backend is right here"),
        (made({"numpy": 1.0}, rounds=3), "too few rounds (3) to tell; a longer --time-budget gives more"),
    ],
)
def test_findings_in_words(result, said):
    assert words.finding(result) == said


def test_findings_that_differ_by_operation():
    result = made({"numpy": 1.0, "a": 3.0, "b": 2.0})
    quick = Ratio(4.0, 3.9, 4.1)
    result.entries[2].cells["forward"] = Cell(np.full(20, 2.5e-4), quick)
    expected = (
        "b is fastest in forward (4.00x the speed of numpy); "
        "a is fastest in backward and fused (3.00x and 3.00x the speed of numpy)"
    )
    assert words.finding(result) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (4.5678e-6, "4.57 µs"), (1.0, "1.00 s"), (9.996e-4, "1.00 ms"), (130e-9, "130 ns")],
)
def test_durations_have_three_digits(seconds, text):
    assert words.duration(seconds) == text


# The record


def test_the_record_is_json_and_holds_the_samples(tmp_path):
    comparison = small_run(["naive"])
    path = tmp_path / "record.json"
    record.save(record.as_dict(comparison), path)
    read = json.loads(path.read_text())
    assert (read["schema"], read["version"]) == ("softmax-ce/compare", 1)
    assert read["machine"]["softmax_ce"] == sce.__version__
    (workload,) = read["workloads"]
    assert (workload["rows"], workload["classes"], workload["dtype"]) == (60, 40, "float32")
    base, naive = workload["backends"]
    assert naive["worst_error_over_bound"] is None  # infinite
    assert "NaN or infinite" in naive["rejected"]
    assert naive["operations"] == {}
    entry = comparison.results[0].entries[0]
    assert base["worst_error_over_bound"] == entry.worst
    assert base["operations"]["fused"]["seconds"] == entry.cells["fused"].seconds.tolist()
    assert base["operations"]["fused"]["median"] == entry.cells["fused"].median
    assert base["operations"]["fused"]["speedup"] == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_a_record_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "record.json"
    record.save({"version": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        record.save({"version": 2, "bad": math.nan}, path)
    assert json.loads(path.read_text()) == {"version": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_contamination_is_said_and_recorded():
    machine = {
        "cpu": "a CPU", "cpus_available": 2, "os": "an OS", "python": "3", "softmax_ce": "0",
        "packages": {"numpy": "2", "numba": None}, "backends": [],
    }  # fmt: skip
    comparison = compare.Comparison(Plan(("numpy",)), machine, "2026-01-01")
    comparison.results = [made({"numpy": 1.0})]
    assert not comparison.contaminated
    assert "CONTAMINATED" not in printed(tables.closing(comparison))
    comparison.results += [made({"numpy": 1.0}, drift=1 / 1.04), made({"numpy": 1.0}, others=1.4, crowded=True)]
    assert len(comparison.contaminated) == 2
    said = printed(tables.closing(comparison))
    assert "CONTAMINATED: on made (4.0%), the control differed from itself by more than 3%" in said
    assert "on made (1.4), other programs" in said
    recorded = record.as_dict(comparison)
    assert recorded["contaminated"] is True
    assert [w["drifted"] for w in recorded["workloads"]] == [False, True, False]
    assert [w["crowded"] for w in recorded["workloads"]] == [False, False, True]


def printed(renderable) -> str:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
