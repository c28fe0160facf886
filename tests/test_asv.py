"""The asv suite as tests: it is found, imports only what asv's environments have, and computes what it says."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from asv.config import Config
from asv.util import load_json
from asv_runner.benchmarks.mark import SkipNotImplemented
from asv_runner.discovery import disc_benchmarks, update_sys_path
from asv_runner.run import _run

import softmax_ce
from helpers import known
from softmax_ce_bench.truth.oracle import evaluate
from tools.history.machine import describe

ROOT = Path(__file__).resolve().parents[1]
SUITE = ROOT / "bench" / "suite"


def _found():
    before = list(sys.meta_path)
    update_sys_path(str(SUITE))  # how asv imports the suite: by its folder's name, without its parent's other modules
    try:
        return list(disc_benchmarks(str(SUITE)))
    finally:
        sys.meta_path[:] = before


BENCHMARKS = _found()
NAMED = {found.name: found for found in BENCHMARKS}
inputs = importlib.import_module("suite.inputs")
accuracy = importlib.import_module("suite.accuracy")
reference = importlib.import_module("suite.reference")


def _tables(module):
    """The tables of shapes in a module of the suite."""
    return [value for value in vars(module).values() if isinstance(value, dict) and value and _is_table(value)]


def _is_table(value):
    return all(isinstance(shape, tuple) and len(shape) == 2 for shape in value.values())


def _params(kind):
    """Every cell of the benchmarks of one of asv's types."""
    return [
        pytest.param(found, cell, id="-".join(map(str, (found.name, *cell))))
        for found in BENCHMARKS
        if found.type == kind and not found.name.startswith("starts.")
        for cell in itertools.product(*found._params)
    ]


@pytest.fixture
def few_rows(monkeypatch):
    """As many classes keep the same kernel paths."""
    for found in BENCHMARKS:
        for table in _tables(sys.modules[type(found.func.__self__).__module__]):
            for name, (rows, classes) in table.items():
                monkeypatch.setitem(table, name, (min(rows, 16 if classes <= 256 else 2), classes))


def _set_up(found, cell):
    suite = found.func.__self__
    try:
        suite.setup(*cell)
    except SkipNotImplemented as skipped:
        pytest.skip(str(skipped))
    return suite


def _divergence(x, z):
    log_p, log_t = scipy.special.log_softmax(x, axis=1), scipy.special.log_softmax(z, axis=1)
    return (np.exp(log_t) * (log_t - log_p)).sum(axis=1), np.exp(log_p) - np.exp(log_t)


def _layer(layer, labels, reduce):
    hidden, weight, bias = (each.astype(np.float64) for each in layer)
    x = hidden @ weight.T + bias
    at_label = np.arange(len(x)), labels
    loss = scipy.special.logsumexp(x, axis=1) - x[at_label]
    grad = scipy.special.softmax(x, axis=1)
    grad[at_label] -= 1
    if reduce:
        loss, grad = loss.mean(), grad / len(x)
    names = (inputs.operations.LINEAR_LOSS, *inputs.operations.LINEAR_GRADS)
    return dict(zip(names, (loss, grad @ weight, grad.T @ hidden, grad.sum(axis=0)), strict=True))


def _check(found, cell, result, reduce):
    """Loss or gradient or both, against SciPy."""
    named = dict(zip(found.param_names, cell, strict=True))
    module = sys.modules[type(found.func.__self__).__module__]
    (shape,) = {table[named["shape"]] for table in _tables(module) if named["shape"] in table}
    operation, dtype = named.get("operation", "fused"), named.get("dtype", "float32")
    logits, labels = inputs.logits(*shape, dtype), inputs.labels(*shape)
    x = logits.astype(np.float64)
    at_label = np.arange(len(x)), labels
    loss = scipy.special.logsumexp(x, axis=1) - x[at_label]
    grad = scipy.special.softmax(x, axis=1)
    grad[at_label] -= 1
    p = scipy.special.softmax(x, axis=1)
    hess, (kl, kl_grad) = p * (1 - p), _divergence(x, inputs.operations.make_target_logits(logits).astype(float))
    if reduce:
        loss, kl = loss.mean(), kl.mean()
        grad, hess, kl_grad = (each / len(x) for each in (grad, hess, kl_grad))
    right = {
        "loss": loss,
        "grad": grad,
        "hess": hess,
        "kl": kl,
        "kl_grad": kl_grad,
        "lse": scipy.special.logsumexp(x, axis=1),
    }
    right |= {name: getattr(scipy.special, name)(x, axis=1) for name in ("softmax", "log_softmax")}
    if inputs.operations.TABLE[operation].takes_layer:
        right = _layer(inputs.operations.make_layer(logits), labels, reduce)
    # Wide enough for a backend without care; how accurate each must be is the correctness suite's matter.
    tolerance = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-10}[dtype]
    for part, ours in inputs.operations.TABLE[operation].results(result).items():
        assert ours.dtype == ("float32" if dtype == "float16" and ours.ndim < 2 else dtype)
        np.testing.assert_allclose(ours, right[part], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("found", "cell"), _params("time"))
def test_a_timed_call_computes_what_it_is_named_for(few_rows, found, cell):
    suite = _set_up(found, cell)
    found.func(*cell)
    _check(found, cell, suite.call(), reduce=found.name.startswith("calls."))


@pytest.mark.parametrize(("found", "cell"), _params("peakmemory"))
def test_what_memory_is_measured_of_is_right(few_rows, found, cell):
    _set_up(found, cell)
    _check(found, cell, found.func(*cell), reduce=True)


@pytest.mark.parametrize(("found", "cell"), _params("track"))
def test_the_worst_error_is_that_of_a_good_exponential(found, cell):
    suite = _set_up(found, cell)
    named = dict(zip(found.param_names, cell, strict=True))
    wide = named["shape"] == "boosting, 4096 x 10"
    if softmax_ce.get_backend(named["backend"]).info.stable:
        assert 0 < suite.track_worst_error(*cell) < 4
    elif wide and named["result"] == "loss" and named["dtype"] == "float32":
        with pytest.raises(SkipNotImplemented, match="overflows"):
            suite.track_worst_error(*cell)
    else:  # p - 1 where p is close to 1
        assert (suite.track_worst_error(*cell) > 1e5) == wide


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_suites_reference_is_the_oracles(dtype):
    logits, labels = inputs.logits(64, 10, dtype), inputs.labels(64, 10)
    loss, grad = reference.reference(logits, labels)
    truth = evaluate(logits, labels)
    np.testing.assert_allclose(loss.value, truth.loss.astype(np.longdouble), rtol=1e-17)
    np.testing.assert_allclose(grad.value, truth.grad.astype(np.longdouble), rtol=1e-17)


def test_an_error_is_measured_in_units_of_the_last_place():
    right = np.array([1.0, 1000.0, 1e-40], np.longdouble)
    truth = reference.ExactValue(right, np.array([1, 4, 1]))
    exact = right.astype(np.float32)
    truth = truth._replace(value=exact.astype(np.longdouble))
    assert reference.worst_error(exact, truth) == 0
    for position, units, expected in ((0, 3, 3.0), (1, 3, 0.75), (2, 2, 2.0)):
        off = exact.copy()
        for _ in range(units):
            off[position] = np.nextafter(off[position], np.float32(np.inf))
        assert reference.worst_error(off, truth) == expected
    with pytest.raises(ValueError, match="1 of 3 results are not finite"):
        reference.worst_error(np.array([1, np.nan, 0], np.float32), truth)


@pytest.mark.parametrize("backend", inputs.BACKENDS)
def test_a_first_call_is_a_right_one(backend):
    found = NAMED["starts.FirstCall.timeraw_cached"]
    _set_up(found, (backend,))
    statement, before = found.func(backend)
    names: dict[str, Any] = {}
    exec(before, names)
    loss, grad = eval(statement, names)
    assert loss == pytest.approx(math.log(10), rel=1e-6)
    np.testing.assert_allclose(grad, np.full((1, 10), 0.1) - np.eye(1, 10), atol=1e-7)


def test_importing_is_what_the_import_is_timed_of():
    statement, before = NAMED["starts.Import.timeraw_import"].func()
    code = f"{before}\nimport sys; had = 'softmax_ce' in sys.modules\n{statement}\nprint(had, softmax_ce.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", softmax_ce.__version__]


@pytest.mark.slow
@pytest.mark.parametrize("backend", inputs.BACKENDS)
def test_nothing_is_on_disk_before_compilation_is_timed(backend, tmp_path):
    found = NAMED["starts.Compilation.timeraw_nothing_cached"]
    _set_up(found, (backend,))
    statement, before = found.func(backend)
    count = "len([file for _, _, files in os.walk(folder.name) for file in files])"
    code = f"{before}\nbegin = {count}\n{statement}\nprint(begin, {count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    begin, end = map(int, done.stdout.split())
    assert begin == 0
    assert end > 0


def test_setup_prepares_once_for_all_samples():
    found = NAMED["kernels.InCache.time_call"]
    cell = ("fused", "numpy", "float32", "vision, 64 x 1000")
    suite = _set_up(found, cell)
    call = suite.call
    suite.setup(*cell)
    assert suite.call is call


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inputs_are_frozen(dtype):
    # A change here is a change in the history that no commit has made: count the versions up.
    logits, labels = inputs.logits(1000, 2000, dtype), inputs.labels(100_000, 1000)
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits[0, :3], [20.825259327586515, -15.69871800307396, 1.2321266720138828], rtol=1e-6)
    np.testing.assert_allclose(logits.sum(dtype=np.float64), -12631.6, rtol=1e-6)
    np.testing.assert_array_equal(labels[:8], [60, 698, 225, 317, 230, 61, 114, 476])
    assert labels.sum() == 13_108_559
    vocabulary = inputs.logits(30, 32_000, dtype)
    assert 0.08 < (vocabulary - vocabulary.max(axis=1, keepdims=True) < np.log(2.0**-126)).mean() < 0.12


def _stored(name, cell, path):
    """What asv's own runner writes for one cell."""
    found = NAMED[name]
    k = list(itertools.product(*found._params)).index(cell)
    _run((str(SUITE), f"{name}-{k}", json.dumps({"repeat": 1, "number": 1, "warmup_time": 0}), "None", str(path)))
    return json.loads(path.read_text())


@pytest.mark.parametrize("error", [ImportError("not built"), ValueError("unknown backend")])
def test_a_backend_that_is_not_there_is_skipped_and_does_not_fail(monkeypatch, tmp_path, few_rows, error):
    name, cell = "kernels.InCache.time_call", ("forward", "numpy", "float32", "boosting, 4096 x 10")
    samples = _stored(name, cell, tmp_path / "there")["samples"]
    assert len(samples) == 1

    def refuse(backend):
        raise error

    inputs.prepared.cache_clear()
    monkeypatch.setattr(softmax_ce, "get_backend", refuse)
    assert math.isnan(_stored(name, cell, tmp_path / "skipped"))  # asv's sign for "skipped"


def test_an_option_that_a_commit_lacks_is_skipped():
    inputs.require("numpy", "threads", "z_loss")
    with pytest.raises(SkipNotImplemented, match="no option colour, sound at this commit"):
        inputs.require("numpy", "threads", "colour", "sound")


def test_one_cpu_skips_what_needs_two(monkeypatch):
    found = NAMED["threads.Threads.time_two_threads"]
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(SkipNotImplemented, match="one CPU"):
        found.func.__self__.setup("numpy", "vision, 1024 x 1000")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ASV_COMMIT": "abc", "ASV_ENV_DIR": "there"}, str(Path("there", "numba-cache", "abc"))),
        ({"ASV_COMMIT": "abc", "ASV_ENV_DIR": "there", "NUMBA_CACHE_DIR": "mine"}, "mine"),
        ({}, "None"),  # the working tree, with asv-quick: the user's own cache
    ],
)
def test_each_commit_has_a_cache_of_compiled_kernels_of_its_own(variables, expected):
    code = f"import os, runpy; runpy.run_path({str(SUITE / '__init__.py')!r}); print(os.environ.get('NUMBA_CACHE_DIR'))"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASV_", "NUMBA_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_asv_is_told_what_machine_this_is(tmp_path):
    path = describe("ours", tmp_path / "home")
    assert path == tmp_path / "home" / ".asv-machine.json"
    told = json.loads(path.read_text())["ours"]
    assert told["machine"] == "ours"
    assert int(told["num_cpu"]) == os.cpu_count()
    assert int(told["ram"]) > 1e5  # kilobytes
    assert {"arch", "cpu", "os"} < set(told)
    path.write_text(json.dumps({"ours": told | {"cpu": "edited by hand"}, "version": 1}))
    describe("ours", tmp_path / "home")
    describe("other", tmp_path / "home")
    stored = json.loads(path.read_text())
    assert stored["ours"]["cpu"] == "edited by hand"
    assert stored["other"]["cpu"] == told["cpu"]


def test_the_suite_measures_every_registered_backend():
    names = [info.name for info in softmax_ce.backends()]
    for found in BENCHMARKS:
        if "backend" in found.param_names:
            assert found._params[found.param_names.index("backend")] == names
    others = [found.name for found in BENCHMARKS if "backend" not in found.param_names]
    assert others == ["starts.Import.timeraw_import"]


def test_every_benchmark_has_a_version_of_its_own():
    # asv's own version is a hash of the source, which does not cover the inputs.
    assert {found.name for found in BENCHMARKS if not hasattr(type(found.func.__self__), "version")} == set()


def test_the_suite_imports_only_what_asv_installs():
    allowed = {*sys.stdlib_module_names, "asv_runner", "numpy", "softmax_ce"}  # asv installs its runner everywhere
    imported = set()
    for path in SUITE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(known(node.module).partition(".")[0])
    assert imported - allowed == set()
    assert imported >= {"numpy", "softmax_ce"}


def test_the_config_has_no_key_that_asv_does_not_know():
    config = load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    known = {*vars(Config()), "version", "build_cache_size"}  # these two asv reads elsewhere
    assert set(config) - known == set()
    assert set(config["matrix"]) - {"req", "env", "env_nobuild"} == set()


def test_the_config_names_this_project_and_its_suite():
    config = load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert config["project"] == project["name"]  # what its uninstall command removes
    assert ROOT / config["benchmark_dir"] == SUITE
