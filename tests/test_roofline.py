"""make roofline: goals on times with known answers, the record, tables, figures, and a small run from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import clocks
from softmax_ce_bench import ceilings, peers, timing, workloads
from softmax_ce_bench.report.record import as_text
from softmax_ce_bench.roofline import (
    __main__,
    candidates,
    goals,
    machine,
    plots,
    pool_cost,
    record,
    run,
    sessions,
    tables,
)
from softmax_ce_bench.roofline.candidates import CEILING, Candidate
from softmax_ce_bench.stats import Ratio

ROUNDS = 8
FULL = sessions.Scope(
    backends=("numpy", "numba", "cython"),
    default="cython",
    peers=("torch", "jax", "sklearn"),
    cores=2,
    array_bytes=4 * 32 << 20,
    large_bytes=int(0.97 * (4 * 32 << 20)),
    quick=False,
)


def outcome(session: sessions.Session, seconds: dict[str, float], drift: float = 1.0) -> run.Outcome:
    """A session in which every candidate took the same time in every round."""
    control = np.full(ROUNDS, 1e-3)
    samples = timing.Samples(
        {name: np.full(ROUNDS, taken) for name, taken in seconds.items()},
        dict.fromkeys(seconds, 1),
        (drift * control, control),
        1e-7,
    )
    return run.Outcome(session, samples, {"numba forward": "its loss is 1, right is 2"})


def session_of(key: str) -> sessions.Session:
    return next(session for session in sessions.sessions(FULL) if session.key == key)


@pytest.fixture
def report() -> run.Report:
    """A run of two sessions on a made-up machine, with times that are easy to divide."""
    facts = {
        **run.prepare(run.Plan()).machine,
        "cache_bytes": 32 << 20,
        "array_bytes": FULL.array_bytes,
        "copy": "stream",
        "commit": "abc1234+",
    }
    made = run.Report(run.Plan(seconds=12.0), FULL, facts, "2026-01-02T03:04:05+00:00")
    ceiling = f"{CEILING} {ceilings.best_copy()}"
    times = {"cython fused": 5.5, "cython fused allocating": 9.0, "numba fused": 8.0, ceiling: 5.0}
    made.outcomes.append(outcome(session_of("copy/all/1000"), times | {f"{CEILING} read": 2.0, "cython forward": 3.0}))
    made.outcomes.append(outcome(session_of("copy/all/32768"), times | {"cython fused": 6.0}, drift=1.05))
    for classes, rows in ((1000, 33_554), (32_768, 1024), (10, 10**6)):
        big = {"cython fused": 1.0, "cython fused allocating": 2.0, "numba fused": 1.5, ceiling: 0.9}
        grid = big | {"torch fused": 6.0, "jax fused": 5.0}
        made.outcomes.append(outcome(session_of(f"grid/all/{rows}x{classes}"), grid))
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
    ("key", "ratio", "mark", "off"),
    [
        ("copy/cython/all", Ratio(1.10, 1.08, 1.12), "met", 1.0),
        ("copy/cython/all", Ratio(1.15, 1.12, 1.18), "met?", 1.0),
        ("copy/cython/all", Ratio(1.38, 1.30, 1.50), "missed", 1.2),
        ("copy/cython/all", Ratio(1.20, 1.10, 1.30), "missed?", 1.2 / 1.15),
        ("torch/large/all", Ratio(8.5, 8.1, 9.0), "met", 1.0),
        ("torch/large/all", Ratio(4.0, 3.0, 5.0), "missed", 2.0),
        ("torch/large/all", Ratio(9.0, 0.0, math.inf), "met?", 1.0),
        ("one-row/kernel", Ratio(1.2, 1.2, 1.2), "missed", 2.0),
    ],
)
def test_a_goal_is_met_or_missed_by_a_factor(key: str, ratio: Ratio, mark: str, off: float) -> None:
    goal = goals.BY_KEY[key]
    assert goal.mark(ratio) == mark
    assert goal.off(ratio.median) == pytest.approx(off, rel=1e-12)


def test_the_worst_cell_speaks_for_a_goal(report: run.Report) -> None:
    kept = record.as_dict(report)
    copy = goal_of(kept, "copy/cython/all")
    assert [cell["session"] for cell in copy["cells"]] == ["copy/all/32768", "copy/all/1000"]
    assert [cell["ratio"]["median"] for cell in copy["cells"]] == pytest.approx([1.2, 1.1])
    assert (copy["met"], copy["mark"]) == (1, "missed")
    assert copy["off"] == pytest.approx(1.2 / 1.15)
    assert copy["median"] == pytest.approx(1.15)
    allocated = goal_of(kept, "copy/cython/all", allocating=True)
    assert [cell["ratio"]["median"] for cell in allocated["cells"]] == pytest.approx([1.8, 1.8])
    torch = goal_of(kept, "torch/large/all")
    assert [cell["ratio"]["median"] for cell in torch["cells"]] == pytest.approx([6.0, 6.0])
    assert torch["mark"] == "missed"
    assert torch["off"] == pytest.approx(8 / 6)
    assert goal_of(kept, "jax/short")["cells"][0]["ratio"]["median"] == pytest.approx(5.0)
    assert goal_of(kept, "read/cython")["cells"][0]["ratio"]["median"] == pytest.approx(1.5)
    assert goal_of(kept, "element")["cells"] == []


def test_scaled_and_absolute_ratios() -> None:
    element = session_of("element")
    found = outcome(element, {"cython fused": 4e-4, "cython fused allocating": 5e-4})
    assert [found.ratio(c).median for c in element.comparisons] == pytest.approx([0.4, 0.5])  # ns an element, of 10^6
    options = session_of("options/1000")
    found = outcome(options, {"cython fused": 2.0, "cython soft": 3.0, "cython weight": 3.0})
    ratios = {c.goal: found.ratio(c) for c in options.comparisons}
    assert ratios["option/soft"].median == pytest.approx(1.0)  # three arrays in place of two
    assert ratios["option/weight"].median == pytest.approx(1.5)
    assert ratios["option/z-loss"] is None


# Sessions


def test_every_goal_is_spoken_to_and_every_session_can_be_named() -> None:
    every = sessions.sessions(FULL)
    assert {comparison.goal for session in every for comparison in session.comparisons} == set(goals.BY_KEY)
    assert len({session.key for session in every}) == len(every)
    quick = sessions.sessions(replace(FULL, quick=True))
    assert {comparison.goal for session in quick for comparison in session.comparisons} == set(goals.BY_KEY)
    assert sum(session.weight for session in quick) < sum(session.weight for session in every) / 3
    for session in every:
        names = {str(candidate) for candidate in session.candidates}
        assert len(names) == len(session.candidates)
        for comparison in session.comparisons:
            assert {str(comparison.above), str(comparison.below or comparison.above)} <= names
        assert session.megabytes <= 135


def test_on_one_core_both_settings_are_the_same() -> None:
    alone = sessions.sessions(replace(FULL, cores=1))
    assert {session.threads for session in alone if session.key != "one-row"} == {1}
    spoken = {comparison.goal for session in alone for comparison in session.comparisons}
    assert spoken == set(goals.BY_KEY) - {"few-rows/2", "few-rows/8"}


def test_regions_of_the_grid() -> None:
    assert sessions.regions(FULL, 33_554, 1000, None) == ["any", "large/all"]
    assert sessions.regions(FULL, 33_554, 1000, 1) == ["any", "large/one"]
    assert sessions.regions(FULL, 30_000, 32, 1) == ["any", "short"]
    assert sessions.regions(FULL, 1000, 1000, None) == ["any"]


# Candidates


@pytest.fixture
def stand() -> candidates.Stand:
    workload = workloads.synthetic(sessions.shape(50, 12), "float32")
    truth = candidates.reference.evaluate(workload.logits, workload.targets)
    return candidates.Stand(workload, truth, 1, lambda: 0.0)


OPERATIONS = ["fused", "forward", "defaults", "kernel", "in-place", "soft", "weight", "smoothing", "z-loss"]


@pytest.mark.parametrize("what", [*OPERATIONS, "bfloat16", "float16"])
def test_every_operation_is_judged_right(stand: candidates.Stand, what: str, backend: str) -> None:
    if backend == "naive":
        pytest.skip("it overflows by design")
    for new in (False, True) if what in ("fused", "forward") else (False,):
        sampler, complaint = stand.build(Candidate(backend, what, new))
        assert complaint is None
        assert sampler.sample(1) == 0.0


def test_a_wrong_result_is_not_timed(stand: candidates.Stand) -> None:
    wrong = replace(stand.truth(), loss=stand.truth().loss + 1)
    stand._truths[""] = wrong
    assert "its loss is" in (stand.build(Candidate("numpy"))[1] or "")
    wrong = replace(stand.truth("soft"), grad=stand.truth("soft").grad[::-1])
    stand._truths["soft"] = wrong
    assert "its gradient at row" in (stand.build(Candidate("numpy", "soft"))[1] or "")


# Record, tables, figures


def test_the_record_survives_its_file(report: run.Report, tmp_path: Any) -> None:
    kept = record.as_dict(report)
    (tmp_path / "record.json").write_text(as_text(kept), encoding="utf-8")
    again = json.loads((tmp_path / "record.json").read_text())
    assert again["schema"] == "softmax-ce/roofline"
    assert printed(tables.everything(again)) == printed(tables.everything(kept))
    assert again["sessions"][0]["candidates"]["cython fused"]["seconds"] == [5.5] * ROUNDS


def test_the_tables_say_what_was_found(report: run.Report) -> None:
    report.left_out.append("copy/one/1000")
    shown = " ".join(printed(tables.everything(record.as_dict(report))).split())
    assert "1.20x (1.20–1.20) 1.15 1.10 1 of 2 missed, 1.04x off" in shown
    assert "1.80x (1.80–1.80) 1.80 1.80 0 of 2 missed, 1.57x off" in shown
    assert "copy/all/32768 1.20x (1.20–1.20) cython 6.00 s stream 5.00 s" in shown
    assert "not measured" in shown
    assert "CONTAMINATED: in 1 of 5 sessions the control differed from itself by more than 3%: copy/all/32768." in shown
    assert "numba forward is not timed: its loss is 1, right is 2" in shown
    assert "100 µs 70.0 µs 1.43x (1.40–1.50) 20.0 µs" in shown
    assert "OpenMP: none here" in shown
    assert "so not measured: copy/one/1000" in shown
    assert "abc1234+" in shown
    assert "differs from itself by 0.0% in the median session and 5.0% in the worst" in shown


def test_the_figures_are_drawn(report: run.Report, tmp_path: Any) -> None:
    kept = record.as_dict(report)
    assert [session["classes"] for session in plots.largest(kept, "all")] == [10, 1000, 32_768]
    (path,) = plots.draw(kept, tmp_path / "figures")
    image = plots.plt.imread(path)
    assert path.name == "roofline_all.png"
    assert image.shape[0] > 500
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100
    assert plots._gigabytes(kept["sessions"][2], 1.0) == pytest.approx(2 * 4 * 33_554_000 * 1e-9)
    assert plots._nanoseconds(kept["sessions"][2], 1.0) == pytest.approx(1e9 / 33_554_000)
    kept["sessions"] = kept["sessions"][:2]
    assert plots.draw(kept, tmp_path / "figures") == []


# The machine


def test_the_last_level_cache_is_read(tmp_path: Any) -> None:
    for k, size in enumerate(("48K", "1024K", "32M", "garbage")):
        (tmp_path / f"index{k}").mkdir()
        (tmp_path / f"index{k}" / "size").write_text(f"{size}\n")
    assert machine.last_level_cache(tmp_path) == 32 << 20
    assert machine.last_level_cache(tmp_path / "nothing") is None


def test_a_cache_that_nobody_reports_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    for reported in (None, 1 << 40):  # unknown, or the whole rack's
        monkeypatch.setattr(machine, "last_level_cache", lambda reported=reported: reported)
        assert machine.collect(135.0)["array_bytes"] == 4 * 32 << 20
        assert machine.collect(1.0)["array_bytes"] == 10**6


def test_the_pools_cost_is_measured_or_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_cost.pool, "available_cpus", lambda: 1)
    assert pool_cost.measure(0.0).why_missing == "fewer than 2 CPUs"
    monkeypatch.setattr(pool_cost.pool, "available_cpus", lambda: 2)
    monkeypatch.setattr(pool_cost, "_SETTLE_SECONDS", 0.0)
    found = pool_cost.measure(0.0, most_rounds=1)
    if found.why_missing is None:
        assert len(found.rows) == len(pool_cost.MICROSECONDS)
        assert all(row["work"] > 0 and row["pool"] > 0 for row in found.rows)
    monkeypatch.setattr(pool_cost.shutil, "which", lambda name: None)
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
        fixed = ("--quick", "--array-mb", "0.5", "--time-budget", "30")
        return CliRunner().invoke(__main__.main, [*fixed, *map(str, arguments)])

    return invoke


def test_a_small_run_from_end_to_end(small: Any, tmp_path: Any) -> None:
    result = small("--json", tmp_path / "record.json", "--plots", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    assert {s["key"].partition("/")[0] for s in kept["sessions"]} >= {"copy", "float64", "16-bit", "options", "grid"}
    assert all(not session["rejected"] for session in kept["sessions"])
    assert kept["left_out"] == []
    grid = next(s for s in kept["sessions"] if s["key"].startswith("grid/") and s["complete"])
    assert {"numpy fused", "scipy fused", "numpy-written fused"} <= set(grid["candidates"])
    assert "PyTorch is not installed: no_such_module. To get it: make peers, or" in " ".join(result.output.split())
    assert (tmp_path / "figures" / "roofline_all.png").stat().st_size > 10_000
    assert max(map(len, result.stdout.splitlines())) <= __main__.WIDTH + len(str(tmp_path)) + 40


def test_without_the_compiled_loops_the_rest_is_measured(
    small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(ceilings, "why_unavailable", "no C compiler: cc not found")
    result = small("--only", "copy/all/*", "--only", "16-bit/*", "--json", tmp_path / "record.json")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    names = {name for session in kept["sessions"] for name in session["candidates"]}
    assert "numpy" not in names
    assert not any(name.startswith(CEILING) for name in names)
    assert "The copy and read loops are not available: no C compiler: cc not found" in result.output


def test_an_interrupt_leaves_what_was_measured(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__._Narrator, "measured", interrupted)
    result = small("--only", "16-bit/*", "--only", "options/*", "--json", tmp_path / "record.json")
    assert result.exit_code == __main__.INTERRUPTED
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [session["key"] for session in kept["sessions"]] == ["16-bit/4096"]
    assert "Interrupted. What is shown above is complete up to the last session." in result.output


def test_when_the_time_is_up_the_rest_is_named(small: Any, tmp_path: Any) -> None:
    result = small(
        "--only", "16-bit/*", "--only", "options/*", "--time-budget", "0", "--json", tmp_path / "record.json"
    )
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [session["key"] for session in kept["sessions"]] == ["16-bit/4096"]
    assert kept["left_out"] == ["options/1000"]


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
    assert "options/1000  " in result.stdout
