"""Buffers that end at a protected page, on either side: nothing is read or written beyond them."""

from __future__ import annotations

import signal
import sys

import pytest

import softmax_ce as sce
from child import ending, python
from conftest import available

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")


def sweep(call: str, **environment: str) -> None:
    done = python(f"import guarded; print('cases:', {call})", timeout=300, **environment)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{ending(done)} at {last}\n{done.stderr}"
    assert int(last[0].partition("cases: ")[2]) > 100


@pytest.mark.slow
def test_numpy_backends() -> None:
    for name in ("naive", "numpy"):
        sweep(f"guarded.sweep({name!r})")


@pytest.mark.parametrize("stream_from", ["0", str(1 << 40)], ids=["streamed", "cached"])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_every_instruction_set(isa: str, stream_from: str) -> None:
    available("cython")
    if isa not in sce.get_backend("cython").details:
        pytest.skip(f"this CPU cannot run {isa}")
    environment = {"SOFTMAX_CE_ISA": isa, "SOFTMAX_CE_STREAM_BYTES": stream_from}
    sweep("guarded.sweep('cython')", **environment)
    sweep("guarded.sweep_casts('cython')", **environment)


@pytest.mark.parametrize("stream_from", ["1", str(1 << 40)], ids=["streamed", "cached"])
def test_numba(stream_from: str) -> None:
    available("numba")
    sweep("guarded.sweep('numba')", SOFTMAX_CE_STREAM_BYTES=stream_from)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["haswell", "nehalem"])
def test_numba_for_another_cpu(cpu: str) -> None:
    """As LLVM lowers masked loads and stores where the CPU has none, or only some."""
    available("numba")
    sweep("guarded.sweep('numba')", NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")


@pytest.mark.parametrize("fault", ["read_one_beyond", "read_one_before", "write_one_beyond"])
def test_a_kernel_that_goes_beyond_is_caught(fault: str) -> None:
    done = python(f"import guarded; guarded.sweep('wrong', kernels=guarded.wrong(guarded.{fault}))")
    assert done.returncode == -signal.SIGSEGV or "AddressSanitizer" in done.stderr, ending(done)


def test_a_kernel_that_writes_beside_is_caught() -> None:
    """Away from the page, where nothing faults."""
    done = python(
        "import ctypes, guarded\n"
        "def fault(x, grad): ctypes.memset(grad.ctypes.data - 8, 0, 8)\n"
        "guarded.sweep('wrong', kernels=guarded.wrong(fault))"
    )
    # A staged gradient lies on the heap. The C library may find its damage first, and ends the process.
    found = "written beside grad" in done.stderr or "AddressSanitizer" in done.stderr
    assert found or done.returncode == -signal.SIGABRT, ending(done)
