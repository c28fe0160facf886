"""Every example runs, and computes what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

import profiles
import softmax_ce as sce
from conftest import available
from softmax_ce import profile
from softmax_ce_bench import cli

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
LIBRARIES = ROOT / "docs" / "how-to" / "other-libraries.md"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_untested() -> None:
    found = sorted(path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__")
    assert found == [
        "README.md", "accumulation.py", "backend_package", "ci", "digits.py", "ladder.py", "language_model.py",
        "mpi_classes.py", "service.py",
    ]  # fmt: skip


def test_softmax_regression_learns_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    loss, right = load("digits").main()
    assert loss == pytest.approx(0.2473, abs=5e-4)
    assert right == pytest.approx(0.96, abs=0.01)
    assert "held-out digits recognised" in capsys.readouterr().out


def test_accumulated_micro_batches_are_the_whole_batch(capsys: pytest.CaptureFixture[str]) -> None:
    loss, grad = load("accumulation").main()
    assert loss < 1e-14
    assert grad < 1e-14
    one, accumulated, naive = (float(line.split(":")[1].split()[0]) for line in capsys.readouterr().out.splitlines())
    assert accumulated == pytest.approx(one, rel=1e-11)
    assert abs(naive - one) > 1e-3


def test_a_language_model_learns_the_same_with_both_losses(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    before, after = load("language_model").main(["--steps", "4", "--rows", "64", "--characters", "1500000"])
    assert after == pytest.approx(before, rel=1e-5)
    assert after[-1] < after[0]
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_of_mpi_have_the_loss_and_the_gradient_of_one() -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    # Open MPI refuses to run as root, and to start more processes than there are CPUs, unless it is told to.
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    allowed["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    program = [sys.executable, "-m", "mpi4py", str(EXAMPLES / "mpi_classes.py"), "--check"]
    losses = set()
    for processes in (1, 2, 4):
        command = [mpiexec, "-n", str(processes), *program]
        done = subprocess.run(command, env={**os.environ, **allowed}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{processes} processes with {32_000 // processes} of 32000 classes" in done.stdout
        assert "with the same bits on each process" in done.stdout
        losses.add(re.findall(r"loss ([\d.]+),", done.stdout)[0])
        differences = re.findall(r"one call: loss (\S+), gradient (\S+)", done.stdout)[0]
        assert max(map(float, differences)) < 1e-6
    assert len({round(float(loss), 5) for loss in losses}) == 1


# The ladder


def test_every_version_of_the_ladder_computes_the_same() -> None:
    ladder = load("ladder")
    logits, labels = ladder.inputs(300, 1000)  # two blocks, the second one shorter
    assert [version.__doc__[:2] for version in ladder.VERSIONS] == ["1.", "2.", "3.", "4.", "5."]
    for version in ladder.VERSIONS:
        assert ladder.error(version, logits, labels) < 1e-5, version.__name__


def test_only_the_naive_version_overflows() -> None:
    ladder = load("ladder")
    logits, labels = np.array([[100.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 1])
    for version in ladder.VERSIONS:
        grad = np.empty_like(logits)
        with np.errstate(all="ignore"):
            loss = version(logits, labels, grad)
        assert np.isfinite(grad).all() == (version is not ladder.naive), version.__name__
        assert np.isfinite(loss) == (version is not ladder.naive), version.__name__


def test_the_ladder_prints_a_line_for_each_version(capsys: pytest.CaptureFixture[str]) -> None:
    load("ladder").main(["--rows", "20", "--classes", "30", "--rounds", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["naive", "shifted", "in_place", "blocked", "fused"]
    assert [line.split()[4] for line in lines[2:3]] == ["1.00x"]


# The service


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, str]]:
    """Address and first line of a service that runs meanwhile."""
    command = [sys.executable, str(EXAMPLES / "service.py"), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"port (\d+)", line)
            assert found, process.communicate()[1]
            yield f"http://127.0.0.1:{found[1]}", line
        finally:
            process.kill()


def ask(address: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """Status and answer to a request."""
    try:
        with urllib.request.urlopen(address, json.dumps(request).encode(), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_service_answers_and_follows_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    cells = [
        profiles.cell(64, 10, {"numpy": 1e-6, "cython": 1e-3}, operation=name)
        for name in ("forward", "backward", "fused")
    ]
    profile.save(profiles.profile(cells), path)
    logits, labels = [[5.0, 2.0, -1.0, 3.0], [0.0, 1.0, 0.0, 0.0]], [0, 1]
    with serving("--profile", str(path)) as (address, line):
        assert line.rstrip().endswith("with numpy")
        status, answer = ask(address, logits=logits, labels=labels)
        assert (status, answer["backend"]) == (200, "numpy")
        expected = sce.cross_entropy(np.array(logits, np.float32), labels, reduction="none", backend="numpy")
        np.testing.assert_array_equal(np.float32(answer["loss"]), expected)
        np.testing.assert_allclose(np.sum(answer["probabilities"], axis=1), 1, rtol=1e-6)
        status, answer = ask(address, logits=logits, labels=[0, 7])
        assert status == 400
        assert "7" in answer["error"]
        assert ask(address, logits=logits)[0] == 400


def test_the_service_starts_without_a_profile() -> None:
    with serving() as (address, _):
        status, answer = ask(address, logits=[[0.0, 0.0]], labels=[1])
        assert status == 200
        assert answer["loss"] == pytest.approx([np.log(2)], rel=1e-6)


def test_the_service_refuses_to_start_with_another_machine_s_profile(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile.save(profiles.profile([profiles.cell(64, 10, {"numpy": 1e-6})]), path)
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'("cpu": )"[^"]*"', r'\1"another one"', text), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "service.py"), "--port", "0", "--profile", str(path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "ProfileError" in done.stderr
    assert "another one" in done.stderr


# A backend in a package of its own


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the example's package installed."""
    work = tmp_path_factory.mktemp("package")
    source, target = work / "source", work / "site"
    shutil.copytree(EXAMPLES / "backend_package", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--no-build-isolation", "--no-index", "--target", str(target), str(source),
        ],
        check=True, timeout=300, env={**os.environ, "PYTHONPATH": "", "PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip
    path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def test_an_installed_backend_is_listed_and_agrees(installed: dict[str, str]) -> None:
    code = """
import numpy as np, softmax_ce as sce
print(*[info.name for info in sce.backends() if info.available][-1:])
x = np.random.default_rng(0).normal(size=(200, 30)) * 20
for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-3}, {"weight": np.linspace(0.5, 2, 30)}):
    for y in (np.arange(200) % 30, np.full((200, 30), 1 / 30)):
        mine, theirs = (sce.cross_entropy_with_grad(x, y, backend=name, **options) for name in ("blockwise", "numpy"))
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-13)
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-11, atol=1e-300)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "blockwise\n"


def test_an_installed_backend_passes_the_correctness_suite(installed: dict[str, str]) -> None:
    command = ["check", "blockwise", "--dtype", "float64", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "softmax_ce_bench", *command], capture_output=True, text=True, timeout=300, env=installed
    )
    assert done.returncode == 0, done.stdout
    assert "All checks passed." in done.stdout


# Continuous integration


def test_the_workflow_fits_the_schema() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([*command, str(EXAMPLES / "ci" / "speed-gate.yml")], check=True, timeout=60, capture_output=True)


def step() -> str:
    """The script that asks the gate."""
    workflow = yaml.safe_load((EXAMPLES / "ci" / "speed-gate.yml").read_text(encoding="utf-8"))
    (script,) = (each["run"] for each in workflow["jobs"]["gate"]["steps"] if "softmax-ce gate" in each.get("run", ""))
    return script


def test_the_workflow_calls_the_gate_with_options_that_it_has() -> None:
    known = {option for parameter in cli.main.commands["gate"].params for option in parameter.opts}
    assert {word for word in step().split() if word.startswith("--")} == {"--json", "--html"} <= known


@pytest.mark.parametrize(("verdict", "code"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_the_workflow_turns_a_verdict_into_a_result(verdict: int, code: int, tmp_path: Path) -> None:
    command = tmp_path / "softmax-ce"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit {verdict}\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", step()], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "BASE": "main"},
    )  # fmt: skip
    assert done.returncode == code
    assert ("::warning" in done.stdout) == (verdict == 3)
    assert (tmp_path / "arguments").read_text() == "gate origin/main HEAD --json gate.json --html gate.html\n"


# What the guide to other libraries shows


def blocks() -> list[Any]:
    """The guide's pieces of code, with what each imports."""
    text = LIBRARIES.read_text(encoding="utf-8")
    found = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert [title for title, _ in found] == ["PyTorch", "JAX", "SciPy and scikit-learn"]
    return [pytest.param(code, id=title.split()[0]) for title, code in found]


@pytest.mark.filterwarnings("default")  # the libraries' own
@pytest.mark.parametrize("code", blocks())
def test_what_the_guide_to_other_libraries_shows(code: str) -> None:
    """In a process of its own: some of these libraries set up threads that others do not get along with."""
    available("numpy")
    for library in set(re.findall(r"^(?:import|from) (torch|jax|scipy|sklearn)", code, re.MULTILINE)):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["linear-layer", "several-machines"])
def test_what_a_guide_shows_runs_from_top_to_bottom(page: str) -> None:
    """Up to the first block whose library is missing."""
    available("numpy")
    text = LIBRARIES.with_name(f"{page}.md").read_text(encoding="utf-8")
    code = []
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        libraries = set(re.findall(r"^(?:import|from) (torch|dask)", block, re.MULTILINE))
        if any(importlib.util.find_spec(library) is None for library in libraries):
            break
        code.append(block)
    assert code
    done = subprocess.run([sys.executable, "-c", "".join(code)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
