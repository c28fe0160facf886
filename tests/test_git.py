"""Which commit a record is of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from softmax_ce_bench.measure import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("1")
    for words in (
        ("init", "--quiet"), ("add", "."),
        ("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "--quiet", "-m", "first"),
    ):  # fmt: skip
        git.ask(tmp_path, *words)
    return tmp_path


def test_a_commit_is_named_with_a_sign_when_files_differ(checkout: Path) -> None:
    head = git.ask(checkout, "rev-parse", "HEAD")
    assert git.commit(checkout / "kept") == head[:12]
    (checkout / "new").write_text("not of the commit, and not in it either")
    assert git.commit(checkout / "kept") == head[:12]
    (checkout / "kept" / "file").write_text("2")
    assert git.commit(checkout / "kept") == head[:12] + "+"


def test_a_folder_below_somebody_elses_checkout_has_none(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert git.commit(checkout / "site-packages") is None


def test_outside_a_checkout_and_without_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git.commit(tmp_path) is None
    with pytest.raises(subprocess.CalledProcessError):
        git.ask(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.commit(tmp_path) is None
