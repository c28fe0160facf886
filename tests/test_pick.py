"""Picking: who wins a cell, what ties do, who may not win, what is written, and what is found when it is checked."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from functools import partial
from importlib import metadata
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import clocks
import profiles
import softmax_ce as sce
import wrong_backends
from helpers import known, run_python
from softmax_ce import profile, registry
from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile import files
from softmax_ce.choice.profile.format import FORMAT, MOST_DISTINCT
from softmax_ce_bench import cli, compare
from softmax_ce_bench import pick as picking
from softmax_ce_bench.compare.request import RequestError, of_shapes
from softmax_ce_bench.compare.result import (
    CallOptions,
    CellOperation,
    ComparedCell,
    Control,
    Entry,
    Inputs,
    Run,
    Timing,
)
from softmax_ce_bench.conformance import harness
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.pick import figures, grids, recheck, regret
from softmax_ce_bench.pick import run as session
from softmax_ce_bench.pick.decision import Evidence, Undecided, decide
from softmax_ce_bench.pick.request import MaxError, PickRequest, simplest_first
from softmax_ce_bench.truth.errors import Errors
from test_outputs import Reader
from tools import pick_validation as validation

MS = 1e-3
OPERATIONS = ("forward", "backward", "fused")
ERRORS = Errors(over_bound=0.5, loss_over_bound=0.25, grad_over_bound=0.5, loss_ulp=1.0, grad_ulp=8.0)


def found(times, *, rounds=20, errors=ERRORS, rejected=None, rows=64, classes=100, seed=0, noise=0.0, own_noise=0.0):
    """A cell as compare gives it. `times`: name -> seconds a call, the same for every operation.

    `noise` is common to all candidates of a round, `own_noise` to none of them.
    """
    rng = np.random.default_rng(seed)
    common = np.exp(noise * rng.standard_normal(rounds))
    entries, samples = [], {}
    for name, seconds in {"numpy": 1.0, **times}.items():
        samples[name] = seconds * common * np.exp(own_noise * rng.standard_normal(rounds))
    for name, seconds in samples.items():
        timed = Timing(
            tuple(seconds),
            1,
            paired_ratio(seconds, np.ones(rounds)),
            paired_ratio(samples["numpy"], seconds),
            1.0,
            None,
        )
        reason = (rejected or {}).get(name)
        status = "ranked" if reason is None else "rejected"
        own = errors.get(name, ERRORS) if isinstance(errors, dict) else errors
        entries.append(Entry(name, status, reason, own, dict.fromkeys(OPERATIONS, timed) if reason is None else {}))
    return ComparedCell(
        key=f"{rows}x{classes} float32, auto threads",
        inputs=Inputs(f"{rows}x{classes}", "shapes", "for a test", rows, classes, "float32", "hard"),
        options=CallOptions(), threads=None, checked_rows=4, telling_rows=4, rounds=rounds, took=1.0,
        timer_overhead=1e-7,
        control=Control((1.0,) * rounds, (1.0,) * rounds, Ratio(1.0, 1.0, 1.0)), drifted=False, crowded=False,
        cpus_of_others=0.0, ceilings=(), why_no_ceilings="none in a test",
        operations={o: CellOperation(96, None, ()) for o in OPERATIONS}, entries=tuple(entries),
    )  # fmt: skip


def decided(cell, operation="fused", evidence=None, **request):
    return decide(cell, operation, PickRequest(**request), evidence or Evidence())


# Who wins


def test_the_fastest_wins_and_everything_that_was_measured_is_kept():
    cell = decided(found({"cython": 3 * MS, "numba": 2 * MS}))
    assert (cell.winner, cell.tied, cell.rounds) == ("numba", (), 20)
    assert (cell.rows, cell.classes, cell.dtype, cell.operation, cell.threads) == (64, 100, "float32", "fused", None)
    cython = cell.of("cython")
    assert (cython.seconds, cython.ratio, cython.error) == (pytest.approx(3 * MS), pytest.approx(1.5), 0.5)
    assert cell.of("numpy").ratio == pytest.approx(500)
    assert known(cell.of("naive")).rejected == "it was not measured"


@pytest.mark.parametrize(
    ("gap", "order", "winner", "tied"),
    [
        (1.02, (), "cython", ("numba",)),  # 2 %: a tie, and Cython needs nothing at the first call
        (1.02, ("numba",), "numba", ("cython",)),
        (1.04, (), "numba", ()),
        (1.04, ("cython",), "numba", ()),
    ],
)
def test_a_gap_below_three_per_cent_is_a_tie_that_the_simpler_wins(gap, order, winner, tied):
    cell = decided(found({"numba": MS, "cython": gap * MS}), order=order)
    assert (cell.winner, cell.tied) == (winner, tied)


def test_a_gap_that_the_noise_could_have_made_is_a_tie():
    noisy = found({"numba": MS, "cython": 1.04 * MS}, own_noise=0.2)
    ratio = paired_ratio(noisy.entries[2].timings["fused"].seconds, noisy.entries[1].timings["fused"].seconds)
    assert ratio.low < 1 < ratio.high
    assert decided(noisy).winner == "cython"
    assert decided(noisy).tied == ("numba",)


def test_noise_that_all_share_hides_nothing():
    shaken = found({"numba": MS, "cython": 1.05 * MS}, noise=0.3)
    times = {entry.name: entry.timings["fused"].time for entry in shaken.entries}
    assert times["numba"].overlaps(times["cython"])  # apart, the times would tell nothing
    assert (decided(shaken).winner, decided(shaken).tied) == ("numba", ())


def test_the_order_is_the_tables_but_what_compiles_at_run_time_comes_later():
    assert simplest_first() == ("naive", "numpy", "cython", "numba")
    assert PickRequest(order=("numba",)).whole_order == ("numba", "naive", "numpy", "cython")


def test_memory_as_objective():
    cell = found({"cython": 3 * MS, "numba": 2 * MS})
    peaks = {"numpy": 40 << 20, "cython": 4 << 20, "numba": 5 << 20}
    evidence = Evidence(memory={(cell.key, "fused", name): peak for name, peak in peaks.items()})
    chosen = decided(cell, evidence=evidence, objective="memory")
    assert (chosen.winner, chosen.tied, chosen.of("numba").memory) == ("cython", (), 5 << 20)
    near = Evidence(memory={key: 1000 if key[2] == "numpy" else 0 for key in evidence.memory})
    assert decided(cell, evidence=near, objective="memory").winner == "numpy"  # 1000 bytes are no difference
    with pytest.raises(Undecided, match="no eligible backend has a figure for memory"):
        decided(cell, "forward", evidence=evidence, objective="memory")


def test_cold_start_as_objective():
    cell = found({"cython": 3 * MS, "numba": 2 * MS})
    cold = {"numpy": 0.030, "cython": 0.0305, "numba": 9.0}
    starts = {name: figures.StartCost(Ratio(s, 0.9 * s, 1.1 * s), 0.5 * s) for name, s in cold.items()}
    chosen = decided(cell, evidence=Evidence(cold_starts=starts), objective="coldstart")
    assert (chosen.winner, chosen.tied) == ("numpy", ("cython",))
    numba = chosen.of("numba")
    assert (numba.cold_start, numba.cached_start) == (9.0, 4.5)
    assert numba.break_even == pytest.approx((9.0 - 0.030) / (1.0 - 2 * MS))


def test_cold_starts_are_paired_and_a_process_that_fails_is_left_out():
    def run(name, cache):
        if name == "numpy":
            raise RuntimeError("it failed")
        compiled = any(cache.iterdir())
        (cache / "kernel").touch()
        return 0.5, (1.0 if compiled or name == "cython" else 8.0), 0.1

    starts = figures.cold_starts(("numpy", "cython", "numba"), run)
    assert list(starts) == ["cython", "numba"]
    assert starts["cython"].cold == Ratio(1.5, 1.5, 1.5)
    assert (starts["numba"].cold.median, starts["numba"].cached) == (pytest.approx(8.5), pytest.approx(1.5))


# Who may not win


def test_who_is_not_eligible_does_not_win_and_is_listed_with_the_reason():
    cell = found({"cython": 3 * MS, "numba": 2 * MS}, rejected={"numba": "its worst error is 7 times"})
    assert decided(cell).winner == "cython"
    assert decided(cell).of("numba").rejected == "its worst error is 7 times"
    evidence = Evidence(reasons={("cython", "float32"): "denied by --deny", ("numba", "float64"): "wrong there"})
    chosen = decided(found({"cython": MS, "numba": 2 * MS}), evidence=evidence)
    assert (chosen.winner, chosen.of("cython").rejected, chosen.of("numba").rejected) == (
        "numba",
        "denied by --deny",
        None,
    )
    nobody = Evidence(reasons={(name, "float32"): "no" for name in registry.names()})
    with pytest.raises(Undecided, match="no backend is eligible"):
        decided(cell, evidence=nobody)


def test_too_few_rounds_decide_nothing():
    with pytest.raises(Undecided, match="too few rounds"):
        decided(found({"cython": MS}, rounds=5))


@pytest.mark.parametrize(
    ("limit", "operation", "winner", "reason"),
    [
        (MaxError(0.8, "bound"), "fused", "cython", "its worst error is 0.9 of its bound, and at most 0.8 is allowed"),
        (MaxError(0.8, "bound"), "forward", "numba", None),  # whose loss is better than its gradient
        (MaxError(6, "ulp"), "backward", "cython", "its worst error is 7 ULP, and at most 6 is allowed"),
        (MaxError(6, "ulp"), "forward", "numba", None),
        (None, "fused", "numba", None),
    ],
)
def test_the_largest_error_that_is_allowed(limit, operation, winner, reason):
    errors = {"numba": Errors(0.9, 0.3, 0.9, 2.0, 7.0), "numpy": ERRORS, "cython": Errors(0.2, 0.2, 0.2, 1.0, 1.0)}
    cell = found({"cython": 3 * MS, "numba": 2 * MS}, errors=errors)
    chosen = decided(cell, operation, max_error=limit)
    assert (chosen.winner, chosen.of("numba").rejected) == (winner, reason)


def test_unknown_backends_are_refused():
    with pytest.raises(RequestError, match="--allow: unknown backend 'cuda'; there are naive, numpy, numba, cython"):
        PickRequest(allow=("cuda",)).check()


# Regret


def test_regret_by_hand():
    cells = [
        profiles.cell(1, 10, {"numpy": 1.0, "cython": 2.0, "numba": 8.0}),
        profiles.cell(8, 10, {"numpy": 4.0, "cython": 2.0, "numba": 1.0}, winner="cython", tied=("numba",)),
        profiles.cell(64, 10, {"numpy": 8.0, "cython": 2.0}),
    ]
    own = regret.of_profile(cells, "time")
    assert (own.mean, own.worst, own.where) == (pytest.approx(2 ** (1 / 3) - 1), pytest.approx(1.0), cells[1])
    numpy, cython = sorted(regret.of_single(cells, "time"), key=lambda each: each.name, reverse=True)
    assert [numpy.name, cython.name] == ["numpy", "cython"]  # numba is missing in a cell
    assert (cython.mean, cython.worst, cython.where) == (pytest.approx(4 ** (1 / 3) - 1), pytest.approx(1.0), cells[0])
    assert (numpy.mean, numpy.worst) == (pytest.approx(16 ** (1 / 3) - 1), pytest.approx(3.0))


def test_a_rejected_backend_is_no_yardstick():
    cell = profiles.cell(1, 10, {"numpy": 2.0, "naive": 1.0}, rejected={"naive": "not stable"})
    assert regret.of_profile([cell], "time").worst == 0
    assert [each.name for each in regret.of_single([cell], "time")] == ["numpy"]


# The grid


def test_the_finest_grid_that_fits_is_measured():
    labels = [f"{name} fused" for name in ("numpy", "numba", "cython", "a", "b")]
    sizes = {seconds: len(grids.fitting(seconds, ("float32",), 1, labels)) for seconds in (0.0, 5.0, 50.0, 1e4)}
    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes[0.0] == len(grids.GRIDS[-1].shapes)
    assert sizes[1e4] == len(grids.GRIDS[0].shapes)
    for grid in grids.GRIDS:
        assert all(rows * classes <= grid.most_elements for rows, classes in grid.shapes)
        assert len({*grid.rows}) <= MOST_DISTINCT
    assert grids.seconds(grids.GRIDS[1], 2, 2, labels, 0) == pytest.approx(
        4 * grids.seconds(grids.GRIDS[1], 1, 1, labels, 0)
    )


def test_a_shape_that_is_asked_for_twice_is_measured_once():
    sources = grids.distinct(
        (*of_shapes(((2, 3), (4, 5)), ("float32",)), *of_shapes(((2, 3),), ("float32", "float64")))
    )
    assert [source.text for source in sources] == ["2x3 float32", "4x5 float32", "2x3 float64"]


def test_a_stored_cell_is_measured_on_the_workload_it_came_from():
    assert grids.again(1, 128_256, "float32", ("llm",)).shape.zipf
    assert grids.again(1, 128_256, "float32", ()).shape.name == "1x128256"


# Measuring again


def judged(now, was=None, **options):
    stored = profiles.cell(64, 100, was or {"numpy": 1.0, "cython": 2 * MS, "numba": 3 * MS}, **options)
    return recheck.judge(stored, now, PickRequest(), Evidence())


@pytest.mark.parametrize(
    ("cython", "outcome"), [(2 * MS, "holds"), (3.2 * MS, "holds"), (3.4 * MS, "loses"), (20 * MS, "loses")]
)
def test_a_stored_winner_loses_where_it_is_more_than_ten_per_cent_behind(cython, outcome):
    verdict = judged(found({"cython": cython, "numba": 3 * MS}))
    assert verdict.outcome == outcome
    assert known(verdict.ratio).median == pytest.approx(max(1.0, cython / (3 * MS)))


def test_what_the_noise_could_have_made_is_not_called_a_loss():
    verdict = judged(found({"cython": 3.5 * MS, "numba": 3 * MS}, own_noise=1.0, seed=3))
    assert known(verdict.ratio).median > 1.1
    assert (verdict.outcome, verdict.reason) == ("unsure", "the interval reaches 1")
    assert judged(None).outcome == "unsure"
    assert judged(found({"cython": MS}, rounds=3)).outcome == "unsure"


def test_a_winner_that_may_not_run_any_more_has_lost_and_one_rejected_before_never_wins():
    wrong = judged(found({"cython": MS, "numba": 3 * MS}, rejected={"cython": "its worst error is 9"}))
    assert (wrong.outcome, wrong.reason) == ("loses", "cython may not run any more: its worst error is 9")
    kept = judged(found({"cython": 2 * MS, "numba": MS}), rejected={"numba": "denied by --deny"})
    assert (kept.outcome, kept.best) == ("holds", "cython")


@pytest.mark.parametrize(
    ("outcomes", "contaminated", "code"),
    [
        (("holds", "holds"), False, 0), (("holds", "loses"), False, 1), (("loses", "unsure"), False, 1),
        (("holds", "unsure"), False, 3), (("holds", "holds"), True, 3), (("loses", "holds"), True, 3),
    ],
)  # fmt: skip
def test_exit_codes_of_a_check_are_never_mixed_up(outcomes, contaminated, code):
    cell = profiles.cell(1, 10, {"numpy": 1.0})
    verdicts = tuple(recheck.CellCheck(cell, outcome, "") for outcome in outcomes)
    assert (
        recheck.exit_code(recheck.Recheck(verdicts, (cast(Run, SimpleNamespace(contaminated=contaminated)),))) == code
    )


# Validation


def test_held_out_regret_is_that_of_the_choice_that_is_followed():
    stored = profiles.profile(profiles.grid((1, 1_000_000), (10,), profiles.CROSSING))
    cells = [
        profiles.cell(20_000, 10, {"numpy": 1.2, "cython": 1.0}),
        profiles.cell(2, 10, {"numpy": 1.0, "cython": 9}),
    ]
    followed = validation.held_out(stored, cells)
    assert [each.followed for each in followed] == ["cython", "numpy"]
    assert [each.regret for each in followed] == [0.0, 0.0]
    (wrong,) = validation.held_out(stored, [profiles.cell(20_000, 10, {"numpy": 1.0, "cython": 1.2})])
    assert (wrong.followed, wrong.regret) == ("cython", pytest.approx(0.2))
    assert validation.mean_regret([*followed, wrong]) == pytest.approx(1.2 ** (1 / 3) - 1)


def test_agreement_counts_ties_apart():
    def picked(*winners):
        return profiles.profile(
            profiles.cell(rows, 10, {"numpy": 1.0, "cython": 1.0}, winner=winner.rstrip("="),
                          tied=("numpy",) if "=" in winner else ())
            for rows, winner in enumerate(winners, 1)
        )  # fmt: skip

    counted = validation.agreement(
        picked("cython", "numpy", "cython", "cython=", "cython="),
        picked("cython", "cython", "cython=", "numpy", "cython="),
    )
    assert counted == validation.Agreement(clear=2, same=1, half=2, half_same=1, ties=1)


# The command


QUICK = {"every_width", "wide_spreads", "masked_class_without_mass"}


@pytest.fixture
def clock(monkeypatch):
    """The clock of a machine that nobody else uses, by which the command measures and keeps its time budget."""
    clock = clocks.quiet_machine(monkeypatch)
    monkeypatch.setattr(picking, "pick", partial(session.pick, clock=clock))
    monkeypatch.setattr(recheck, "recheck", partial(recheck.recheck, clock=clock))
    return clock


@pytest.fixture
def pick(clock, monkeypatch, tmp_path):
    """Runs the command with some of the checks; the user's data folder is tmp_path / data."""
    monkeypatch.setattr(harness, "CHECKS", [check for check in harness.CHECKS if check.name in QUICK])
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments):
        return CliRunner().invoke(cli.main, ["pick", *map(str, arguments)])

    return invoke


@pytest.fixture
def stored(pick):
    """Runs a command on a stored profile, in the same surroundings."""
    return lambda *arguments: CliRunner().invoke(cli.main, ["profile", *map(str, arguments)])


@pytest.fixture
def plant(monkeypatch):
    """Plants backends of another package, as its entry points would."""
    planted: list[str] = []

    def add(**modules):
        entries = []
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"planted_{name}", module)
            entries.append(metadata.EntryPoint(name=name, value=f"planted_{name}", group=registry.ENTRY_POINT_GROUP))
        monkeypatch.setattr(metadata, "entry_points", lambda group: tuple(entries))
        monkeypatch.setattr(registry, "_entries", None)
        planted.extend(modules)

    yield add
    for name in planted:
        registry._loaded.pop(name, None)


class Slow(wrong_backends.CorrectBackend):
    """Right, and by the clock it is given six times as slow as the others."""

    def __init__(self, clock: clocks.TickingClock) -> None:
        super().__init__()
        self._clock = clock

    def hard(self, *arguments: Any) -> None:
        super().hard(*arguments)
        self._clock.now += 5 * clocks.TICK


class Tempting:
    """Wrong, and faster than anything that is right: it writes nothing."""

    BACKEND = sce.BackendInfo("tempting", "planted_tempting")

    @staticmethod
    def hard(*arguments: Any) -> None:
        pass

    soft = hard


def test_a_planted_slow_and_planted_wrong_backends_never_win_and_are_listed(pick, plant, clock, tmp_path):
    plant(slow=Slow(clock), wrong=wrong_backends.MaximumOfTheArray(), tempting=Tempting())
    path = tmp_path / "p.json"
    result = pick("--shapes", "16x10,40x300", "--op", "fused,forward", "--output", path)
    assert result.exit_code == 0, result.output
    chosen = profile.load(path)
    assert len(chosen.cells) == 4
    assert chosen.order[-3:] == ("slow", "wrong", "tempting")
    for cell in chosen.cells:
        assert cell.winner in {info.name for info in sce.backends()} - {"slow", "wrong", "tempting", "naive"}
        assert not {"slow", "wrong", "tempting"} & {*cell.tied}
        assert known(cell.of("slow")).rejected is None
        assert known(known(cell.of("slow")).ratio_low) >= 5.9
        for name in ("wrong", "tempting"):
            assert (reason := known(known(cell.of(name)).rejected)).startswith("fails ")
            assert "times the error bound" in reason
        assert known(cell.of("naive")).rejected == "it overflows by design: it is not stable"
    said = " ".join(result.output.split())
    for name in ("wrong", "tempting"):
        assert f"{name} may not win: fails " in said
    assert "slow for everything" not in said.partition("Regret")[2].partition(" may not win")[0]


def test_from_measuring_to_production(pick, stored, tmp_path):
    result = pick("--shapes", "16x10,64x200", "--threads", "1", "--objective", "time", "--deny", "numba")
    path = tmp_path / "data" / "softmax_ce" / "profile.json"
    assert result.exit_code == 0, result.output
    assert f"Profile written to {path}" in result.output
    record = json.loads(path.read_text())
    jsonschema.Draft202012Validator(FORMAT.json_schema()).validate(record)
    chosen = profile.load(path)
    assert profile.as_dict(chosen) == record
    assert chosen.fingerprint == fingerprint.collect()
    assert {(cell.rows, cell.classes, cell.operation, cell.threads) for cell in chosen.cells} == {
        (rows, classes, operation, 1) for rows, classes in ((16, 10), (64, 200)) for operation in OPERATIONS
    }
    assert all(known(cell.of("numba")).rejected == "denied by --deny" for cell in chosen.cells)
    assert "numba may not win: denied by --deny" in result.output
    for cell in chosen.cells:
        one = known(cell.of(cell.winner))
        assert known(one.seconds_low) <= known(one.seconds) <= known(one.seconds_high)
        assert known(one.error) <= 1
    # What is stored is shown as it was when it was picked.
    shown = stored("show").output
    tables, end, _ = result.output.partition(" tied\n")
    assert end
    assert shown.startswith(tables + end)
    assert "numba may not win: denied by --deny" in shown
    assert f"Profile{path}of{chosen.date}" in "".join(shown.split())  # wherever the path was wrapped
    # Production, in a process of its own, runs what was picked; and `profile explain` says the same.
    code = (
        "import numpy as np, softmax_ce as sce\n"
        "for shape in ((16, 10), (64, 200), (30, 50)):\n"
        "    print(sce.explain(np.zeros(shape, 'f4'), np.zeros(shape[0], int), threads=1).backend)"
    )
    runs = run_python(code, XDG_DATA_HOME=str(tmp_path / "data"), SOFTMAX_CE_PROFILE_STRICT="1").split()
    explained = stored("explain", "16x10,64x200,30x50", "--threads", "1").output
    assert explained.count("Its fingerprint matches this machine and build") == 1
    assert [
        line.split(": ")[1].split()[0] for line in explained.splitlines() if line.startswith("fused, float32, 1 thread")
    ] == runs
    fused = {(cell.rows, cell.classes): cell.winner for cell in chosen.cells if cell.operation == "fused"}
    assert runs[:2] == [fused[16, 10], fused[64, 200]]


def small(path, **options):
    """A profile of this machine with one cell."""
    stored = profiles.profile([profiles.cell(16, 10, {"numpy": MS, "cython": 2 * MS}, threads=1)], **options)
    profile.save(stored, path)
    return stored


def test_a_profile_that_does_not_hold_is_found(stored, tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    small(path)

    def measured(numpy, contaminated=False):
        def run(plan, listener, clock):
            cell = replace(found({"numpy": numpy, "cython": 2 * MS}, rows=16, classes=10), threads=1)
            real = Run("now", (), real_machine, cast(Any, None), (), contaminated=contaminated)
            real.cells.append(cell)
            return real

        return run

    real_machine = compare.run.__globals__["machine"].collect()
    for numpy, contaminated, code in ((MS, False, 0), (2.1 * MS, False, 0), (9 * MS, False, 1), (9 * MS, True, 3)):
        monkeypatch.setattr(compare, "run", measured(numpy, contaminated))
        result = stored("check", path)
        assert result.exit_code == code, result.output
        if code == 1:
            said = " ".join(result.output.split())
            assert "fused 16 x 10 float32, 1 thread: numpy takes 4.50x (4.50-4.50) what cython does" in said
    small(path, fingerprint={**fingerprint.collect(), "numpy": "1.0"})
    result = stored("check", path)
    assert result.exit_code == 2
    assert "numpy is" in result.output
    assert stored("check", tmp_path / "absent.json").exit_code == 2
    path.write_text("{")
    assert stored("check", path).exit_code == 2


def test_a_check_measures(pick, tmp_path):
    path = tmp_path / "p.json"
    stored = small(path)
    result = recheck.recheck(stored, 20.0)
    (verdict,) = result.verdicts
    assert (verdict.cell, verdict.outcome in ("holds", "loses", "unsure")) == (stored.cells[0], True)
    assert result.runs[0].cells[0].inputs.rows == 16
    assert {entry.name for entry in result.runs[0].cells[0].entries} == {"numpy", "cython"}
    assert known(verdict.ratio).median >= 1


def test_ctrl_c_leaves_the_old_profile(pick, tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    small(path)
    before = path.read_bytes()
    calls = []

    def interrupted(*_arguments, **_options):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    result = pick("--shapes", "16x10", "--output", path)
    assert (result.exit_code, calls) == (cli.INTERRUPTED, [1])
    assert "Nothing was written." in result.output
    assert f"{path} is as it was" in " ".join(result.output.split())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def contaminated(monkeypatch):
    """A control that moves."""
    measure = timing.measure

    def moved(*arguments, **options):
        samples = measure(*arguments, **options)
        return replace(samples, control=(samples.control[0], samples.control[0] * 1.05))

    monkeypatch.setattr(timing, "measure", moved)


def test_a_contaminated_session_replaces_no_profile_unless_told_to(pick, contaminated, tmp_path):
    path = tmp_path / "p.json"
    asked = ("--shapes", "16x10", "--op", "forward", "--allow", "numpy,cython", "--output", path)
    result = pick(*asked)  # there was none: it is written, and the exit code says what it is worth
    assert result.exit_code == 3
    assert "CONTAMINATED" in result.output
    assert profile.load(path).notes["contaminated"] is True
    before = path.read_bytes()
    result = pick(*asked)
    assert result.exit_code == 3
    assert "Nothing was written" in result.output
    assert path.read_bytes() == before
    result = pick(*asked, "--force")
    assert result.exit_code == 0
    assert path.read_bytes() != before


def test_a_dry_run_writes_nothing(pick, tmp_path):
    result = pick("--shapes", "16x10", "--op", "forward", "--allow", "numpy", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Nothing was written: --dry-run." in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_profile_goes_to_a_pipe_or_to_standard_output(pick, contaminated, tmp_path):
    """There is no old one to keep, whatever the session was like."""
    asked = ("--shapes", "16x10", "--op", "forward", "--allow", "numpy,cython", "--output")
    result = pick(*asked, "-")
    assert result.exit_code == 3, result.output
    jsonschema.Draft202012Validator(FORMAT.json_schema()).validate(json.loads(result.stdout))
    assert [(cell["rows"], cell["classes"]) for cell in json.loads(result.stdout)["cells"]] == [(16, 10)]
    assert "CONTAMINATED" in result.stderr
    assert list(tmp_path.iterdir()) == []
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "it is a pipe that nobody reads from" in pick(*asked, pipe).stderr
    reader = Reader(pipe)
    result = pick(*asked, pipe)
    assert result.exit_code == 3
    jsonschema.Draft202012Validator(FORMAT.json_schema()).validate(json.loads(reader.all()))
    assert pipe.is_fifo()


def test_where_production_looks_is_looked_at_before_anything_is_measured(pick, tmp_path, monkeypatch):
    monkeypatch.setattr(picking, "pick", lambda *_: pytest.fail("it measured"))
    (tmp_path / "data").touch()  # no folder
    result = pick("--shapes", "16x10")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert "--output names a file" in result.stderr
    (tmp_path / "data").unlink()
    monkeypatch.setattr(files, "_create", lambda _path: os.open("/dev/null/x", 0))
    assert pick("--shapes", "16x10").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_own_arrays_are_picked_on(pick, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(0, 3, (40, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 6, 40))
    own = ("--logits", tmp_path / "x.npy", "--targets", tmp_path / "y.npy")
    path = tmp_path / "p.json"
    assert pick(*own, "--op", "fused", "--output", path).exit_code == 0
    assert [(cell.rows, cell.classes) for cell in profile.load(path).cells] == [(40, 6)]


def test_memory_and_cold_start_are_measured_in_fresh_processes(pick, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_PROCESSES", 3)
    path = tmp_path / "p.json"
    # The processes' own clocks are real: on a busy machine the session may be contaminated.
    asked = ("--shapes", "256x1000", "--op", "fused", "--allow", "numpy,cython", "--output", path, "--force")
    result = pick(*asked, "--objective", "memory", "--also", "coldstart")
    assert result.exit_code == 0, result.output
    (cell,) = profile.load(path).cells
    for name in ("numpy", "cython"):
        one = known(cell.of(name))
        if sys.platform == "linux":
            assert 0 <= known(one.memory) < 8 * 256 * 1000  # not as much as an array more
        assert known(one.cold_start) > 0
        assert one.cached_start == pytest.approx(one.cold_start)  # nothing is compiled: both are one figure
    assert pick(*asked, "--objective", "coldstart").exit_code == 0
    chosen = profile.load(path)
    costs = {one.backend: known(one.cold_start) for one in chosen.cells[0].measured if one.rejected is None}
    assert chosen.objective == "coldstart"
    assert chosen.cells[0].winner == "numpy" or costs["cython"] < costs["numpy"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("p.json",), "unexpected extra argument (p.json)"),
        (("--check",), "--check is now a command: softmax-ce profile check"),
        (("--check", "p.json"), "--check is now a command: softmax-ce profile check p.json"),
        (("--check", "--dtype", "f64"), "--check is now a command: softmax-ce profile check"),
        (("--explain", "1x2", "p.json"), "--explain is now a command: softmax-ce profile explain 1x2"),
        (("--force", "--explain"), "--explain is now a command: softmax-ce profile explain"),
        (("--logits", "x.npy"), "go together"),
        (("--allow", "cuda"), "unknown backend 'cuda'"),
        (("--max-error", "2"), "neither a part of the error bound such as 0.8, nor units such as 4ulp"),
        (("--max-error", "-1ulp"), "neither a part of the error bound"),
        (("--set", "numerics"), "'numerics' is not one of quick, vision, llm, boosting"),
        (("--output", "/no/such/folder/p.json"), "there is no folder"),
        (("--objective", "size"), "'size' is not one of"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(pick, arguments, said):
    result = pick(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show",), "there is no profile at"),
        (("check",), "there is no profile at"),
        (("explain", "1x2"), "there is no profile at"),
        (("explain",), "Missing argument 'ROWSxCLASSES'"),
        (("explain", "1by2"), "is not ROWSxCLASSES"),
        (("explain", "1x2", "--op", "softmax"), "is not one of forward, backward, fused"),
        (("check", "--dtype", "f64"), "No such option"),
    ],
)
def test_what_cannot_be_done_with_a_profile_is_refused_in_words(stored, arguments, said):
    result = stored(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_profile_is_shown_with_who_may_not_win(stored, tmp_path):
    path = tmp_path / "p.json"
    cells = [
        profiles.cell(
            rows, 10, {"numpy": 2 * MS, "cython": MS, **dict.fromkeys(rejected, MS)}, dtype=dtype, rejected=rejected
        )
        for rows, dtype, rejected in (
            (16, "float32", {"naive": "not finite", "numba": "denied"}),
            (32, "float32", {"naive": "not finite", "numba": "denied"}),
            (16, "float64", {"numba": "denied", "[/b]": "too inaccurate"}),
            (32, "float64", {"numba": "denied"}),
        )
    ]
    fingerprint_here = {**fingerprint.collect(), "cpu": "another"}
    order = ("naive", "numpy", "numba", "cython", "[/b]")
    notes = {"contaminated": True, "control_drift": 0.07}
    profile.save(profiles.profile(cells, fingerprint=fingerprint_here, order=order, notes=notes), path)
    result = stored("show", path)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    for dtype in ("float32", "float64"):
        assert f"fused, {dtype}, threads chosen by size" in lines
    assert re.search(r"16 x 10 +cython +2.00 ms.* +1.00 ms", result.output)
    assert "naive may not win in float32: not finite" in lines
    assert "numba may not win: denied" in lines
    assert "[/b] may not win at fused 16 x 10: too inaccurate" in lines
    said = " ".join(lines)
    assert "CONTAMINATED" in said
    assert "another, " in said
    assert "The control differs from itself by at most 7.0%." in said
    assert "It is not followed here, because it comes from another machine or build" in said


def test_a_profile_from_elsewhere_is_explained_and_its_standing_told(stored, tmp_path):
    path = tmp_path / "p.json"
    cells = profiles.grid((10, 1000), (10, 1000), profiles.CROSSING)
    profile.save(profiles.profile(cells, fingerprint={**fingerprint.collect(), "cpu": "another"}), path)
    said = " ".join(stored("explain", "100x100", path).output.split())
    assert "It is not followed here, because it comes from another machine or build" in said
    assert "'another' in the profile" in said
    for rows, classes in ((10, 10), (10, 1000), (1000, 10), (1000, 1000)):
        weight = re.search(rf"{rows} x {classes} (\d+)%", said)
        assert 23 <= int(known(weight)[1]) <= 27  # 100 is half-way, but for the table's steps
    assert "of those within 3% of it, the first of numpy, cython" in said
