"""The workflows and their scripts: what they call is there, and a verdict becomes the right exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS = [
    pytest.param(path.stem, name, job, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items()
]
# What a job may do beyond reading; no other job may do more.
PERMISSIONS = {
    ("release", "publish"): {"id-token": "write"},
    ("pages", "publish"): {"id-token": "write", "pages": "write"},
}
TARGETS = set(re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "pages.yml", "release.yml", "wheels.yml"]
    assert {"test", "lint", "wheel"} <= TARGETS


def test_what_a_target_installs_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = set(re.findall(r"\.with-([a-z]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert installed == {"test", "lint", "history", "mutants", "wheels", "peers", "docs", "integrations"}
    assert installed <= extras.keys()
    assert set(re.findall(r"[a-z]+", extras["dev"][0].partition("[")[2])) <= installed


@pytest.mark.parametrize(("workflow", "name", "job"), JOBS)
def test_what_a_job_runs_is_there(workflow: str, name: str, job: dict[str, Any]) -> None:
    commands = [step["run"] for step in job.get("steps", []) if "run" in step]
    assert commands or "uses" in job or name == "publish"
    for command in commands:
        for target in re.findall(r"\bmake ([a-z0-9-]+)", command):
            assert target in TARGETS
        for script in re.findall(r"\.ci/[a-z-]+", command):
            assert os.access(ROOT / script, os.X_OK), script
    if "uses" in job:
        assert (ROOT / job["uses"]).is_file()


@pytest.mark.parametrize(("workflow", "name", "job"), JOBS)
def test_a_job_ends_and_may_do_little(workflow: str, name: str, job: dict[str, Any]) -> None:
    assert "uses" in job or job["timeout-minutes"] <= 120
    assert job.get("permissions") == PERMISSIONS.get((workflow, name))
    for step in job.get("steps", []):
        if "uses" in step:
            assert re.fullmatch(r"[\w/-]+@(v\d+|release/v\d+)", step["uses"])
            assert "checkout" not in step["uses"] or step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}


def test_publishing_waits_for_the_tag_and_the_wheels() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    jobs = workflow["jobs"]
    assert jobs["publish"]["needs"] == "build"
    assert jobs["build"]["needs"] == "tag"


def scripts(folder: Path, name: str) -> Path:
    """A copy of one of `.ci`'s scripts, which works in the folder above its own."""
    (folder / ".ci").mkdir()
    return Path(shutil.copy(ROOT / ".ci" / name, folder / ".ci" / name))


@pytest.mark.parametrize(
    ("verdict", "code", "said"),
    [
        (0, 0, ""),
        (1, 1, "::error title=Slower::"),
        (2, 2, "::error title=The gate failed::It ended with exit code 2 "),
        (3, 0, "::warning title=Inconclusive::"),
        (130, 130, "::error title=The gate failed::It ended with exit code 130 "),
    ],
)
def test_what_a_pull_request_shows_of_the_gate(verdict: int, code: int, said: str, tmp_path: Path) -> None:
    script = scripts(tmp_path, "gate")
    command = tmp_path / ".venv" / "bin" / "softmax-ce"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\necho "$@" > arguments\nexit {verdict}\n')
    command.chmod(0o755)
    done = subprocess.run([script, "origin/main"], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.startswith(said)
    assert bool(done.stdout) == bool(said)
    assert (tmp_path / "arguments").read_text() == "gate origin/main HEAD --json gate.json --html gate.html\n"


def test_a_gate_without_a_base_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    done = subprocess.run([scripts(tmp_path, "gate")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: .ci/gate BASE\n")


@pytest.mark.parametrize(
    ("tag", "heading", "error"),
    [
        ("v1.2.3", "## [1.2.3] - 2026-11-21", ""),
        ("v1.2.4", "## [1.2.3] - 2026-11-21", "v1.2.4 is not the tag of version 1.2.3"),
        ("1.2.3", "## [1.2.3] - 2026-11-21", "1.2.3 is not the tag of version 1.2.3"),
        ("v1.2.3", "## [Unreleased]", 'CHANGELOG.md has no section "## [1.2.3] - YYYY-MM-DD"'),
        ("v1.2.3", "## [1.2.3]", "CHANGELOG.md has no section"),
    ],
)
def test_what_may_be_released(tag: str, heading: str, error: str, tmp_path: Path) -> None:
    script = scripts(tmp_path, "release-check")
    (tmp_path / "kernels" / "softmax_ce").mkdir(parents=True)
    (tmp_path / "kernels" / "softmax_ce" / "_version.py").write_text('"""The version."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- New.\n")
    done = subprocess.run([script, tag], capture_output=True, text=True)
    assert done.returncode == bool(error)
    assert error in done.stderr
    assert bool(done.stderr) == bool(error)


def test_the_readme_of_a_release_links_to_the_repository(tmp_path: Path) -> None:
    script = scripts(tmp_path, "release-readme")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    done = subprocess.run([script, "owner/name", "v1.2.3"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    before, after = (re.findall(r"\]\(([^)]+)\)", each) for each in (text, written))
    here = "https://github.com/owner/name/blob/v1.2.3/"
    assert before
    assert after == [link if ":" in link else here + link for link in before]
    assert written.replace(here, "") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ci", "README.md"]
