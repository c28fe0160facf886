"""The command line: what it prints, and with which code it exits."""

from __future__ import annotations

import json
import platform
import re
import sys
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

import softmax_ce as sce
from helpers import run_python
from softmax_ce import auto, registry, threads
from softmax_ce_bench import __main__, cli, conformance, timing

HOW_TO_GET = f"pip install {'a-' * 50}command-that-must-not-be-wrapped"


@pytest.fixture
def run(monkeypatch):
    """Runs the command, with eight short rounds where it measures; gives the click result."""
    monkeypatch.setattr(timing, "measure", partial(timing.measure, most_rounds=8, sample_seconds=2e-4))
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def own(tmp_path):
    """Small arrays of one's own, with a row that overflows unshifted."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40, 6)).astype(np.float32)
    logits[7, 2] = 200
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "targets.npy", rng.integers(0, 6, 40))
    return "--logits", tmp_path / "logits.npy", "--targets", tmp_path / "targets.npy"


@pytest.fixture
def missing(monkeypatch):
    """A backend that is known and cannot be loaded; gives its name."""
    info = sce.BackendInfo("absent", "no_such_module_anywhere", how_to_get=HOW_TO_GET)
    monkeypatch.setitem(registry._known(), "absent", info)
    yield "absent"
    registry._loaded.pop("absent", None)


def widest(text):
    """The longest line's length, but for those on missing backends, which stay whole however long they are."""
    whole = re.compile(r"  (To get \S+:|\S+ is not available here:) ")
    return max(len(line) for line in text.splitlines() if not whole.match(line))


def words(text):
    """What is said, however the columns are spaced."""
    return " ".join(text.split())


# info


def test_info_says_what_a_bug_report_needs(run, missing, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = run("info")
    assert result.exit_code == 0
    for fact in (
        sce.__version__,
        platform.python_version(),
        f"numpy {np.__version__}",
        "OMP_NUM_THREADS=1",
        "1 available to this process",
        f"default backend   {auto.default_name()}",
        "No module named 'no_such_module_anywhere'",
        f"To get absent: {HOW_TO_GET}",
    ):
        assert fact in result.stdout
    for info in sce.backends():
        assert info.name in result.stdout
    assert widest(result.stdout) <= cli.WIDTH


def test_info_as_json(run, missing):
    facts = json.loads(run("info", "--json").stdout)
    assert (facts["schema"], facts["version"]) == ("softmax-ce/info", 1)
    assert facts["cpus_available"] == threads.available_cpus()
    assert facts["packages"]["numpy"] == np.__version__
    found = {backend["name"]: backend for backend in facts["backends"]}
    assert list(found) == [info.name for info in sce.backends()]
    assert found["absent"]["available"] is False
    assert found["absent"]["how_to_get"] == HOW_TO_GET
    assert found["numpy"]["available"] is True
    assert found["naive"]["stable"] is False
    assert facts["cpu"]


# check


@pytest.fixture
def conforming(monkeypatch):
    """Stands in for the conformance checks; gives the calls, and `wrong`: the backends that fail."""
    calls: list[tuple] = []
    wrong: set[str] = set()

    def run_checks(backend, dtypes, threads, on_result=None):
        calls.append((backend, tuple(dtypes), tuple(threads)))
        results = [
            conformance.Result(
                "known_values", dtype, count, backend not in wrong, 0.9961, "entry 3 is 1.0" * (backend in wrong)
            )
            for dtype in dtypes
            for count in threads
        ]
        for result in results:
            on_result(result)
        return results

    monkeypatch.setattr(conformance, "run_checks", run_checks)
    monkeypatch.setattr(conformance, "count_checks", lambda *_: 4)
    return calls, wrong


def test_check_runs_every_available_backend(run, conforming, missing):
    calls, _ = conforming
    dtypes = ("float32", "float64", "float16", *(("bfloat16",) if find_spec("ml_dtypes") else ()))
    count = 2 * len(dtypes)
    result = run("check")
    assert result.exit_code == 0
    expected = [info.name for info in sce.backends() if info.available]
    assert calls == [(name, dtypes, (1, 2)) for name in expected]
    for name in expected:
        assert f"{name} {count} {count} 0 0.996 known_values [float32, threads=1]" in words(result.stdout)
    assert "absent is not available here: No module named 'no_such_module_anywhere'\n" in result.stdout
    assert "All checks passed." in result.stdout


def test_check_runs_what_is_asked_for(run, conforming):
    calls, _ = conforming
    assert run("check", "numpy", "naive", "--dtype", "float64", "--threads", "1,3").exit_code == 0
    assert calls == [("numpy", ("float64",), (1, 3)), ("naive", ("float64",), (1, 3))]


def test_check_fails_with_the_message(run, conforming):
    _, wrong = conforming
    wrong.add("naive")
    result = run("check", "numpy", "naive", "--dtype", "float32,float64")
    assert result.exit_code == 1
    assert "numpy 4 4 0 0.996" in words(result.stdout)
    assert "naive 4 0 4 0.996" in words(result.stdout)
    assert "FAILED naive: known_values [float64, threads=2]: entry 3 is 1.0" in result.stdout
    assert "4 failed." in result.stdout


def test_check_of_a_real_backend(run):
    result = run("check", "numpy", "--dtype", "float32", "--threads", "1", "--verbose")
    assert result.exit_code == 0, result.stdout
    count = conformance.count_checks(["float32"], [1], "numpy")
    assert f"numpy {count} {count} 0" in words(result.stdout)
    assert "small_loss_is_not_zero" not in result.stdout  # asked of float64 only
    assert "confident_gradient_is_not_zero 1 of 1" in words(result.stdout)


@pytest.mark.parametrize("command", [("check", "numpyy"), ("compare", "--backend", "numpyy")])
def test_an_unknown_backend(run, command):
    result = run(*command)
    assert result.exit_code == 2
    assert "unknown backend 'numpyy'; known backends: naive, numpy" in result.stderr


@pytest.mark.parametrize("command", [("check",), ("compare", "--backend")])
def test_an_unavailable_backend(run, missing, command):
    result = run(*command, missing)
    assert result.exit_code == 2
    assert "backend 'absent' is not available: No module named" in result.stderr
    assert f"To get it: {HOW_TO_GET}" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "float31", "'float31' is not one of float32, float64"),
        ("--threads", "two", "'two' is not a list of whole numbers"),
        ("--threads", "0", "at least 1"),
    ],
)
def test_check_refuses_options(run, option, value, message):
    result = run("check", option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_check_without_ml_dtypes(run, conforming, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda _name: None)
    assert run("check", "numpy").exit_code == 0
    assert conforming[0] == [("numpy", ("float32", "float64", "float16"), (1, 2))]
    result = run("check", "numpy", "--dtype", "bfloat16")
    assert result.exit_code == 2
    assert "bfloat16 needs ml_dtypes" in result.stderr


def test_check_refuses_to_run_without_assertions():
    code = """
from click.testing import CliRunner
from softmax_ce_bench import cli, conformance
try:
    conformance.run_checks("numpy", ("float32",), (1,))
except RuntimeError as error:
    print(error)
result = CliRunner().invoke(cli.main, ["check", "numpy"])
print(result.exit_code, result.stderr.splitlines()[-1])
"""
    why = "the checks are assertions: run Python without -O"
    assert run_python(code, PYTHONOPTIMIZE="1").splitlines() == [why, f"2 Error: {why}"]


# compare


def test_compare_own_arrays(run, own, tmp_path, missing):
    path = tmp_path / "out.json"
    result = run("compare", *own, "--time-budget", "600", "--threads", "1", "--json", path)
    assert result.exit_code == 0, result.stderr
    assert "logits.npy: 40 x 6 float32, your own arrays" in result.stdout
    assert "naive is not ranked here: NaN or infinite in 1 of 40 checked rows" in result.stdout
    assert "absent is not available here: No module named" in result.stdout
    assert f"To get absent: {HOW_TO_GET}" in result.stdout
    assert "differs from itself by" in result.stdout
    assert "\x1b" not in result.stdout  # neither colour nor a progress bar in a pipe
    assert widest(result.stdout) <= cli.WIDTH
    recorded = json.loads(path.read_text())
    assert recorded["settings"]["threads"] == 1
    assert recorded["settings"]["time_budget"] == 600
    (workload,) = recorded["workloads"]
    available = [info.name for info in sce.backends() if info.available]
    assert {backend["name"] for backend in workload["backends"]} == set(available)
    assert workload["fastest"]["fused"][0] in result.stdout


def test_compare_only_what_is_asked_for_and_the_base(run, own, tmp_path):
    path = tmp_path / "out.json"
    assert run("compare", *own, "--backend", "naive", "--time-budget", "0", "--json", path).exit_code == 0
    (workload,) = json.loads(path.read_text())["workloads"]
    assert [backend["name"] for backend in workload["backends"]] == ["numpy", "naive"]
    assert workload["rounds"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], "--logits and --targets go together"),
        (lambda a: a[2:], "--logits and --targets go together"),
        (lambda a: (*a, "--dtype", "float64"), "--dtype is for the built-in workloads"),
        (lambda a: (a[0], "nowhere.npy", *a[2:]), "nowhere.npy: no such file"),
        (lambda a: (a[0], __file__, *a[2:]), "is not an .npy array"),
        (lambda a: (*a, "--json", "no/such/folder/out.json"), "there is no folder"),
        (lambda a: (*a, "--threads", "0"), "--threads"),
        (lambda a: (*a, "--time-budget", "-1"), "--time-budget"),
    ],
)
def test_compare_refuses_in_one_line(run, own, change, message):
    result = run("compare", *change(own))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_bad_labels_name_the_first(run, own):
    labels = np.load(own[3])
    labels[5] = 6
    np.save(own[3], labels)
    result = run("compare", *own)
    assert result.exit_code == 2
    assert "target 6 at position 5 is outside [0, 6)" in result.stderr
    assert "label rows that are to be ignored -100" in result.stderr


@pytest.mark.parametrize("useless", ["logits", "labels"])
def test_data_that_tells_nothing_is_said_so(run, own, useless):
    if useless == "logits":
        np.save(own[1], np.full((40, 6), np.nan))
    else:
        np.save(own[3], np.full(40, -100))
    result = run("compare", *own, "--backend", "numpy", "--time-budget", "0")
    assert result.exit_code == 0, result.stderr
    assert "Warning: none of the 40 checked rows has a finite result and counts" in words(result.stdout)


def test_an_interrupt_ends_cleanly(run, own, tmp_path, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    path = tmp_path / "out.json"
    result = run("compare", *own, "--json", path)
    assert result.exit_code == cli.INTERRUPTED == 130
    assert "Interrupted." in result.stderr
    assert not path.exists()


# the entry point


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "click" or name == "softmax_ce_bench.cli"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["softmax_ce_bench"], "cli")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "softmax-ce needs click, which is not installed: pip install 'softmax-ce[bench]'\n"


def test_a_missing_module_of_ones_own_is_not_hidden(monkeypatch):
    def broken(**_options):
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        __main__.main()


def test_version_and_help(run):
    assert run("--version").stdout == f"softmax-ce, version {sce.__version__}\n"
    assert all(command in run("--help").stdout for command in ("info", "check", "compare"))
