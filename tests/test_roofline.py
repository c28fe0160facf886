"""make roofline: goals on times with known answers, the record, tables, figures, and a small run from end to end."""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import pyplot as plt
from rich.console import Console

import clocks
import softmax_ce as sce
from helpers import known
from softmax_ce import threads as pool
from softmax_ce import tuning
from softmax_ce.choice import fingerprint
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.measure import operations, timing
from softmax_ce_bench.measure.stats import Ratio
from softmax_ce_bench.report.record import as_text
from softmax_ce_bench.terminal.group import INTERRUPTED
from softmax_ce_bench.truth import reference
from tools.roofline import (
    __main__,
    axes,
    candidates,
    goals,
    isa,
    machine,
    plots,
    pool_cost,
    record,
    run,
    sessions,
    tables,
)
from tools.roofline.candidates import CEILING, TimedCall

ROUNDS = 8
FULL = sessions.Scope(
    backends=("numpy", "numba", "cython"),
    default="cython",
    peers=("torch", "jax", "sklearn", "numpy-written"),
    cores=2,
    array_bytes=4 * 32 << 20,
    large_bytes=int(0.97 * (4 * 32 << 20)),
    quick=False,
)


def outcome(session: sessions.Session, seconds: dict[str, float], drift: float = 1.0) -> run.SessionResult:
    """A session in which every candidate took the same time in every round."""
    control = np.full(ROUNDS, 1e-3)
    samples = timing.Samples(
        {name: np.full(ROUNDS, taken) for name, taken in seconds.items()},
        dict.fromkeys(seconds, 1),
        (drift * control, control),
        1e-7,
    )
    return run.SessionResult(session, samples, {"numba forward": "its loss is 1, right is 2"})


def session_of(key: str) -> sessions.Session:
    return next(session for session in sessions.sessions(FULL) if session.key == key)


@pytest.fixture
def report() -> run.RooflineRun:
    """A run of two sessions on a made-up machine, with times that are easy to divide."""
    facts = {
        **run.prepare(run.RooflineRequest()).machine,
        "cache_bytes": 32 << 20,
        "array_bytes": FULL.array_bytes,
        "copy": "stream",
        "commit": "abc1234+",
        "isa": "avx2",
    }
    made = run.RooflineRun(run.RooflineRequest(seconds=12.0), FULL, facts, "2026-01-02T03:04:05+00:00")
    ceiling = f"{CEILING} {ceilings.best_copy()}"
    limits = {ceiling: 5.0, f"{CEILING} read": 2.0}
    own = {"cython fused": 5.5, "cython fused allocating": 9.0, "numba fused": 8.0, "cython forward": 3.0}
    peers_times = {"torch fused": 60.0, "jax fused": 33.0, "sklearn fused": 20.0}
    made.outcomes.append(outcome(session_of("grid/all/33000x1021"), own | limits | peers_times))
    slower = own | limits | peers_times | {"cython fused": 6.5}
    made.outcomes.append(outcome(session_of("grid/all/1051x31999"), slower, drift=1.05))
    small = {"cython fused": 1.0, "cython fused allocating": 2.0, "numba fused": 1.5, "torch fused": 6.0}
    made.outcomes.append(outcome(session_of("grid/all/150001x10"), small | {"jax fused": 5.0}))
    for case, taken in zip([s for s in sessions.sessions(FULL) if s.key.startswith("axis/")], (3.0, 0.5, 0.9),
                           strict=False):  # fmt: skip
        made.outcomes.append(outcome(case, {str(case.candidates[0]): taken, "cython moved": 1.0}))
    made.pool = pool_cost.PoolCost(
        rows=({"work": 1e-4, "pool": 7e-5, "pool_speedup": Ratio(1.43, 1.4, 1.5)},), why_no_openmp="none here"
    )
    return made


def goal_of(kept: dict[str, Any], key: str, allocating: bool = False) -> dict[str, Any]:
    return next(goal for goal in kept["goals"] if goal["key"] == key and goal["allocating"] == allocating)


def printed(what: Any) -> str:
    console = Console(width=120, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


# Goals


@pytest.mark.parametrize(
    ("key", "isa", "ratio", "mark", "off"),
    [
        ("copy/all", "avx2", Ratio(1.20, 1.18, 1.22), "met", 1.0),
        ("copy/all", "avx512", Ratio(1.20, 1.18, 1.22), "missed", 1.2 / 1.15),
        ("copy/all", "neon", Ratio(1.25, 1.22, 1.28), "met?", 1.0),
        ("copy/all", "avx2", Ratio(1.5, 1.4, 1.6), "missed", 1.2),
        ("torch/large", "avx2", Ratio(12.5, 12.1, 13.0), "met", 1.0),
        ("torch/large", "avx512", Ratio(12.5, 12.1, 13.0), "missed", 1.6),
        ("torch/large", "avx2", Ratio(13.0, 0.0, math.inf), "met?", 1.0),
        ("element/10", "avx512", Ratio(0.6, 0.6, 0.6), "missed", 2.0),
        ("element/10", "avx2", Ratio(0.6, 0.6, 0.6), "met", 1.0),
    ],
)
def test_a_goal_is_met_or_missed_by_a_factor(key: str, isa: str, ratio: Ratio, mark: str, off: float) -> None:
    goal = goals.BY_KEY[key]
    assert goal.mark(ratio, isa) == mark
    assert goal.off(ratio.median, isa) == pytest.approx(off, rel=1e-12)


def test_the_worst_cell_speaks_for_a_goal(report: run.RooflineRun) -> None:
    kept = record.as_dict(report)
    copy = goal_of(kept, "copy/all")
    assert [cell["session"] for cell in copy["cells"]] == ["grid/all/1051x31999", "grid/all/33000x1021"]
    assert [cell["ratio"]["median"] for cell in copy["cells"]] == pytest.approx([1.3, 1.1])
    assert (copy["met"], copy["mark"], copy["isa"], copy["goal"]) == (1, "missed", "avx2", "≤ 1.25x")
    assert copy["off"] == pytest.approx(1.3 / 1.25)
    assert copy["median"] == pytest.approx(1.2)
    allocated = goal_of(kept, "copy/all", allocating=True)
    assert [cell["ratio"]["median"] for cell in allocated["cells"]] == pytest.approx([1.8, 1.8])
    torch = goal_of(kept, "torch/large")
    assert [cell["ratio"]["median"] for cell in torch["cells"]] == pytest.approx([60 / 6.5, 60 / 5.5])
    assert torch["mark"] == "missed"
    assert torch["off"] == pytest.approx(12 / (60 / 6.5))
    assert goal_of(kept, "jax/short")["cells"][0]["ratio"]["median"] == pytest.approx(5.0)
    assert goal_of(kept, "sklearn")["cells"][0]["ratio"]["median"] == pytest.approx(20 / 6.5)
    assert goal_of(kept, "numba")["met"] == 1
    assert goal_of(kept, "cython")["met"] == 3
    assert goal_of(kept, "element/10")["cells"] == []


def test_the_median_cell_speaks_for_another(report: run.RooflineRun) -> None:
    kept = record.as_dict(report)
    worst, median = goal_of(kept, "axis/worst"), goal_of(kept, "axis/median")
    assert [cell["ratio"]["median"] for cell in worst["cells"]] == pytest.approx([3.0, 0.9, 0.5])
    assert (worst["mark"], worst["off"]) == ("missed", pytest.approx(2.0))
    assert (median["mark"], median["off"]) == ("met", 1.0)


def test_the_same_record_on_another_instruction_set(report: run.RooflineRun) -> None:
    report.machine["isa"] = "avx512"
    kept = record.as_dict(report)
    assert {goal["isa"] for goal in kept["goals"]} == {"avx512"}
    assert goal_of(kept, "torch/large")["goal"] == "≥ 20x"
    assert goal_of(kept, "copy/all")["limits"] == {"avx2": 1.25, "avx512": 1.15}
    assert goal_of(kept, "written/hundred")["limit"] == 4


def test_scaled_and_absolute_ratios() -> None:
    element = session_of("element/10")
    found = outcome(element, {"cython fused": 4e-4, "cython fused allocating": 5e-4})
    assert [known(found.ratio(c)).median for c in element.comparisons] == pytest.approx(
        [0.4, 0.5]
    )  # ns an element, of 10^6
    options = session_of("bytes/1021")
    found = outcome(options, {"cython fused": 2.0, "cython soft": 3.0, "cython weight": 3.0})
    ratios = {c.goal: found.ratio(c) for c in options.comparisons}
    assert known(ratios["byte/soft"]).median == pytest.approx(1.0)  # three arrays in place of two
    assert known(ratios["byte/weight"]).median == pytest.approx(1.5)
    assert ratios["byte/z-loss"] is None


# Sessions


def test_every_goal_is_spoken_to_and_every_session_can_be_named() -> None:
    every = sessions.sessions(FULL)
    assert {comparison.goal for session in every for comparison in session.comparisons} == set(goals.BY_KEY)
    assert len({session.key for session in every}) == len(every)
    quick = sessions.sessions(replace(FULL, quick=True))
    spoken = {comparison.goal for session in quick for comparison in session.comparisons}
    assert spoken == set(goals.BY_KEY)
    assert sum(session.weight for session in quick) < sum(session.weight for session in every) / 2
    for session in every:
        names = {str(candidate) for candidate in session.candidates}
        assert len(names) == len(session.candidates)
        for comparison in session.comparisons:
            assert {str(comparison.above), str(comparison.below or comparison.above)} <= names
        assert session.megabytes <= 140


def test_on_one_core_both_settings_are_the_same() -> None:
    alone = sessions.sessions(replace(FULL, cores=1))
    assert {session.threads for session in alone if not session.key.startswith(("written-out", "axis"))} == {1}
    assert {comparison.goal for session in alone for comparison in session.comparisons} == set(goals.BY_KEY)


def test_regions_of_the_grid() -> None:
    assert sessions.region(33_000, 1021, True) == "large"
    assert sessions.region(300, 1013, False) == "cached"
    assert sessions.region(30_011, 31, False) == "short"
    assert sessions.region(1024, 100, False) == sessions.region(1797, 10, False) == "other"
    spoken = {session.key: {c.goal for c in session.comparisons} for session in sessions.sessions(FULL)}
    assert spoken["grid/one/33000x1021"] == {
        "copy/one", "numba", "cython", "torch/large", "jax/large", "sklearn", "written/large", "numpy",
    }  # fmt: skip
    assert spoken["grid/all/150001x10"] == {"numba", "cython", "torch/short", "jax/short", "sklearn"}
    assert "written/hundred" in spoken["grid/one/64x100"]
    assert "written/short" in spoken["grid/one/1797x10"]
    assert not {goal for goal in spoken["grid/one/40x7"] if goal.startswith(("written", "numpy"))}
    assert "numpy/one" in spoken["grid/one/1x10"]


def test_large_cells_fill_the_array_whatever_the_cache_is() -> None:
    twice = replace(FULL, array_bytes=2 * FULL.array_bytes, large_bytes=2 * FULL.large_bytes)
    large = [s for s in sessions.sessions(twice) if s.key.startswith("grid/all/") and s.megabytes > 200]
    assert {s.shape.classes: s.shape.rows for s in large} == {1021: 66_000, 31_999: 2102, 128_256: 540}
    tiny = sessions.sessions(replace(FULL, array_bytes=10**6, large_bytes=970_000))
    assert max(s.elements for s in tiny if s.key.startswith("grid/")) * 4 <= 1.05 * 10**6


# Candidates


@pytest.fixture
def shared() -> candidates.SharedWorkload:
    workload = workloads.synthetic(sessions.shape(50, 12), "float32")
    truth = reference.evaluate(workload.logits, workload.targets)
    return candidates.SharedWorkload(workload, truth, 1, lambda: 0.0)


@pytest.mark.parametrize("what", [*operations.TABLE, *candidates.OPTIONS, "masked"])
def test_every_operation_is_judged_right(shared: candidates.SharedWorkload, what: str, backend: str) -> None:
    if backend == "naive":
        pytest.skip("it overflows by design")
    for new in (False, True):
        sampler, complaint = shared.build(TimedCall(backend, what, new))
        assert complaint is None
        assert sampler.sample(1) == 0.0


@pytest.mark.parametrize("what", ["bare", "written-out"])
def test_the_bare_call_and_its_twin_are_judged_right(shared: candidates.SharedWorkload, what: str) -> None:
    sampler, complaint = shared.build(TimedCall("numpy", what, threads=2))
    assert complaint is None
    assert sampler.sample(1) == 0.0


def test_what_is_written_out_is_every_option_at_its_default() -> None:
    known = inspect.signature(sce.cross_entropy_with_grad).parameters.values()
    defaults = {p.name: p.default for p in known if p.kind is p.KEYWORD_ONLY and p.name != "threads"}
    assert {name: defaults[name] for name in candidates.WRITTEN_OUT} == candidates.WRITTEN_OUT


def test_a_wrong_result_is_not_timed(shared: candidates.SharedWorkload) -> None:
    wrong = replace(shared.truth(), loss=shared.truth().loss + 1)
    shared._truths[""] = wrong
    assert "its loss is" in (shared.build(TimedCall("numpy"))[1] or "")
    wrong = replace(shared.truth("soft"), grad=shared.truth("soft").grad[::-1])
    shared._truths["soft"] = wrong
    assert "its gradient at row" in (shared.build(TimedCall("numpy", "soft"))[1] or "")
    assert "its result at row" in (shared._complaint("softmax", shared.workload.logits) or "")


@pytest.mark.parametrize("operation", [*operations.LOSSES, *operations.NORMALIZERS])
@pytest.mark.parametrize(("dtype", "kept"), [("float32", None), ("float16", None), ("float64", 3)])
def test_the_class_axis_is_judged_right_wherever_it_is(operation: str, dtype: str, kept: int | None) -> None:
    case = axes.AxisCase((4, 5, 3, 2), 1, dtype, operation, kept)
    assert case.flat.rows == 24
    shared = axes.AxisWorkload(case, 1, lambda: 0.0)
    for what in (operation, "moved", "last axis"):
        sampler, complaint = shared.build(TimedCall("numpy", what))
        assert complaint is None
        assert sampler.sample(1) == 0.0
    if operation != "logsumexp":
        return
    wrong: Any = shared.build(TimedCall("numpy", "moved"))[0].run()
    assert "its result at row" in (shared._complaint(wrong + 1, 1) or "")


def test_an_axis_case_is_cut_to_what_there_is_room_for() -> None:
    case = axes.AxisCase((100, 5, 2), 1)
    assert case.within(4000) is case
    assert case.within(1000).shape == (25, 5, 2)
    assert case.within(1).shape == (1, 5, 2)
    assert axes.AxisCase((5, 100), 0).within(1).shape == (5, 100)


# Instruction sets


def test_everybody_is_held_to_avx2_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    held = isa.variables("avx2", {"XLA_FLAGS": "--xla_cpu_max_isa=AVX512 --xla_dump_to=/tmp"})
    assert (held["SOFTMAX_CE_ISA"], held["ATEN_CPU_CAPABILITY"]) == ("avx2", "avx2")
    assert held["XLA_FLAGS"] == "--xla_dump_to=/tmp --xla_cpu_max_isa=AVX2"
    assert not {word for word in held["NPY_DISABLE_CPU_FEATURES"].split() if word == "AVX2" or word == "X86_V3"}
    if "NUMBA_CPU_FEATURES" in held:
        assert "+avx512" not in held["NUMBA_CPU_FEATURES"]
        assert "-avx512f" in held["NUMBA_CPU_FEATURES"].split(",")
    assert isa.missing("avx2", held) == {}
    assert isa.in_use(held) == "avx2"
    assert isa.variables("avx512") == {"SOFTMAX_CE_ISA": "avx512"}
    monkeypatch.setattr(fingerprint, "instruction_sets", lambda: ("avx2", "fma", "avx512f", "avx512bw"))
    assert isa.supported() == ("avx2", "baseline")
    monkeypatch.setattr(fingerprint, "instruction_sets", lambda: ("asimd",))
    assert isa.supported() == ("neon", "baseline")


def test_what_can_be_had_beyond_avx2_is_off_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    core = import_module("numpy._core._multiarray_umath")
    fake = type("core", (), {
        "__cpu_dispatch__": ["X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR"],
        "__cpu_features__": {"X86_V3": True, "X86_V4": True, "AVX512_ICL": True, "AVX512_SPR": False},
    })  # fmt: skip
    monkeypatch.setattr(isa, "import_module", lambda name: fake if name.startswith("numpy") else core)
    assert isa._beyond_avx2_in_numpy() == "X86_V4 AVX512_ICL"


def test_the_command_starts_itself_anew_with_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(isa, "supported", lambda: ("avx2", "baseline"))

    def execve(*given: Any) -> None:
        started.append(given)
        raise SystemExit  # it never returns

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(subprocess, "run", lambda *given, **_: pytest.fail("two processes"))
    monkeypatch.setattr(sys, "argv", ["roofline", "--isa", "avx2", "--quick"])
    monkeypatch.delenv("SOFTMAX_CE_ISA", raising=False)
    if os.name == "posix":
        with pytest.raises(SystemExit):
            __main__.hold_to("avx2")
        ((program, command, environment),) = started[:1]
        assert command == [program, "-m", "tools.roofline", "--isa", "avx2", "--quick"]
        assert environment["SOFTMAX_CE_ISA"] == "avx2"
    for name, value in isa.variables("avx2").items():
        monkeypatch.setenv(name, value)
    started.clear()
    __main__.hold_to("avx2")
    assert not started
    result = CliRunner().invoke(__main__.main, ["--isa", "avx512"])
    assert result.exit_code == 2
    assert "this CPU cannot run avx512; it can run avx2, baseline" in " ".join(result.output.replace("│", "").split())


# Record, tables, figures


def test_the_record_survives_its_file(report: run.RooflineRun, tmp_path: Any) -> None:
    kept = record.as_dict(report)
    (tmp_path / "record.json").write_text(as_text(kept), encoding="utf-8")
    again = json.loads((tmp_path / "record.json").read_text())
    assert again["schema"] == "softmax-ce/roofline"
    assert printed(tables.everything(again)) == printed(tables.everything(kept))
    assert again["version"] == record.SCHEMA_VERSION == 2
    assert again["sessions"][0]["candidates"]["cython fused"]["seconds"] == [5.5] * ROUNDS


def test_the_tables_say_what_was_found(report: run.RooflineRun) -> None:
    report.left_out.append("grid/one/1024x1000")
    shown = " ".join(printed(tables.everything(record.as_dict(report))).split())
    assert "avx2 ≤ 1.25x 1.30x (1.30–1.30) 1.20 1.10 1 of 2 missed, 1.04x off" in shown
    assert "avx2 ≤ 1.25x 1.80x (1.80–1.80) 1.80 1.80 0 of 2 missed, 1.44x off" in shown
    assert "grid/all/1051x31999 1.30x cython 6.50 s stream 5.00 s" in shown
    assert "class axis anywhere" in shown
    assert "Instruction set (ISA): avx2; this CPU can run" in shown
    assert "softmax-ce gate COMMIT" in shown
    assert "not measured" in shown
    assert "CONTAMINATED: in 1 of 6 sessions the control differed from itself by more than 3%: grid/all/1051x" in shown
    assert "numba forward is not timed: its loss is 1, right is 2" in shown
    assert "100 µs 70.0 µs 1.43x (1.40–1.50) 20.0 µs" in shown
    assert "OpenMP: none here" in shown
    assert "Not measured, since the time was up (--time-budget): grid/one/1024x1000" in shown
    assert "abc1234+" in shown
    assert "differs from itself by 0.0% in the median session and 5.0% in the worst" in shown


def test_the_figures_are_drawn(report: run.RooflineRun, tmp_path: Any) -> None:
    kept = record.as_dict(report)
    assert [session["classes"] for session in plots.largest(kept, "all")] == [10, 1021, 31_999]
    (path,) = plots.draw(kept, tmp_path / "figures")
    image = plt.imread(path)
    assert path.name == "roofline_all.png"
    assert image.shape[0] > 500
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100
    assert plots._gigabytes(kept["sessions"][0], 1.0) == pytest.approx(2 * 4 * 33_693_000 * 1e-9)
    assert plots._nanoseconds(kept["sessions"][0], 1.0) == pytest.approx(1e9 / 33_693_000)
    kept["sessions"] = kept["sessions"][:1]
    assert plots.draw(kept, tmp_path / "figures") == []


# The machine


def test_the_last_level_cache_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    for reported, largest in (({1: 32 << 10, 3: 32 << 20, 2: 1 << 20}, 32 << 20), ({}, None)):
        monkeypatch.setattr(tuning, "reported_caches", lambda reported=reported: reported)
        assert machine.last_level_cache() == largest


def test_a_cache_that_nobody_reports_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    for reported in (None, 1 << 40):  # unknown, or the whole rack's
        monkeypatch.setattr(machine, "last_level_cache", lambda reported=reported: reported)
        assert machine.collect(135.0)["array_bytes"] == 4 * 32 << 20
        assert machine.collect(1.0)["array_bytes"] == 10**6


def test_the_pools_cost_is_measured_or_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "available_cpus", lambda: 1)
    assert pool_cost.measure(0.0).why_missing == "fewer than 2 CPUs"
    monkeypatch.setattr(pool, "available_cpus", lambda: 2)
    monkeypatch.setattr(pool_cost, "_SETTLE_SECONDS", 0.0)
    found = pool_cost.measure(0.0, most_rounds=1)
    if found.why_missing is None:
        assert len(found.rows) == len(pool_cost.MICROSECONDS)
        assert all(row["work"] > 0 and row["pool"] > 0 for row in found.rows)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert pool_cost.measure(0.0).why_missing == "no C compiler (gcc or clang)"


# From end to end, small


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command on tiny arrays, on a quiet machine of two CPUs, and without the libraries that take seconds to
    import."""
    clock = clocks.quiet_machine(monkeypatch)
    monkeypatch.setattr(run, "run", partial(run.run, clock=clock))
    monkeypatch.setattr(run, "available_cpus", lambda: 2)
    without = tuple(peer for peer in peers.PEERS if peer.name in ("numpy-written", "scipy"))
    monkeypatch.setattr(peers, "PEERS", (*without, replace(peers.BY_NAME["torch"], modules=("no_such_module",))))
    whole = timing.measure
    short = {"most_rounds": 2}
    monkeypatch.setattr(timing, "measure", lambda *sides, **options: whole(*sides, **(options | short)))
    monkeypatch.setattr(pool_cost, "_SETTLE_SECONDS", 0.0)
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments: Any) -> Any:
        fixed = ("--quick", "--array-mb", "0.5", "--time-budget", "600")  # the rounds end it long before
        return CliRunner().invoke(__main__.main, [*fixed, *map(str, arguments)])

    return invoke


def test_a_small_run_from_end_to_end(small: Any, tmp_path: Any) -> None:
    result = small("--json", tmp_path / "record.json", "--plots", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    assert {s["key"].partition("/")[0] for s in kept["sessions"]} == {
        "grid", "bytes", "16-bit", "options", "normalizers", "axis", "written-out", "element", "segmentation",
    }  # fmt: skip
    assert all(not session["rejected"] for session in kept["sessions"])
    assert kept["left_out"] == []
    names = {name for session in kept["sessions"] for name in session["candidates"]}
    assert {"numpy fused", "numpy-written fused", "scipy log_softmax"} <= names
    assert "PyTorch is not installed: no_such_module. To get it: make peers, or" in " ".join(result.output.split())
    assert (tmp_path / "figures" / "roofline_all.png").stat().st_size > 10_000
    assert max(map(len, result.stdout.splitlines())) <= __main__.WIDTH + len(str(tmp_path)) + 40


def test_without_the_compiled_loops_the_rest_is_measured(
    small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(ceilings, "why_unavailable", "no C compiler: cc not found")
    result = small("--only", "grid/all/*", "--only", "16-bit/*", "--json", tmp_path / "record.json")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    names = {name for session in kept["sessions"] for name in session["candidates"]}
    assert not any(name.startswith(CEILING) for name in names)
    assert "The copy and read loops are not available: no C compiler: cc not found" in result.output


def test_an_interrupt_leaves_what_was_measured(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__._RooflineProgress, "measured", interrupted)
    result = small("--only", "bytes/*", "--only", "16-bit/*", "--json", tmp_path / "record.json")
    assert result.exit_code == INTERRUPTED
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [session["key"] for session in kept["sessions"]] == ["16-bit/1021"]
    assert "Interrupted. What is shown above is complete up to the last session." in result.output


def test_when_the_time_is_up_the_rest_is_named(small: Any, tmp_path: Any) -> None:
    result = small("--only", "bytes/*", "--only", "16-bit/*", "--time-budget", "0", "--json", tmp_path / "record.json")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [session["key"] for session in kept["sessions"]] == ["16-bit/1021"]
    assert kept["left_out"] == ["bytes/1021"]


def test_a_folder_that_is_not_there_is_said_before_anything_is_measured(small: Any, tmp_path: Any) -> None:
    result = small("--json", tmp_path / "missing" / "record.json")
    assert result.exit_code == 2
    assert "there is no folder" in " ".join(result.output.split())


def test_a_glob_that_matches_nothing_is_refused(small: Any) -> None:
    result = small("--only", "coppy/*")
    assert result.exit_code == 2
    assert "no session matches coppy/*; --list shows them" in " ".join(result.output.split())


def test_listing_measures_nothing(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("it measured"))
    result = small("--list")
    assert result.exit_code == 0
    assert "options/64x10  " in result.stdout
