"""The gate as a whole: on synthetic times through all of its decisions, and on real builds through all of its parts."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import softmax_ce
from helpers import known
from softmax_ce_bench.cli import main
from softmax_ce_bench.gate import builds, cells, run
from softmax_ce_bench.gate.builds import BuildSource, Edit
from softmax_ce_bench.gate.cells import CONTROL
from softmax_ce_bench.gate.decision import ROUNDS, Exit, Verdict, rounds_at
from softmax_ce_bench.gate.request import GateRequest
from softmax_ce_bench.gate.session import Build, BuildError, passes, redraw
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.report import gating
from softmax_ce_bench.report.html import forest
from test_html import Page

CELLS = cells.of(["numpy", "cython"])
SLOW = CELLS[4]
SMALL = ((Shape("small", 3, 4, ""), "float32"), (Shape("small", 2, 5, ""), "float64"))
NOWHERE = BuildSource("a", "0" * 40), BuildSource("b", "1" * 40)
BUILDS = Build("base", Path(os.devnull)), Build("head", Path(os.devnull))  # of tests that start no process


class Times:
    """In place of a session: times drawn from what a test says they are."""

    def __init__(self, ratio=lambda cell, round_: 1.0, scatter=0.01, control=1.0, far=0.0):
        self.rng = np.random.default_rng(3)
        self.ratio, self.scatter, self.control, self.far = ratio, scatter, control, far
        self.seen = {}

    def round(self, wanted):
        base, head = {CONTROL: 1e-4}, {CONTROL: 1e-4 * self.control * self.noise()}
        for cell in wanted:
            count = self.seen[cell] = self.seen.get(cell, 0) + 1
            base[cell.text] = 1e-4 * self.noise()
            head[cell.text] = 1e-4 * self.noise() * self.ratio(cell, count)
        return base, head

    def noise(self):
        far = self.rng.random() < self.far
        return math.exp(self.rng.normal(0, 0.5 if far else self.scatter))


def gated(times, monkeypatch, **settings):
    monkeypatch.setattr(run, "_checked", lambda *_: (times, CELLS, []))
    return run.compare(GateRequest(*NOWHERE, **settings), BUILDS, Path(os.devnull), lambda *_: None)


def verdicts(result):
    return {each.cell: each.verdict for each in result.cells if each.verdict is not Verdict.SAME}


def test_equal_builds_are_clean(monkeypatch):
    times = Times()
    result = gated(times, monkeypatch)
    assert result.exit is Exit.CLEAN
    assert verdicts(result) == {}
    assert set(times.seen.values()) == {ROUNDS}
    assert "CLEAN" in gating.sentence(result)


@pytest.mark.parametrize("share", [0.05, 0.10, 0.20, 0.50])
def test_a_slower_cell_is_measured_again_and_named(share, monkeypatch):
    times = Times(lambda cell, _: 1 + share if cell == SLOW else 1.0)
    result = gated(times, monkeypatch)
    assert result.exit is Exit.SLOWER
    assert verdicts(result) == {SLOW: Verdict.SLOWER}
    assert times.seen == {cell: ROUNDS * (2 if cell == SLOW else 1) for cell in CELLS}
    assert SLOW.text in gating.sentence(result)


def test_what_is_slower_once_only_is_no_failure(monkeypatch):
    result = gated(Times(lambda cell, k: 1.2 if cell == SLOW and k <= ROUNDS else 1.0), monkeypatch)
    assert (result.exit, verdicts(result)) == (Exit.CLEAN, {SLOW: Verdict.ONCE})


def test_ten_per_cent_faster_passes(monkeypatch):
    result = gated(Times(lambda *_: 1 / 1.1), monkeypatch)
    assert (result.exit, set(verdicts(result).values())) == (Exit.CLEAN, {Verdict.FASTER})


def test_less_than_two_per_cent_is_reported_and_not_gated(monkeypatch):
    result = gated(Times(lambda cell, _: 1.017 if cell == SLOW else 1.0, scatter=0.001), monkeypatch)
    assert (result.exit, verdicts(result)) == (Exit.CLEAN, {SLOW: Verdict.NOTED})
    assert "1 slightly slower" in gating.sentence(result)


class Clock:
    """In place of the clock: a round takes a second, and a tenth of it if it is of one cell; or so long later on."""

    def __init__(self, times, monkeypatch, later=None):
        self.now, self.rounds, self._round, self._later = 0.0, 0, times.round, later
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        times.round = self.round

    def round(self, wanted):
        self.rounds += 1
        seconds = 0.1 if len(wanted) == 1 else 1.0
        self.now += self._later if self._later and self.rounds > ROUNDS else seconds
        return self._round(wanted)


def swinging(until):
    """Ratios of the one cell that cannot be told until so many rounds are over."""
    return lambda cell, k: math.exp(0.4 * (-1) ** k) if cell == SLOW and k <= until else 1.0


def test_only_the_cell_that_is_not_clear_goes_on_until_it_is(monkeypatch):
    times = Times(swinging(24))
    Clock(times, monkeypatch)
    result = gated(times, monkeypatch)
    assert (result.exit, verdicts(result)) == (Exit.CLEAN, {})
    assert times.seen == {cell: rounds_at(4) if cell == SLOW else ROUNDS for cell in CELLS}
    (slow,) = (each for each in result.cells if each.cell == SLOW)
    assert (slow.first.look, slow.first.rounds, len(slow.base)) == (4, rounds_at(4), rounds_at(4))


def test_it_goes_on_for_as_long_again_as_the_first_rounds_took(monkeypatch):
    times = Times(swinging(10_000))
    clock = Clock(times, monkeypatch)
    result = gated(times, monkeypatch)
    assert (result.exit, verdicts(result)) == (Exit.INCONCLUSIVE, {SLOW: Verdict.UNSURE})
    assert result.out_of_time
    assert clock.now == pytest.approx(2 * ROUNDS, abs=0.2)
    assert times.seen[SLOW] == pytest.approx(11 * ROUNDS, abs=1)
    assert "INCONCLUSIVE: when the time was up" in gating.sentence(result)


def test_a_time_budget_is_for_all_of_it(monkeypatch):
    times = Times(swinging(10_000))
    clock = Clock(times, monkeypatch)
    assert gated(times, monkeypatch, seconds=50.0).exit is Exit.INCONCLUSIVE
    assert clock.now == pytest.approx(50, abs=0.2)


def test_when_the_time_is_up_what_is_there_is_looked_at(monkeypatch):
    # The look at 24 rounds is due when 22 are there.
    times = Times(lambda cell, k: math.exp(0.4 * (-1) ** k) if cell == SLOW and k <= 8 else 1.0)
    Clock(times, monkeypatch)
    result = gated(times, monkeypatch, seconds=ROUNDS + 0.55)
    assert (result.exit, verdicts(result)) == (Exit.CLEAN, {})
    (slow,) = (each for each in result.cells if each.cell == SLOW)
    assert (slow.first.look, slow.first.rounds) == (2, 22)


def test_what_is_slower_when_the_time_is_up_is_measured_again(monkeypatch):
    # The look at 36 rounds is due when 34 are there.
    times = Times(
        lambda cell, k: math.exp(0.4 * (-1) ** k) if cell == SLOW and k <= 16 else 1.2 if cell == SLOW else 1.0
    )
    Clock(times, monkeypatch, later=0.9)
    result = gated(times, monkeypatch)
    assert (result.exit, verdicts(result)) == (Exit.SLOWER, {SLOW: Verdict.SLOWER})
    (slow,) = (each for each in result.cells if each.cell == SLOW)
    assert (slow.first.look, slow.first.rounds, slow.second.rounds) == (3, 34, ROUNDS)


def test_a_second_measurement_gets_its_first_rounds_whatever_the_time(monkeypatch):
    times = Times(lambda cell, _: 1.2)
    Clock(times, monkeypatch, later=10.0)
    result = gated(times, monkeypatch)
    assert result.exit is Exit.SLOWER
    assert set(times.seen.values()) == {2 * ROUNDS}


def test_a_control_that_moved_makes_a_slowdown_hearsay(monkeypatch):
    result = gated(Times(lambda cell, _: 1.3, control=1.05), monkeypatch)
    assert result.exit is Exit.INCONCLUSIVE
    assert "control" in gating.sentence(result)


def test_without_time_nothing_is_claimed(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    result = gated(Times(lambda *_: 2.0), monkeypatch, seconds=12.0)
    assert (result.exit, result.out_of_time) == (Exit.INCONCLUSIVE, True)
    assert set(verdicts(result).values()) == {Verdict.UNSURE}
    assert "the time was up" in gating.sentence(result)
    with pytest.raises(BuildError, match="nothing was measured"):
        gated(Times(), monkeypatch, seconds=0.5)


def test_progress_says_how_long_it_will_take(monkeypatch):
    told = []
    monkeypatch.setattr(run, "_checked", lambda *_: (Times(), CELLS, []))
    run.compare(GateRequest(*NOWHERE), BUILDS, Path(os.devnull), lambda *each: told.append(each))
    assert all(0 <= done <= 1 for _, done, _ in told)
    assert sum(not math.isnan(left) for _, _, left in told) >= ROUNDS - 1


def test_the_record_and_the_page_say_what_the_tables_say(monkeypatch):
    result = gated(Times(lambda cell, _: 1.3 if cell == SLOW else 1.0), monkeypatch)
    record = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (record["schema"], record["version"], record["exit"]) == ("softmax-ce/gate", 2, 1)
    slow = record["cells"][4]
    np.testing.assert_allclose(np.median(np.log(slow["head"]) - np.log(slow["base"])), np.log(1.3), atol=0.02)
    assert (slow["verdict"], slow["cell"]["backend"], len(slow["base"])) == ("SLOWER", SLOW.backend, ROUNDS)
    page = Page(forest.page(result))
    text = " ".join(part for part, _ in page.texts)
    assert all(each.cell.text in text for each in result.cells)
    assert gating.sentence(result) in text
    rows = gating.rows(result)
    assert rows[0][0] == CONTROL
    assert [row[0] for row in rows[1:]] == [cell.text for cell in CELLS]
    assert rows[5][4] == "SLOWER"


# Real builds: the installed package, copied.


@pytest.fixture
def pair(tmp_path):
    for side in ("base", "head"):
        shutil.copytree(Path(softmax_ce.__file__).parent, tmp_path / side / "softmax_ce",
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    return Build("base", tmp_path / "base"), Build("head", tmp_path / "head")


def edited(build, file, old, new):
    builds.apply(Edit(f"softmax_ce/{file}", old, new), build.site)


def compared(pair, tmp_path, backends=("numpy",), **settings):
    request = GateRequest(*NOWHERE, **{"backends": backends, "workloads": SMALL, "rounds": 2} | settings)
    return run.compare(request, pair, tmp_path, lambda *_: None)


def test_real_processes_time_what_the_build_on_their_path_computes(pair, tmp_path):
    result = compared(pair, tmp_path, ("numpy",))
    assert [each.cell for each in result.cells] == cells.of(["numpy"], SMALL)
    assert all(len(each.base) == len(each.head) == result.control_rounds for each in result.cells)
    assert all(0 < value < math.inf for each in result.cells for value in (*each.base, *each.head))
    assert result.control_rounds >= 2  # too few to tell, so that it goes on for as long again


LINEAR = (SMALL[0][0], "float32", "linear")


def test_a_cell_may_have_an_operation_of_its_own(pair, tmp_path):
    result = compared(pair, tmp_path, workloads=(), extra=(LINEAR,))
    assert [each.cell.text for each in result.cells] == ["numpy linear small 3x4 float32"]
    assert [each.operation for each in cells.each_of(["numpy"], cells.EXTRA)] == ["linear"]


def test_an_operation_that_base_does_not_have_yet_is_left_out(pair, tmp_path):
    edited(pair[0], "__init__.py", '    "linear_cross_entropy_with_grad": "softmax_ce.linear",\n', "")
    edited(pair[0], "__init__.py", '    "linear_cross_entropy_with_grad",\n', "")
    result = compared(pair, tmp_path, workloads=SMALL[:1], extra=(LINEAR,))
    assert {each.cell.operation for each in result.cells} == {"forward", "backward", "fused"}
    assert result.notes == ("linear: not compared, since base does not have it",)
    base, head = pair
    swapped = replace(head, side="base"), replace(base, side="head")
    with pytest.raises(BuildError, match="head has lost the operation 'linear'"):
        compared(swapped, tmp_path, extra=(LINEAR,))


def test_shared_objects_are_new_files_with_the_same_contents_and_dates(pair):
    site = pair[0].site
    library, other = site / "softmax_ce" / "deep" / "a.so", site / "softmax_ce" / "__init__.py"
    library.parent.mkdir()
    library.write_bytes(b"code")
    os.utime(library, ns=(10**18, 10**18))
    with library.open("rb") as held:  # so that the number of the old file is not given to the new one
        before = other.stat()
        redraw(site)
        assert library.stat().st_ino != os.fstat(held.fileno()).st_ino
    assert (library.read_bytes(), library.stat().st_mtime_ns) == (b"code", 10**18)
    assert (other.stat().st_ino, other.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [each.name for each in library.parent.iterdir()] == ["a.so"]


@pytest.mark.parametrize(("count", "expected"), [(1, 8), (2, 8), (6, 8), (8, 6), (12, 4), (13, 2), (46, 2), (500, 2)])
def test_few_cells_get_more_passes(count, expected):
    assert passes(count) == expected


def test_a_head_that_computes_something_wrong_is_an_error_and_not_timed(pair, tmp_path):
    edited(pair[1], "_backends/shifted.py", "np.log1p(rest)", "1.001 * np.log1p(rest)")
    with pytest.raises(BuildError, match=r"head computes wrong results.*numpy.*loss.*times what rounding explains"):
        compared(pair, tmp_path)


def test_a_base_that_is_wrong_is_said_to_be_left_out(pair, tmp_path):
    pytest.importorskip("softmax_ce._backends.cython._kernels", exc_type=ImportError)  # a second stable backend
    edited(pair[0], "_backends/shifted.py", "np.log1p(rest)", "1.001 * np.log1p(rest)")
    with pytest.raises(BuildError, match="nothing can be compared"):
        compared(pair, tmp_path)
    result = compared(pair, tmp_path, ("numpy", "cython"))
    assert {each.cell.backend for each in result.cells} == {"cython"}
    assert len(result.notes) == len(SMALL) * 3
    assert all("base computes wrong results" in note for note in result.notes)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("raise RuntimeError('planted')\n", "planted"),
        ("import os; os._exit(7)\n", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", "signal 9"),
    ],
)
def test_a_head_that_cannot_be_imported_is_named_with_what_it_said(pair, tmp_path, new, said):
    edited(pair[1], "__init__.py", "", new)
    with pytest.raises(BuildError, match=f"head .*{said}"):
        compared(pair, tmp_path)


def test_a_backend_that_head_lost_is_an_error(pair, tmp_path):
    (pair[1].site / "softmax_ce" / "_backends" / "shifted.py").unlink()
    with pytest.raises(BuildError, match="head has lost the backend 'numpy'"):
        compared(pair, tmp_path)


def test_a_backend_that_base_does_not_have_is_left_out_and_said(pair, tmp_path):
    (pair[0].site / "softmax_ce" / "_backends" / "shifted.py").unlink()
    with pytest.raises(BuildError, match="'numpy' cannot be compared"):
        compared(pair, tmp_path)
    with pytest.raises(BuildError, match="no backend 'unheard'"):
        compared(pair, tmp_path, ("unheard",))


INTERRUPTED = """
import sys
from pathlib import Path
from softmax_ce_bench.gate import run
from softmax_ce_bench.gate.builds import BuildSource
from softmax_ce_bench.gate.session import Build
folder = Path(sys.argv[1])
request = run.GateRequest(BuildSource("a", ""), BuildSource("b", ""), backends=("numpy",), rounds=1000)
pair = Build("base", folder / "base"), Build("head", folder / "head")
try:
    run.compare(request, pair, folder, lambda text, *_: print(text, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="reads /proc")
def test_an_interrupt_leaves_no_process(pair, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in known(process.stdout):
        if "round 2" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    process.communicate(timeout=300)
    assert process.returncode == 130
    end = time.monotonic() + 300
    while _in_session(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert _in_session(process.pid) == []


def _in_session(leader):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


# From a revision to a build.


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """A repository with two files and a change that is not committed; it does not build."""
    root = tmp_path / "project"
    (root / "kernels" / "softmax_ce").mkdir(parents=True)
    (root / "kernels" / "softmax_ce" / "__init__.py").write_text("committed = True\n")
    (root / "setup.py").write_text("raise ValueError('planted: this does not build')\n")
    (root / ".gitignore").write_text("*.so\n")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "one")
    (root / "kernels" / "softmax_ce" / "__init__.py").write_text("committed = False\n")
    (root / "new.py").write_text("")
    (root / "ignored.so").write_text("")
    return root


def test_a_revision_is_what_was_committed_and_the_working_tree_what_is_there(project, tmp_path):
    committed, there = builds.revision(project, "HEAD"), builds.working_tree(project)
    assert there.commit == committed.commit + "+"
    builds.export(committed, tmp_path / "a")
    builds.export(there, tmp_path / "b")
    assert (tmp_path / "a/kernels/softmax_ce/__init__.py").read_text() == "committed = True\n"
    assert not (tmp_path / "a/new.py").exists()
    assert (tmp_path / "b/kernels/softmax_ce/__init__.py").read_text() == "committed = False\n"
    assert (tmp_path / "b/new.py").exists()
    assert not (tmp_path / "b/ignored.so").exists()


def test_a_build_that_fails_exits_with_2_and_says_what_the_build_said(project, monkeypatch):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(main, ["gate", "HEAD", "HEAD", "--json", str(project / "out.json")])
    assert result.exit_code == 2
    assert "HEAD does not build" in result.output
    assert "planted: this does not build" in result.output
    assert not (project / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the revision to compare with"),
        (["no-such-revision"], "'no-such-revision' is not a revision of"),
        (["--upload-pack=x"], "No such option"),
        (["HEAD", "--base-wheel", "setup.py"], "setup.py: not a wheel"),
        (["HEAD", "HEAD", "--head-wheel", "setup.py"], "two ways to say the same"),
        (["HEAD", "--dtype", "f64"], "--dtype goes with --shapes"),
        (["HEAD", "--shapes", "3"], "ROWSxCLASSES"),
        (["HEAD", "--op", "sideways"], "'sideways' is not one of forward, backward, fused"),
        (["HEAD", "--json", "nowhere/x.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_gated_exits_with_2_and_says_why(arguments, said, project, monkeypatch):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(main, ["gate", *arguments])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())


def test_outside_of_a_checkout_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["gate", "HEAD"])
    assert result.exit_code == 2
    assert "is in no git repository" in result.output


def test_a_mistake_of_the_gates_own_does_not_exit_as_slower(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(run, "run", lambda *_: 1 / 0)
    result = CliRunner().invoke(main, ["gate", "HEAD"])
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.output
