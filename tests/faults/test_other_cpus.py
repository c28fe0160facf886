"""CPUs without AVX2 or AVX-512, emulated: no illegal instruction, right results, on every backend."""

from __future__ import annotations

import platform
import shutil
import sys

import pytest

from child import python, survive
from conftest import available

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")

pytestmark = [
    pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64 (Debian: apt install qemu-user)"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the extension here is not x86-64's"),
]

RUN = """
import scenario, softmax_ce as sce
from softmax_ce.threads import sharing_from
name = {name!r}
if name == "cython":
    print(sce.get_backend(name).details)
for dtype in {dtypes}:
    for rows, classes in ((1, 1), (33, 7), (20, 100), (5, 3001), (2, 9001)):
        x, y = scenario.problem(rows, classes, dtype)
        alone = sce.cross_entropy_with_grad(x, y, reduction="none", backend=name, threads=2)
        with sharing_from(1):
            shared = sce.cross_entropy_with_grad(x, y, reduction="none", backend=name, threads=2)
        for result in (alone, shared):
            scenario.agree(result, scenario.truth(x, y), 2e-3 if dtype == "float16" else 1e-5)
"""


@pytest.mark.parametrize(("cpu", "best"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("naive", "numpy", "numba")), "cython"]
)
def test_an_older_cpu(name: str, cpu: str, best: str) -> None:
    available(name)
    assert QEMU is not None
    # NumPy's OpenBLAS, which nothing here calls, takes the emulated Nehalem for a later one at import, and dies.
    environment = {"OPENBLAS_CORETYPE": cpu}
    command = (QEMU, "-cpu", cpu, sys.executable)
    # Numba compiles for minutes in the emulator: one dtype will do.
    dtypes = ("float32",) if name == "numba" else ("float16", "float32", "float64")
    output = survive(RUN.format(name=name, dtypes=dtypes), timeout=600, command=command, **environment)
    assert name != "cython" or f"instruction set {best} " in output


def test_the_fault_is_real() -> None:
    """The emulator does end a process that runs what such a CPU lacks."""
    available("cython")
    assert QEMU is not None
    code = """
import ctypes, mmap
code = mmap.mmap(-1, mmap.PAGESIZE, prot=7)
code.write(bytes.fromhex("c5fdefc0 c3"))  # vpxor ymm0, ymm0, ymm0; ret: AVX2
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"""
    assert python(code, timeout=600, command=(QEMU, "-cpu", "Haswell", sys.executable)).returncode == 0
    assert python(code, timeout=600, command=(QEMU, "-cpu", "Nehalem", sys.executable)).returncode != 0
