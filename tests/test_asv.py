"""The asv suite as tests: it is found, imports only what asv's environments have, and computes what it says."""

from __future__ import annotations

import ast
import itertools
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from asv.config import Config
from asv.util import load_json
from asv_runner.discovery import disc_benchmarks, update_sys_path

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


def _small(name, value):
    """Fewer rows: as many classes keep the same kernel paths."""
    return (min(value[0], 16), value[1]) if name == "shape" else value


def _cells():
    cells = []
    for found in BENCHMARKS:
        suite = found.func.__self__
        for values in itertools.product(*suite.params):
            small = tuple(map(_small, suite.param_names, values))
            cells.append(pytest.param(found, small, id="-".join(map(str, (found.name, *small)))))
    return cells


@pytest.mark.parametrize(("found", "params"), _cells())
def test_a_benchmark_computes_what_it_is_named_for(found, params):
    suite = found.func.__self__
    try:
        suite.setup(*params)
    except NotImplementedError as skipped:
        pytest.skip(str(skipped))
    found.func(*params)
    operation, _, dtype, _ = params
    x = suite.logits.astype(np.float64)
    at_label = np.arange(len(x)), suite.labels
    loss = scipy.special.logsumexp(x, axis=1) - x[at_label]
    grad = scipy.special.softmax(x, axis=1)
    grad[at_label] -= 1
    expected = {"forward": (loss,), "backward": (grad,), "fused": (loss, grad)}[operation]
    result = suite.call()
    # Wide enough for a backend without care; how accurate each must be is the correctness suite's matter.
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    for ours, reference in zip(result if isinstance(result, tuple) else (result,), expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, reference, rtol=tolerance, atol=tolerance)


def test_the_suite_measures_every_registered_backend():
    import softmax_ce

    names = [info.name for info in softmax_ce.backends()]
    for found in BENCHMARKS:
        suite = found.func.__self__
        if "backend" in suite.param_names:
            assert suite.params[suite.param_names.index("backend")] == names
    assert any("backend" in found.func.__self__.param_names for found in BENCHMARKS)


def test_every_benchmark_has_a_version_of_its_own():
    # asv's own version is a hash of the source, which does not cover the inputs.
    assert {found.name for found in BENCHMARKS if not hasattr(type(found.func.__self__), "version")} == set()


def test_the_suite_imports_only_what_asv_installs():
    allowed = {*sys.stdlib_module_names, "numpy", "softmax_ce"}
    imported = set()
    for path in SUITE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
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
