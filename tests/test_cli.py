"""The command line: what it prints, and with which code it exits."""

from __future__ import annotations

import json
import platform
import re
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import clocks
import softmax_ce as sce
from helpers import known, run_python
from softmax_ce import registry, threads
from softmax_ce.choice import auto
from softmax_ce_bench import __main__, cli, conformance, peers
from softmax_ce_bench import compare as comparing
from softmax_ce_bench.measure import cold_start, timing
from softmax_ce_bench.report import record
from softmax_ce_bench.terminal.options import Duration

HOW_TO_GET = f"pip install {'a-' * 50}command-that-must-not-be-wrapped"


@pytest.fixture
def run(monkeypatch):
    """Runs the command, with eight rounds on a quiet machine where it measures; gives the click result."""
    monkeypatch.setattr(comparing, "run", partial(comparing.run, clock=clocks.quiet_machine(monkeypatch)))
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
    calls: list[tuple[Any, ...]] = []
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
    monkeypatch.setattr(sys.modules["softmax_ce_bench.cli.check"], "find_spec", lambda _name: None)
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


def test_compare_own_arrays(run, own, tmp_path, missing, monkeypatch):
    monkeypatch.setattr(cold_start, "fresh_process", lambda backend, cache: (0.1, 0.2, 0.001))  # nothing is compiled
    path = tmp_path / "out.json"
    result = run("compare", *own, "--time-budget", "10m", "--threads", "1", "--peers", "none", "--json", path)
    assert result.exit_code == 0, result.stderr
    assert "logits.npy: 40 x 6 float32, your own arrays, 1 thread" in result.stdout
    assert "naive is not ranked here: NaN or infinite in 1 of 40 checked rows" in result.stdout
    assert "absent is not available here: No module named" in result.stdout
    assert f"To get absent: {HOW_TO_GET}" in result.stdout
    assert "differs from itself by" in words(result.stdout)
    assert "\x1b" not in result.stdout  # neither colour nor a progress bar in a pipe
    assert widest(result.stdout) <= cli.WIDTH
    kept = record.load(path)
    assert kept.settings.time_budget == 600
    assert kept.complete
    (cell,) = kept.cells
    assert cell.threads == 1
    available = [info.name for info in sce.backends() if info.available]
    assert {entry.name for entry in cell.entries} == set(available)
    assert cell.operations["fused"].fastest[0] in result.stdout
    shown = run("show", path)
    assert shown.exit_code == 0
    assert shown.stdout.rstrip() + f"\nRecord written to {path}\n" == result.stdout


def test_compare_only_what_is_asked_for_and_the_base(run, own, tmp_path):
    path = tmp_path / "out.json"
    asked = ("--backend", "naive", "--peers", "none", "--op", "fused,forward", "--reduction", "sum")
    assert run("compare", *own, *asked, "--json", path).exit_code == 0
    (cell,) = record.load(path).cells
    assert [entry.name for entry in cell.entries] == ["numpy", "naive"]
    assert tuple(cell.operations) == ("forward", "fused")
    assert cell.key == "logits.npy 40x6 float32, reduction=sum, auto threads"


def test_compare_a_grid(run, tmp_path):
    path, page = tmp_path / "out.json", tmp_path / "out.md"
    asked = ("--shapes", "3x5,4x70", "--dtype", "f32,f64", "--threads", "1,2", "--backend", "numpy", "--peers", "none")
    result = run("compare", *asked, "--label-smoothing", "0.1", "--soft", "-v", "--json", path, "--markdown", page)
    assert result.exit_code == 0, result.stderr
    kept = record.load(path)
    assert [cell.key for cell in kept.cells] == [
        f"{shape} {dtype} soft, label-smoothing=0.1, {threads}"
        for dtype in ("float32", "float64") for shape in ("3x5", "4x70") for threads in ("1 thread", "2 threads")
    ]  # fmt: skip
    assert all(known(cell.entries[0].errors).over_bound <= 1 for cell in kept.cells)
    assert "3x5: 3 x 5 float32, soft targets, a requested shape, label-smoothing=0.1, 2 threads" in result.stdout
    assert widest(result.stdout) <= cli.WIDTH
    assert page.read_text().count("\n## 3x5: 3 x 5 float") == 4


def test_compare_with_a_peer(run, own, tmp_path):
    path = tmp_path / "out.json"
    asked = ("--backend", "numpy", "--peers", "scipy", "--threads", "1")
    result = run("compare", *own, *asked, "--time-budget", "300", "--json", path)
    assert result.exit_code == 0, result.stderr
    (cell,) = record.load(path).cells
    scipy = cell.entries[1]
    assert (scipy.name, scipy.status) == ("scipy", "ranked")
    assert len(scipy.timings["fused"].seconds) == cell.rounds == 8
    assert "scipy: special.log_softmax" in words(result.stdout)


def test_class_weights_from_a_file(run, own, tmp_path):
    weight, path = tmp_path / "weight.npy", tmp_path / "out.json"
    np.save(weight, np.arange(6))
    asked = ("--backend", "numpy", "--peers", "none", "--weight", weight)
    assert run("compare", *own, *asked, "--json", path).exit_code == 0
    (cell,) = record.load(path).cells
    assert cell.options.weight == "file"
    assert known(cell.entries[0].errors).over_bound <= 1
    np.save(weight, np.arange(7))
    result = run("compare", *own, *asked)
    assert result.exit_code == 2
    assert "there are 6 classes in logits.npy 40x6 float32, and the weights have the shape (7,)" in result.stderr


def test_rows_of_ones_own_label_are_ignored(run, own, tmp_path):
    labels = np.load(own[3])
    labels[::2] = 255
    np.save(own[3], labels)
    path = tmp_path / "out.json"
    asked = ("--backend", "numpy", "--peers", "none", "--ignore-index", "255", "--json", path)
    assert run("compare", *own, *asked).exit_code == 0
    (cell,) = record.load(path).cells
    assert cell.telling_rows == 20
    assert cell.options.ignore_index == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], "--logits and --targets go together"),
        (lambda a: a[2:], "--logits and --targets go together"),
        (lambda a: (*a, "--dtype", "float64"), "--dtype is for the built-in workloads"),
        (lambda a: (*a, "--set", "llm"), "--set is for the built-in workloads"),
        (lambda a: (*a, "--soft"), "--soft is for the built-in workloads"),
        (lambda a: (a[0], "nowhere.npy", *a[2:]), "nowhere.npy: no such file"),
        (lambda a: (a[0], __file__, *a[2:]), "is not an .npy array"),
        (lambda a: (*a, "--json", "no/such/folder/out.json"), "there is no folder"),
        (lambda a: (*a, "--markdown", "no/such/folder/out.md"), "there is no folder"),
        (lambda a: (*a, "--threads", "0"), "threads are at least 1"),
        (lambda a: (*a, "--threads", "1,two"), "'1,two' is not a list of whole numbers such as 1,2"),
        (lambda a: (*a, "--time-budget", "-1"), "'-1' is not a time such as 60, 60s, 2m or 1h"),
        (lambda a: (*a, "--time-budget", "0"), "'0' is not a time above 0"),
        (lambda a: (*a, "--time-budget", "3 days"), "'3 days' is not a time such as 60, 60s, 2m or 1h"),
        (
            lambda a: ("--set", "quick,vison"),
            "'vison' is not one of quick, vision, llm, boosting, segmentation, linear, vocabularies, numerics",
        ),
        (lambda a: ("--shapes", "32x1000,7"), "'7' is not ROWSxCLASSES, both at least 1, such as 32x1000"),
        (lambda a: ("--shapes", "0x5"), "'0x5' is not ROWSxCLASSES"),
        (
            lambda a: ("--dtype", "f8"),
            "'f8' is not one of float32 (f32), float64 (f64), float16 (f16), bfloat16 (bf16)",
        ),
        (lambda a: ("--op", "sideways"), "'sideways' is not one of forward, backward, fused"),
        (
            lambda a: ("--peers", "tensorflow"),
            "unknown peer 'tensorflow'; there are auto, none, torch, torch-linear, jax, sklearn",
        ),
        (lambda a: ("--ignore-index", "3"), "--ignore-index is for your own arrays"),
        (lambda a: ("--label-smoothing", "1.5"), "'1.5' is not a number of at least 0 and at most 1"),
        (lambda a: ("--z-loss", "nan"), "'nan' is not a number of at least 0"),
        (lambda a: ("--weight", "heavy"), "'heavy' is neither 'drawn' nor an .npy file"),
        (lambda a: ("--shapes", "9000000x9000000"), "needs about "),
    ],
)
def test_compare_refuses_in_one_line(run, own, change, message):
    result = run("compare", *change(own))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_peer_that_is_not_installed(run, monkeypatch):
    absent = peers.Peer("absent", "Absent", "", "absent", ("no_such_module_anywhere",), HOW_TO_GET, pytest.fail)
    monkeypatch.setitem(peers.BY_NAME, "absent", absent)
    result = run("compare", "--peers", "absent")
    assert result.exit_code == 2
    assert "peer 'absent' is not installed: no_such_module_anywhere. To get it: pip install" in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("60s", 60), ("2m", 120), ("1.5min", 90), ("1h", 3600)])
def test_durations(text, seconds):
    assert Duration().convert(text, None, None) == seconds


def test_a_duration_of_many_digits_is_refused_in_linear_time():
    with pytest.raises(click.BadParameter, match="is not a time such as"):
        Duration().convert("9" * 200_000 + "!", None, None)  # in quadratic time: for a quarter of an hour


def test_bad_labels_name_the_first(run, own):
    labels = np.load(own[3])
    labels[5] = 6
    np.save(own[3], labels)
    result = run("compare", *own)
    assert result.exit_code == 2
    assert "target 6 at position 5 is outside [0, 6)" in result.stderr
    assert "label the rows to ignore -100" in result.stderr


@pytest.mark.parametrize("useless", ["logits", "labels"])
def test_data_that_tells_nothing_is_said_so(run, own, useless):
    if useless == "logits":
        np.save(own[1], np.full((40, 6), np.nan))
    else:
        np.save(own[3], np.full(40, -100))
    result = run("compare", *own, "--backend", "numpy", "--peers", "none")
    assert result.exit_code == 0, result.stderr
    assert "Warning: none of the 40 checked rows counts and has a finite result" in words(result.stdout)


def test_an_interrupt_before_the_first_cell_leaves_nothing(run, own, tmp_path, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    path = tmp_path / "out.json"
    result = run("compare", *own, "--peers", "none", "--json", path)
    assert result.exit_code == cli.INTERRUPTED == 130
    assert "Interrupted. Nothing was measured." in result.stderr
    assert not path.exists()


def test_an_interrupt_later_keeps_what_was_measured(run, tmp_path, monkeypatch):
    real, calls = timing.measure, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(timing, "measure", interrupted)
    path = tmp_path / "out.json"
    result = run("compare", "--shapes", "3x5,4x70", "--backend", "numpy", "--peers", "none", "--json", path)
    assert result.exit_code == 130
    assert "3x5: numpy is fastest in every operation." in result.stdout
    assert "Interrupted. What is shown above is complete up to the last table." in result.stderr
    kept = record.load(path)
    assert [cell.inputs.name for cell in kept.cells] == ["3x5"]
    assert kept.complete is False
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_nothing_measured_within_the_time_is_an_error(run, own, tmp_path):
    path = tmp_path / "out.json"
    result = run("compare", *own, "--time-budget", "0.01", "--json", path)
    assert result.exit_code == 2
    assert "nothing was measured within the time; a longer --time-budget gives more" in result.stderr
    assert "not measured; the time was up" in words(result.stdout)
    assert not path.exists()


# the entry point


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "click" or name.startswith("softmax_ce_bench.cli")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["softmax_ce_bench"], "cli")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "softmax-ce needs click, which is not installed: pip install 'softmax-ce[bench]'\n"


def test_a_missing_module_of_ones_own_is_not_hidden(monkeypatch, capsys):
    def broken(**_options):
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    assert "ModuleNotFoundError: No module named 'elsewhere'" in capsys.readouterr().err


def test_version_and_help(run):
    assert run("--version").stdout == f"softmax-ce, version {sce.__version__}\n"
    assert all(command in run("--help").stdout for command in ("info", "check", "compare", "show", "diff"))
