"""The history: what asv has stored is read as it is, its steps are found, and its page works without a network."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from asv.config import Config
from asv.results import Results
from asv.runner import BenchmarkResult
from asv_runner.discovery import list_benchmarks
from click.testing import CliRunner

from tools.history import HistoryError, Series, read, steps
from tools.history.__main__ import main
from tools.history.figure import draw, main_cells

ROOT = Path(__file__).resolve().parents[1]
COMMITS, STEP = 8, 4  # Cython takes half of the time from the commit STEP on
MACHINE = "ours"


def _git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _benchmarks():
    before = list(sys.meta_path)
    written = io.StringIO()
    try:
        list_benchmarks(str(ROOT / "bench" / "suite"), written)
    finally:
        sys.meta_path[:] = before
    return {each["name"]: each for each in json.loads(written.getvalue())}


def level(cell, k):
    """Seconds of a cell at commit k."""
    if "'naive'" in cell:
        return math.nan  # skipped
    place = 1 + sum(map(len, cell)) % 7
    return 1e-3 * place * (0.5 if "'cython'" in cell and k >= STEP else 1.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A checkout of eight commits, and what asv would have stored of them."""
    folder = tmp_path_factory.mktemp("project")
    config = json.loads(re.sub(r"//.*", "", (ROOT / "asv.conf.json").read_text(encoding="utf-8")))
    (folder / "asv.conf.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "bench" / "suite").mkdir(parents=True)
    results = folder / config["results_dir"]
    (results / MACHINE).mkdir(parents=True)
    benchmarks = _benchmarks()
    (results / "benchmarks.json").write_text(json.dumps(benchmarks | {"version": 2}))
    facts = {"machine": MACHINE, "cpu": "a CPU", "num_cpu": "2", "os": "an OS", "arch": "a", "ram": "1", "version": 1}
    (results / MACHINE / "machine.json").write_text(json.dumps(facts))
    _git(folder, "init", "--quiet", "--initial-branch=main")
    random = np.random.default_rng(0)
    for k in range(COMMITS):
        when = f"2026-01-0{k + 1}T00:00:00+0000"
        _git(folder, "commit", "--quiet", "--allow-empty", f"--date={when}", "-m", f"Commit {k}")
        commit = _git(folder, "rev-parse", "HEAD")
        stamp = 1000 * int(datetime(2026, 1, k + 1, tzinfo=UTC).timestamp())
        params = facts | {"python": "3.11", "numpy": "2.4.6", "numba": "0.68.1", "llvmlite": "0.50.0"}
        stored = Results(params, {}, commit, stamp, "3.11", "virtualenv-py3.11", {})
        for benchmark in benchmarks.values():
            values = [level(cell, k) for cell in itertools.product(*benchmark["params"])]
            timed = benchmark["type"] == "time"
            samples = [list(v * random.uniform(0.99, 1.01, 20)) if timed and v == v else None for v in values]
            numbers = [1 if each else None for each in samples]
            done = BenchmarkResult(values, samples, numbers, 0, "", None)
            stored.add_result(benchmark, done, started_at=datetime(2026, 2, 3, k, tzinfo=UTC), duration=1.0)
        stored.save(str(results))
    return folder


@pytest.fixture(scope="module")
def history(project):
    return read(project / "asv.conf.json", MACHINE)


# Reading


def test_every_cell_is_read_in_the_order_of_the_commits(project, history):
    assert [commit.subject for commit in history.commits] == [f"Commit {k}" for k in range(COMMITS)]
    assert [commit.hash for commit in history.commits] == _git(project, "rev-list", "--reverse", "HEAD").split()
    assert history.commits[3].measured == datetime(2026, 2, 3, 3, tzinfo=UTC)
    assert history.machine["cpu"] == "a CPU"
    assert history.environment == {"python": "3.11", "numpy": "2.4.6", "numba": "0.68.1", "llvmlite": "0.50.0"}
    assert len(history.series) == sum(math.prod(map(len, each["params"])) for each in _benchmarks().values())
    for series in history.series:
        cell = [f"'{value}'" for value in series.params.values()]
        expected = [level(cell, k) for k in range(COMMITS)]
        if expected[0] != expected[0]:
            assert series.values == (None,) * COMMITS
            continue
        np.testing.assert_allclose(series.values, expected, rtol=0.01)
        if series.benchmark.startswith("kernels."):
            assert all(a <= v <= b for a, v, b in zip(series.low, series.values, series.high, strict=True))


def test_one_series_is_found_by_name(history):
    series = history.find("InCache.time_call", operation="fused", backend="numba", dtype="float64",
                          shape="vision, 64 x 1000")  # fmt: skip
    assert series.unit == "seconds"
    assert series.params["dtype"] == "float64"
    with pytest.raises(HistoryError, match=r"0 series instead of one for InCache\.time_call, backend=nonesuch"):
        history.find("InCache.time_call", backend="nonesuch")
    with pytest.raises(HistoryError, match="instead of one"):
        history.find("InCache.time_call", backend="numba")


def test_a_result_of_another_version_of_the_benchmark_is_no_point(project, tmp_path):
    copy = shutil.copytree(project, tmp_path / "copy")
    path = copy / ".asv" / "results" / "benchmarks.json"
    stored = json.loads(path.read_text())
    stored["kernels.InCache.time_call"]["version"] = "999"
    path.write_text(json.dumps(stored))
    changed = read(copy / "asv.conf.json", MACHINE)
    for series in changed.series:
        gone = series.benchmark == "kernels.InCache.time_call" or series.params.get("backend") == "naive"
        assert (series.values == (None,) * COMMITS) == gone


def test_what_is_missing_is_named(project, tmp_path):
    (tmp_path / "asv.conf.json").write_text((project / "asv.conf.json").read_text())
    with pytest.raises(HistoryError, match=r"nothing is stored in .*results; `make asv` measures"):
        read(tmp_path / "asv.conf.json", MACHINE)
    with pytest.raises(HistoryError, match="machine 'theirs'; there are results for ours"):
        read(project / "asv.conf.json", "theirs")


# Steps


def _series(values):
    nothing = (None,) * len(values)
    return Series("a.B.time_c", {}, "seconds", tuple(values), nothing, nothing)


def test_the_steps_are_where_they_were_put(history):
    for series in history.series:
        found = steps(series)
        if series.params.get("backend") == "cython":
            (step,) = found
            assert step.commit == STEP
            assert step.ratio == pytest.approx(0.5, rel=0.01)
            assert step.before == pytest.approx(series.values[0], rel=0.01)
        else:
            assert found == []


def test_a_late_small_step_is_found_beside_an_early_large_one():
    noise = 1 + 0.005 * np.random.default_rng(1).standard_normal(20)
    values = np.repeat([7.0, 1.0, 0.9], [4, 8, 8]) * noise
    found = steps(_series(values))
    assert [step.commit for step in found] == [4, 12]
    assert [step.ratio for step in found] == pytest.approx([1 / 7, 0.9], rel=0.01)


def test_noise_and_small_changes_are_no_steps():
    noise = 1 + 0.01 * np.random.default_rng(2).standard_normal(12)
    assert steps(_series(noise)) == []
    assert steps(_series(np.repeat([1.0, 1.03], 6))) == []
    assert [step.ratio for step in steps(_series(np.repeat([1.0, 1.03], 6)), least=0.02)] == pytest.approx([1.03])


def test_commits_without_a_value_are_passed_over():
    found = steps(_series([4.0, None, 4.0, 4.0, None, 2.0, 2.0, 2.0, None]))
    assert [(step.commit, step.before, step.after) for step in found] == [(5, pytest.approx(4), pytest.approx(2))]
    assert steps(_series([None, None])) == []


# The command and the figure


def test_the_command_prints_the_steps_and_draws(project, tmp_path):
    figure = tmp_path / "history.svg"
    arguments = ["--machine", MACHINE, "--config", str(project / "asv.conf.json"), "--figure", str(figure)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "8 commits, 24 cells" in result.output
    changed = [line for line in result.output.splitlines() if "-50%" in line]
    assert len(changed) == 8  # the eight panels of one backend
    assert "Commit 4" in changed[0]
    assert all("cython" in line for line in changed)
    assert figure.read_text().startswith("<?xml")
    everything = CliRunner().invoke(main, [*arguments[:4], "--all"])
    cells = sum(1 for series in read(project / "asv.conf.json", MACHINE).series if steps(series))
    assert sum("-50%" in line for line in everything.output.splitlines()) == cells > 50


def test_the_command_says_what_is_wrong(project, tmp_path):
    result = CliRunner().invoke(main, ["--machine", "theirs", "--config", str(project / "asv.conf.json")])
    assert result.exit_code == 2
    assert "nothing is stored for a machine 'theirs'" in result.output
    result = CliRunner().invoke(main, ["--machine", MACHINE, "--config", str(project / "asv.conf.json"),
                                       "--figure", str(tmp_path / "none" / "a.svg")])  # fmt: skip
    assert result.exit_code == 2
    assert "there is no folder" in result.output


def test_the_same_results_give_the_same_picture(history, tmp_path):
    for name in ("a.svg", "b.svg"):
        draw(history, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert len(main_cells(history, "cython")) == 8


# asv's page


def test_asv_publishes_what_was_measured(project):
    asv = [sys.executable, "-m", "asv", "publish", "--no-pull"]
    subprocess.run(asv, cwd=project, capture_output=True, text=True, check=True)
    html = project / Config.load(str(project / "asv.conf.json")).html_dir
    assert (html / "index.html").is_file()
    (graph,) = (html / "graphs").glob(f"**/machine-{MACHINE}/**/kernels.InCache.time_call.json")
    curve = json.loads(graph.read_text(encoding="utf-8"))
    cells = list(itertools.product(*_benchmarks()["kernels.InCache.time_call"]["params"]))
    assert len(curve) == COMMITS
    for k, (_, values) in enumerate(curve):
        expected = [level(cell, k) for cell in cells]
        np.testing.assert_allclose([np.nan if value is None else value for value in values], expected, rtol=0.01)
