"""What setup.py asks of a compiler: a stand-in writes down its arguments, refuses some, and makes empty files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import environment_without

ROOT = Path(__file__).resolve().parents[1]
COMPILER = """#!/bin/sh
echo "$@" >> {log}
for argument; do
    if [ "$argument" = "{refused}" ]; then exit 1; fi
done
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then : > "$2"; fi
    shift
done
"""


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C code from Cython stays from one build to the next."""
    return tmp_path_factory.mktemp("translated")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize("refused", ["-fsched-pressure", "nothing"])
def test_a_compiler_gets_the_options_that_it_knows(refused: str, translated: Path, tmp_path: Path) -> None:
    log, compiler = tmp_path / "log", tmp_path / "cc"
    compiler.write_text(COMPILER.format(log=log, refused=refused))
    compiler.chmod(0o755)
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "build",
        "--build-lib",
        str(tmp_path / "lib"),
        "--build-temp",
        str(translated),
    ]
    environment = environment_without(
        "LDSHARED",
        CC=str(compiler),
        LDFLAGS="-Wl,-rpath,/asked/for",
        SOFTMAX_CE_REQUIRE_ALL="1",
        SOFTMAX_CE_SANITIZE="",
    )
    done = subprocess.run(
        [*command, "build_ext", "--force"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "lib").rglob("*.so"))) == 2

    trial, *runs = log.read_text().splitlines()
    compiled = [run for run in runs if " -c " in run]
    linked = [run for run in runs if "-shared" in run or "-bundle" in run]
    assert "-fsched-pressure" in trial
    assert len(compiled) > 8
    assert len(linked) == 2
    for run in compiled:
        assert ("-fsched-pressure" in run) == (refused == "nothing")
        assert "-ffp-contract=off" in run
        assert "-march" not in run
        assert run.rindex("-g0") > run.rfind("-g ")  # the last one counts
    for run in linked:  # this Python's own search path is not in it
        assert [part for part in run.split() if "rpath" in part] == ["-Wl,-rpath,/asked/for"]
