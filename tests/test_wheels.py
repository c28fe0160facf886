"""The checks of ``make wheel`` find what they are for: each is shown what is right, and what has the fault."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import softmax_ce as sce
from conftest import available
from tools.wheels import contents, linking, machine_code
from tools.wheels.commands import Wrong

x86_64_linux = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("gcc") and shutil.which("objdump")),
    reason="needs Linux, gcc and objdump",
)


def library(folder: Path, source: str, code: str, *options: str) -> Path:
    """A shared library from C code in a file of this name."""
    (folder / source).write_text(code)
    target = folder / f"{Path(source).stem}.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", source, "-o", target, *options], cwd=folder, check=True)
    return target


@pytest.mark.parametrize(
    ("code", "text", "level"),
    [
        ("0f28c1", "movaps %xmm1,%xmm0", "baseline"),
        ("660fefc0", "pxor   %xmm0,%xmm0", "baseline"),
        ("f30fbcc0", "tzcnt  %eax,%eax", "baseline"),  # on older CPUs bsf
        ("c3", "ret", "baseline"),
        ("f30f16c1", "movshdup %xmm1,%xmm0", "avx2"),
        ("660f3840c1", "pmulld %xmm1,%xmm0", "avx2"),
        ("660f3a0bc101", "roundsd $0x1,%xmm1,%xmm0", "avx2"),
        ("f3480fb8c0", "popcnt %rax,%rax", "avx2"),
        ("c5fdefc0", "vpxor  %ymm0,%ymm0,%ymm0", "avx2"),
        ("c4e270f2c2", "andn   %edx,%ecx,%eax", "avx2"),
        ("62f1fd48efc0", "vpxorq %zmm0,%zmm0,%zmm0", "avx512"),
        ("62f1fd08efc0", "vpxorq %xmm0,%xmm0,%xmm0", "avx512"),  # its names alone would not tell
        ("c5f892c8", "kmovw  %eax,%k1", "avx512"),
    ],
)
def test_the_level_of_an_instruction(code: str, text: str, level: str) -> None:
    assert machine_code.level(bytes.fromhex(code), text) == level


LOOP = """
__attribute__((noinline{target})) static void work(float *x) {{ for (int i = 0; i < 4096; ++i) x[i] *= x[i]; }}
void call(float *x) {{ work(x); }}
"""


@x86_64_linux
@pytest.mark.skipif(not machine_code.runs_here(), reason="the compiler's machine code is not x86-64's")
@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("plain.c", "", None),
        ("plain.c", "avx2", "work of plain.c may use baseline and has avx2"),
        ("plain.c", "avx512f,prefer-vector-width=512", "work of plain.c may use baseline and has avx"),
        ("rows_avx2_f32.c", "avx2", None),
        ("rows_avx2_f32.c", "avx512f,prefer-vector-width=512", "work of rows_avx2_f32.c may use avx2 and has avx512"),
        ("rows_avx512_f32.c", "avx512f,prefer-vector-width=512", None),
    ],
)
def test_an_instruction_in_the_wrong_function_is_found(
    source: str, target: str, found: str | None, tmp_path: Path
) -> None:
    code = LOOP.format(target=f', optimize("O3"), target("{target}")' if target else "")
    faults = list(machine_code.faults(library(tmp_path, source, code)))
    assert len(faults) == (found is not None), faults
    assert found is None or found in faults[0]


@x86_64_linux
def test_a_stripped_library_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="no table of symbols"):
        list(machine_code.faults(library(tmp_path, "plain.c", LOOP.format(target=""), "-s")))


@x86_64_linux
@pytest.mark.skipif(not machine_code.runs_here(), reason="the compiler's machine code is not x86-64's")
@pytest.mark.parametrize("name", ["softmax_ce._backends.cython._kernels", "softmax_ce_bench.ceilings._loops"])
def test_the_libraries_here_run_on_every_x86_64(name: str) -> None:
    available("cython")
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    functions = machine_code.symbols(Path(spec.origin))
    assert {function.level for function in functions} == set(machine_code.LEVELS)
    assert list(machine_code.faults(Path(spec.origin))) == []


@x86_64_linux
def test_what_the_loader_looks_for(tmp_path: Path) -> None:
    library(tmp_path, "other.c", "int other(void) { return 1; }")
    code = "int other(void); int call(void) { return other(); }"
    linked = library(tmp_path, "call.c", code, "-Wl,-rpath,/somewhere", "other.so")
    assert list(linking.faults(library(tmp_path, "alone.c", "int alone(void) { return 1; }"))) == []
    assert sorted(linking.faults(linked)) == [
        "call.so carries a search path of the building machine: RUNPATH /somewhere",
        "call.so needs other.so, which not every machine has",
    ]


SOURCES = {
    "kernels/softmax_ce/__init__.py",
    "kernels/softmax_ce/py.typed",
    "kernels/softmax_ce/_backends/cython/rows.h",
    "bench/softmax_ce_bench/report/compare.schema.json",
    "tests/helpers.py",
}
METADATA = """Metadata-Version: 2.4
Requires-Python: >=3.11
License-Expression: BSD-3-Clause
Requires-Dist: numpy>=2
Requires-Dist: numba>=0.60; extra == "numba"
Description-Content-Type: text/markdown
"""
TAG = "cp311-cp311-manylinux_2_31_x86_64"


def a_wheel(folder: Path, tag: str = TAG, **changed: str | None) -> Path:
    """A wheel as it should be from SOURCES, but for its tag and these files; None leaves one out."""
    info = f"softmax_ce-{sce.__version__}.dist-info"
    files = {
        "softmax_ce/__init__.py": "",
        "softmax_ce/py.typed": "",
        "softmax_ce_bench/report/compare.schema.json": "{}",
        "softmax_ce/_backends/cython/_kernels.cpython-311-x86_64-linux-gnu.so": "",
        "softmax_ce_bench/ceilings/_loops.cpython-311-x86_64-linux-gnu.so": "",
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n",
        f"{info}/RECORD": "",
        f"{info}/top_level.txt": "",
        f"{info}/licenses/LICENSE": "",
        f"{info}/entry_points.txt": "[console_scripts]\nsoftmax-ce = softmax_ce_bench.__main__:main\n",
    } | {name.replace("INFO", info): text for name, text in changed.items()}
    path = folder / f"softmax_ce-{sce.__version__}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            if text is not None:
                archive.writestr(name, text)
    return path


def test_a_wheel_as_it_should_be(tmp_path: Path) -> None:
    assert list(contents.wheel_faults(a_wheel(tmp_path), SOURCES)) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"softmax_ce/_backends/cython/rows.h": ""}, "has softmax_ce/_backends/cython/rows.h, which does not belong"),
        ({"tests/helpers.py": ""}, "has tests/helpers.py, which does not belong"),
        ({"__editable__.softmax_ce-0.1.0.pth": ""}, "has __editable__.softmax_ce-0.1.0.pth, which does not belong"),
        ({"softmax_ce/_backends/cython/build_error.txt": ""}, "build_error.txt, which does not belong"),
        ({"softmax_ce/py.typed": None}, "lacks softmax_ce/py.typed"),
        ({"softmax_ce_bench/report/compare.schema.json": None}, "lacks softmax_ce_bench/report/compare.schema.json"),
        ({"INFO/licenses/LICENSE": None}, "licenses/LICENSE"),
        (
            {"softmax_ce/_backends/cython/_kernels.cpython-311-x86_64-linux-gnu.so": None},
            "has 0 libraries instead of one for softmax_ce/_backends/cython/_kernels",
        ),
        ({"softmax_ce/_backends/cython/_kernels.cpython-312-x86_64-linux-gnu.so": ""}, "which does not belong"),
        ({"INFO/METADATA": METADATA.replace('; extra == "numba"', "")}, "it needs numpy>=2, numba>=0.60"),
        ({"INFO/METADATA": METADATA.replace("3.11", "3.9")}, "it is for Python >=3.9"),
        ({"INFO/METADATA": METADATA.replace("BSD-3-Clause", "MIT")}, "its licence is MIT"),
        ({"INFO/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"}, "says that it holds no library"),
        ({"INFO/entry_points.txt": ""}, "does not install the command softmax-ce"),
    ],
)
def test_a_fault_in_a_wheel_is_found(changed: dict[str, Any], fault: str, tmp_path: Path) -> None:
    faults = list(contents.wheel_faults(a_wheel(tmp_path, **changed), SOURCES))
    assert len(faults) == 1, faults
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("tag", "fault"),
    [
        ("cp311-cp311-linux_x86_64", "linux_x86_64 names no platform that others have"),
        ("cp311-none-manylinux_2_31_x86_64", "is not one version of CPython"),
    ],
)
def test_a_tag_that_promises_the_wrong_thing_is_found(tag: str, fault: str, tmp_path: Path) -> None:
    faults = list(contents.wheel_faults(a_wheel(tmp_path, tag), SOURCES))
    assert len(faults) == 1, faults
    assert fault in faults[0]


def an_sdist(folder: Path, names: set[str], version: str = sce.__version__) -> Path:
    """An archive of empty files."""
    path = folder / f"softmax_ce-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in sorted(names):
            archive.addfile(tarfile.TarInfo(f"softmax_ce-{version}/{name}"), io.BytesIO())
    return path


def test_what_an_sdist_lacks_or_has_too_much(tmp_path: Path) -> None:
    made = {"PKG-INFO", "setup.cfg", "softmax_ce.egg-info/SOURCES.txt"}
    assert list(contents.sdist_faults(an_sdist(tmp_path, SOURCES | made), SOURCES)) == []
    changed = an_sdist(tmp_path, (SOURCES - {"tests/helpers.py"}) | made | {"tests/notes.txt"})
    assert sorted(contents.sdist_faults(changed, SOURCES)) == [
        f"{changed.name} has tests/notes.txt, which git does not track",
        f"{changed.name} lacks tests/helpers.py",
    ]
    (fault,) = contents.sdist_faults(an_sdist(tmp_path, SOURCES | made, "9.9"), SOURCES)
    assert fault == f"softmax_ce-9.9.tar.gz is not softmax-ce {sce.__version__}"
