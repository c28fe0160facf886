"""The gate's credentials: what is changed in a build, what is run next, what is counted, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import known
from softmax_ce_bench.gate import builds, cells, decision
from softmax_ce_bench.gate.decision import Verdict
from softmax_ce_bench.gate.session import BuildError
from tools.gate_credentials import page
from tools.gate_credentials.arms import ALIKE, ARMS, BUILDS, LEVELS, Arm, following, work
from tools.gate_credentials.mutants import BROKEN, REALISTIC
from tools.gate_credentials.store import GateRun, Store, StoreError
from tools.gate_credentials.summary import Rate, summarize

ROOT = Path(__file__).resolve().parents[1]
CELLS = [cell.text for cell in cells.of(["numpy", "numba", "cython"])]
ABOUT = {
    "commit": "c" * 40,
    "cpu": "a CPU",
    "cpus": 2,
    "python": "3.11",
    "packages": {"numpy": "2"},
    "settings": {"rounds": 16},
}


@pytest.mark.parametrize("edit", [edit for edits in (*BUILDS.values(), BROKEN) for edit in edits], ids=lambda e: e.file)
def test_every_change_still_applies_to_the_sources(edit, tmp_path):
    target = tmp_path / edit.file
    target.parent.mkdir(parents=True, exist_ok=True)
    before = (ROOT / edit.file).read_text(encoding="utf-8")
    target.write_text(before, encoding="utf-8")
    builds.apply(edit, tmp_path)
    after = target.read_text(encoding="utf-8")
    assert after != before
    assert edit.new in after


def test_a_change_that_does_not_apply_is_an_error(tmp_path):
    (tmp_path / "a").write_text("x x")
    for old in ("x", "y"):
        with pytest.raises(BuildError, match="not once"):
            builds.apply(builds.Edit("a", old, "z"), tmp_path)


def test_injected_python_work_is_the_share_of_the_rows_that_it_says(monkeypatch):
    monkeypatch.setenv("SOFTMAX_CE_EXTRA_WORK", "0.05")
    (edit,) = (edit for edit in BUILDS["extra"] if edit.file.endswith("shifted.py"))
    rows = []
    module = {"hard": lambda *arguments: rows.append(arguments[-1] - arguments[-2])}
    exec(edit.new, module)
    for _ in range(400):
        module["hard"]("anything", 0, 1)
    for _ in range(10):
        module["hard"]("anything", 10, 1010)
    assert sum(rows) == pytest.approx(1.05 * (400 + 10 * 1000), abs=2)


def test_every_build_has_a_name_of_one_length():
    assert len({len(name) for name in BUILDS}) == 1


def test_every_mutant_concerns_some_cells_and_no_other_backends():
    for mutant in (mutant for group in REALISTIC for mutant in group):
        concerned = [cell for cell in CELLS if mutant.concerns(cell)]
        assert concerned
        assert mutant.backend in ("", *{cell.split()[0] for cell in concerned})
        assert not mutant.backend or len({cell.split()[0] for cell in concerned}) == 1


def test_what_is_furthest_behind_comes_next_until_all_is_done():
    arms = (Arm("many", "a", "b", 6), Arm("few", "a", "b", 2))
    done: dict[str, int] = {}
    order = []
    while (arm := following(done, arms)) is not None:
        order.append(arm.name)
        done[arm.name] = done.get(arm.name, 0) + 1
    assert order == ["many", "few", "many", "many", "many", "few", "many", "many"]
    assert known(following(done, arms, scale=2)).name == "many"


def test_the_planned_runs_are_as_many_as_are_promised():
    assert sum(arm.runs for arm in ARMS if arm.name == ALIKE) >= 30
    assert all(arm.runs >= 10 for arm in ARMS if arm.head != "clone" and arm.base == "clean" and not arm.loaded)
    assert {arm.share for arm in ARMS} >= set(LEVELS)


def a_run(arm, ratio, rng, verdict=Verdict.SAME, exit_code=0):
    logs = {cell: rng.normal(np.log(ratio), 0.01, decision.ROUNDS) for cell in CELLS}
    return GateRun(arm, exit_code, 1.0, 20.0, 0.0, False, logs, dict.fromkeys(CELLS, str(verdict)))


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    found = [a_run(ALIKE, 1.0, rng) for _ in range(30)]
    for share in LEVELS:
        verdict = Verdict.SLOWER if share >= 0.1 else Verdict.SAME
        found += [a_run(work(share), 1 + share, rng, verdict, int(share >= 0.1)) for _ in range(10)]
    for k in (1, 2):
        found += [a_run(f"mutants {k}", 1.3, rng, Verdict.SLOWER, 1) for _ in range(10)]
    return found


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 30, 0, 0.11570), (10, 10, 0.69150, 1), (3, 20, 0.03207, 0.37893)],  # tables of Clopper and Pearson
)
def test_rates_have_exact_intervals(count, of, low, high):
    rate = Rate(count, of)
    assert rate.value == count / of
    np.testing.assert_allclose(rate.interval, (low, high), atol=1e-5)


def test_the_summary_counts_what_happened(runs):
    found = summarize(runs, resampled=400)
    by_name = {outcome.arm.name: outcome for outcome in found.outcomes}
    assert (by_name[ALIKE].slower, by_name[work(0.5)].slower) == (Rate(0, 30), Rate(10, 10))
    assert found.alike.size == 30 * len(CELLS)
    assert found.false_alarms == Rate(0, 400)
    assert {(each.what, each.share): each.real for each in found.by_level}["all cells", 0.2] == Rate(360, 360)
    assert len(found.by_backend) == 4 * 9
    levels = {each.share: each for each in found.by_level}
    np.testing.assert_allclose(levels[0.2].ratio, 1.2, rtol=0.01)
    assert levels[0.05].worst > 0.95
    assert levels[0.1].worst > 0.99
    assert found.unsure.value < 0.05
    curve = {round(slowdown, 3): (median, worst) for slowdown, median, worst in found.curve}
    assert list(curve[0.0]) == [0, 0]
    assert curve[0.1][1] > 0.95
    assert all(worst <= median for median, worst in curve.values())


def test_a_bad_instrument_does_not_get_good_credentials(runs):
    rng = np.random.default_rng(1)
    noisy = [
        GateRun(run.arm, run.exit, run.control, run.seconds, 0.0, False,
            {cell: rng.normal(0.3, 0.5, 16) for cell in CELLS}, run.verdicts)
        for run in runs if run.arm == ALIKE
    ]  # fmt: skip
    found = summarize(noisy, resampled=400)
    assert found.false_alarms.value > 0.01
    assert dict((round(s, 3), w) for s, _, w in found.curve)[0.1] < 0.5


def test_disturbed_runs_are_counted_apart(runs):
    other = [replace(run, disturbed=True) for run in runs[:3]]
    found = summarize([*runs, *other], resampled=100)
    assert found.disturbed == 3
    assert {outcome.arm.name: outcome for outcome in found.outcomes}[ALIKE].slower.of == 30


def test_the_page_gets_the_figures_between_its_marks(runs, tmp_path):
    target = tmp_path / "gate.md"
    target.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    found = summarize(runs, resampled=100)
    for _ in range(2):  # it can be written again
        page.publish(found, ABOUT, "2026-01-02", "gcc said no", target)
    text = target.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{page.BEGIN}")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text
    assert "0 of 30" in text
    assert "360 of 360" in text
    assert "gcc said no" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.rstrip().endswith("|") for line in tables)
    for name in ("gate_alike.svg", "gate_power.svg"):
        assert "<svg" in (tmp_path / "figures" / name).read_text(encoding="utf-8")
    target.write_text("no marks", encoding="utf-8")
    with pytest.raises(page.PageError, match="once each"):
        page.publish(found, ABOUT, "2026-01-02", "", target)


def test_a_store_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "runs.jsonl"
    store = Store(path, ABOUT)
    assert store.counts() == {}
    with path.open("a", encoding="utf-8") as file:
        file.write('{"arm": "A/A", "exit": 0, "cont')  # somebody pulled the plug
    assert Store(path, ABOUT).runs() == []
    with pytest.raises(StoreError, match="another commit"):
        Store(path, {**ABOUT, "commit": "d" * 40})
