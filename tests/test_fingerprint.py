"""The fingerprint: the same from process to process, and moved by whatever changes what runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import softmax_ce as sce
from helpers import run_python
from softmax_ce import threads
from softmax_ce.choice import fingerprint
from softmax_ce.choice.fingerprint import Difference

PRINT = "import json; from softmax_ce.choice import fingerprint; print(json.dumps(fingerprint.collect()))"


def test_what_is_collected() -> None:
    found = fingerprint.collect()
    assert found["numpy"] == np.__version__
    assert found["softmax_ce"] == sce.__version__
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["cpus_available"] == threads.available_cpus()
    assert found["cpus_installed"] == os.cpu_count()
    try:
        assert found["numba"] == metadata.version("numba")
    except metadata.PackageNotFoundError:
        assert found["numba"] is None
    assert found["os"] == f"{platform.system()} {platform.machine()}"
    assert found["instruction_sets"] == list(fingerprint.instruction_sets())
    assert found["kernels"] == fingerprint.kernels_hash()
    assert len(found["cpu"]) > 0


def test_where_the_cpus_cannot_be_counted_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert fingerprint.collect()["cpus_installed"] == 1


@pytest.mark.parametrize(
    "variable",
    [
        "NPY_DISABLE_CPU_FEATURES",
        "NUMBA_CPU_FEATURES",
        "NUMBA_CPU_NAME",
        "NUMBA_DISABLE_JIT",
        "NUMBA_OPT",
        "SOFTMAX_CE_ISA",
        "SOFTMAX_CE_STREAM_BYTES",
    ],
)
def test_a_setting_shows_by_its_name_where_it_is_set(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert variable not in fingerprint.collect()["settings"]
    monkeypatch.setenv(variable, "")
    assert variable not in fingerprint.collect()["settings"]
    monkeypatch.setenv(variable, " 1")
    here = fingerprint.collect()
    assert here["settings"][variable] == "1"
    stored = here | {"settings": here["settings"] | {"NUMBA_X": ""}}  # as it was once stored
    assert fingerprint.differences(stored, here) == []


def test_it_survives_json_and_another_process() -> None:
    here = fingerprint.collect()
    assert fingerprint.differences(json.loads(json.dumps(here)), here) == []
    assert fingerprint.differences(json.loads(run_python(PRINT)), here) == []


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("OMP_NUM_THREADS", "1", "cpus_available"),
        ("SOFTMAX_CE_ISA", "baseline", "settings"),
        ("NUMBA_DISABLE_JIT", "1", "settings"),
    ],
)
def test_settings_that_change_the_speed_show(variable: str, value: str, field: str) -> None:
    here = fingerprint.collect() | {"cpus_available": 2}  # as if there were two, where there is one
    there = json.loads(run_python(PRINT, **{"OMP_NUM_THREADS": "2", variable: value}))
    if field == "settings":
        assert there["settings"] == here["settings"] | {variable: value}
    else:
        assert there[field] == 1
    differ = [difference.field for difference in fingerprint.differences(there, here)]
    assert differ == ["settings"] * (field == "settings")  # what a process may use is no mark of the machine


def test_no_backend_is_loaded() -> None:
    code = """
import sys
from softmax_ce.choice import fingerprint
fingerprint.collect()
print(sorted(name for name in sys.modules if name.startswith(("softmax_ce._backends.", "numba", "llvmlite"))))
"""
    assert run_python(code).strip() == "[]"


def test_differences_name_the_field_and_both_values() -> None:
    here = {"cpu": "A", "numpy": "2.1", "numba": None}
    stored = {"cpu": "A", "numpy": "2.2", "numba": "0.61", "extra": 1}
    found = fingerprint.differences(stored, here)
    assert found == [Difference("numpy", "2.2", "2.1"), Difference("numba", "0.61", None), Difference("extra", 1, None)]
    assert str(found[0]) == "numpy is '2.1' here and '2.2' in the profile"


@pytest.mark.parametrize("length", [1, 78, 79, 80, 10_000])
def test_a_value_of_up_to_80_characters_is_shown_whole(length: int) -> None:
    value = "x" * length
    text = str(Difference("cpu", value, "y"))
    shown = repr(value) if length <= 78 else f"'{value[:59]}… ({length + 2} characters)"  # 2: the quotes
    assert text == f"cpu is 'y' here and {shown} in the profile"


def test_the_hash_is_that_of_the_files_and_moves_with_each(tmp_path: Path) -> None:
    package = Path(sce.__file__).parent
    copy = tmp_path / "softmax_ce"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from softmax_ce.choice import fingerprint; print(fingerprint.__file__); print(fingerprint.kernels_hash())"

    def hashed() -> str:
        lines = subprocess.run(
            [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}; {code}"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        assert lines[0].startswith(str(tmp_path))
        return lines[1]

    before = hashed()
    assert before == fingerprint.kernels_hash(), "a copy elsewhere is the same build"
    library = next(copy.rglob("_kernels.*.so"), None)
    changed = {before}
    for path in filter(
        None, (library, copy / "_backends" / "shifted.py", copy / "_backends" / "numba_jit" / "rows.py")
    ):
        path.write_bytes(path.read_bytes() + b"\n")
        changed.add(hashed())
    assert len(changed) == 3 + (library is not None)
    (copy / "_backends" / "cython" / "build_error.txt").write_text("a note is no code")
    assert hashed() in changed
    assert all(len(one) == hashlib.sha256().digest_size * 2 for one in changed)


def test_a_processor_that_linux_does_not_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append((command, options))
        return subprocess.CompletedProcess(command, 0, "Apple M9\n", "")

    def refuse(self: Path, **options: object) -> str:
        raise OSError("no such file")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert fingerprint._cpuinfo.__wrapped__() == {}
    monkeypatch.setattr(fingerprint, "_cpuinfo", dict)
    monkeypatch.setattr(subprocess, "run", run)
    for system, name in (("Darwin", "Apple M9"), ("FreeBSD", "a processor")):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        monkeypatch.setattr(platform, "processor", lambda: "a processor")
        assert fingerprint.cpu_model.__wrapped__() == name
    assert asked == [
        (["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], {"capture_output": True, "text": True, "check": False})
    ]
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert fingerprint.cpu_model.__wrapped__() == "riscv64"
    found = {"SIMD Extensions": {"baseline": ["NEON"], "found": ["ASIMD", "SVE"]}}
    for config, sets in ((found, ("NEON", "ASIMD", "SVE")), ({}, ())):
        monkeypatch.setattr(np, "show_config", lambda mode, config=config: config if mode == "dicts" else None)
        assert fingerprint.instruction_sets.__wrapped__() == sets


def test_linux_s_description_of_the_first_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: A: B\nflags\t\t: fpu avx avx2 sse4_2x avx512f\n\nmodel name\t: C\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **options: text if str(self) == "/proc/cpuinfo" else "")
    found = fingerprint._cpuinfo.__wrapped__()
    assert found == {"processor": "0", "model name": "A: B", "flags": "fpu avx avx2 sse4_2x avx512f"}
    monkeypatch.setattr(fingerprint, "_cpuinfo", lambda: found)
    assert fingerprint.cpu_model.__wrapped__() == "A: B"
    assert fingerprint.instruction_sets.__wrapped__() == ("avx", "avx2", "avx512f")


def test_a_description_that_is_not_utf_8_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_bytes(b"model name\t: A\xff\n")
    monkeypatch.setattr(fingerprint, "Path", lambda _: tmp_path / "cpuinfo")
    assert fingerprint._cpuinfo.__wrapped__() == {"model name": "A\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize(
    ("described", "named", "sets"),
    [
        ({"model name": "A", "cpu family": "6", "model": "85", "stepping": "7", "flags": "x sse4_2 f16c fma amx_tile"},
         "A (cpu family 6, model 85, stepping 7)", ("sse4_2", "f16c", "fma", "amx_tile")),
        ({"Model": "Raspberry", "CPU implementer": "0x41", "CPU part": "0xd0b", "Features": "fp asimd sve sve2"},
         "Raspberry (CPU implementer 0x41, CPU part 0xd0b)", ("asimd", "sve", "sve2")),
        ({"model name": "A"}, "A", None),
    ],
)  # fmt: skip
def test_a_processor_is_told_by_its_numbers_too(
    described: dict[str, str], named: str, sets: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_cpuinfo", lambda: described)
    monkeypatch.setattr(fingerprint, "cpu_model", fingerprint.cpu_model.__wrapped__)
    assert fingerprint._cpu() == named
    if sets is not None:
        assert fingerprint.instruction_sets.__wrapped__() == sets
