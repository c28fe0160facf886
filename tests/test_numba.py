"""What only the Numba backend has: its machine code, how it is called without Numba's dispatcher, and its cache."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import platform
import re
import shutil
import subprocess
import sys
import threading
import types as python_types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from helpers import environment_without, run_python

ITEMSIZES = {4: "float32", 8: "float64"}
_ARITHMETIC = re.compile(r"\s+v?(add|sub|mul|div|max|min|fn?m(?:add|sub)\d+)([ps])[sd]\s")
_EXP_STEPS = 6  # multiplications of the shorter polynomial


@pytest.fixture(scope="module")
def numba_jit() -> Any:
    """The backend's package, where there is Numba."""
    available("numba")
    return importlib.import_module("softmax_ce._backends.numba_jit")


def _dispatchers(numba_jit: Any, cached: bool) -> Callable[[str, int], Any]:
    return functools.cache(
        lambda kernel, itemsize: numba_jit.dispatcher(getattr(numba_jit, kernel), itemsize, cached=cached)
    )


@pytest.fixture(scope="module")
def dispatcher(numba_jit: Any) -> Callable[[str, int], Any]:
    """(kernel, item size) -> Numba's object."""
    return _dispatchers(numba_jit, cached=True)


@pytest.fixture(scope="module")
def compiled(numba_jit: Any) -> Callable[[str, int], Any]:
    """(kernel, item size) -> Numba's object, compiled in this process: what comes from the disk has no assembly."""
    return _dispatchers(numba_jit, cached=False)


# Machine code


def innermost_loops(assembly: str) -> Iterator[list[str]]:
    """Lines between a jump back and its label, where no other such pair lies between."""
    lines = assembly.splitlines()
    labels = {line.partition(":")[0]: i for i, line in enumerate(lines) if line.startswith(".L")}
    jumps = ((labels.get(line.split()[-1]), i) for i, line in enumerate(lines) if line.lstrip().startswith("j"))
    spans = {(start, end) for start, end in jumps if start is not None and start <= end}
    for start, end in sorted(spans):
        if not any((a, b) != (start, end) and start <= a and b <= end for a, b in spans):
            yield lines[start : end + 1]


def faults_of_loops(assembly: str) -> list[str]:
    """Why the loops are not what a fast kernel's are: each scalar one, and what no packed loop does.

    Loops that call something are loops over rows or chunks, whose arithmetic is one number a row. Less arithmetic than
    an exp takes may be a jump back to a function's last instructions, which only looks like a loop.
    """
    faults = []
    packed_exp = packed_max = 0
    for loop in innermost_loops(assembly):
        found = [match for line in loop if (match := _ARITHMETIC.match(line))]
        packed = [match[1] for match in found if match[2] == "p"]
        scalar = len(found) - len(packed)
        if scalar >= _EXP_STEPS and scalar > len(packed) // 20 and not any("call" in line for line in loop):
            faults.append(f"a loop at {loop[0]} {scalar} scalar and {len(packed)} packed instructions")
        packed_exp += sum(name == "mul" or name.startswith("f") for name in packed) >= _EXP_STEPS
        packed_max += "max" in packed
    # The row's sum and its gradient, and the rows side by side.
    if packed_exp < 3:
        faults.append(f"{packed_exp} loops compute exp on vectors")
    if packed_max < 2:
        faults.append(f"{packed_max} loops take a maximum of vectors")
    return faults


@pytest.fixture(scope="module")
def scalar_twins(numba_jit: Any) -> list[str]:
    """Assembly of two kernels as one would write them: exp from libm, and a polynomial in a running sum."""
    from numba import njit, types

    def called(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            top = x[i, 0]
            for j in range(1, x.shape[1]):
                top = max(top, x[i, j])
            s = 0.0
            for j in range(x.shape[1]):
                s += np.exp(x[i, j] - top)
            for j in range(x.shape[1]):
                out[i, j] = np.exp(x[i, j] - top) / s

    def written_out(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            s = 0.0
            for j in range(x.shape[1]):
                t = x[i, j]
                s += 1 + t * (1 + t * (0.5 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t * (1 / 720 + t / 5040))))))
            out[i, 0] = s

    twins = []
    for function in (called, written_out):
        made: Any = njit(error_model="numpy")(function)
        made.compile(types.void(types.float64[:, ::1], types.float64[:, ::1]))
        twins += made.inspect_asm().values()
    return twins


on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the judge knows the instructions of x86-64 alone"
)


@on_x86
@pytest.mark.parametrize("itemsize", [4, pytest.param(8, marks=pytest.mark.slow)], ids=ITEMSIZES.values())
@pytest.mark.parametrize("kernel", ["hard_rows", "soft_rows"])
def test_hot_loops_are_vectors(compiled: Any, kernel: str, itemsize: int) -> None:
    (assembly,) = compiled(kernel, itemsize).inspect_asm().values()
    assert faults_of_loops(assembly) == []


@on_x86
def test_scalar_loops_are_found(compiled: Any, scalar_twins: list[str]) -> None:
    called, written_out = map(faults_of_loops, scalar_twins)
    none = ["0 loops compute exp on vectors", "0 loops take a maximum of vectors"]
    assert called[-2:] == none
    assert written_out[-2:] == none
    assert re.match(r"a loop at \.L\w+: \d\d scalar and 0 packed", written_out[0])
    # One scalar loop beside all the right ones is enough.
    (assembly,) = compiled("hard_rows", 4).inspect_asm().values()
    assert len(faults_of_loops(assembly + "\n" + scalar_twins[1].replace(".LBB", ".Lother"))) == len(written_out) - 2


@on_x86
@pytest.mark.parametrize(
    ("cpu", "expected"),
    [("haswell", "avx2"), ("skylake-avx512", "avx512"), ("nehalem", "baseline"), ("ivybridge", "baseline")],
)
def test_the_instruction_set_is_what_llvm_compiles_for(numba_jit: Any, cpu: str, expected: str) -> None:
    code = "from softmax_ce._backends.numba_jit.instruction_set import instruction_set as found; print(found())"
    assert run_python(code, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="").strip() == expected


# Arithmetic

_EXP = """
import numpy as np
from numba import njit
from softmax_ce._backends.numba_jit.arithmetic import exp, exp_scale
from softmax_ce._backends.numba_jit.memory import load, pointer, store
from softmax_ce._backends.numba_jit.vectors import lanes_of

@njit(error_model="numpy")
def of(t, out):
    p, q = pointer(t), pointer(out)
    for j in range(0, len(t), lanes_of(p)):
        store(q, j, exp(load(p, j)) * (1 / exp_scale(p)))

def error(t, exact):
    out = np.empty_like(t)
    of(t, out)
    right = np.exp(t.astype(exact))
    return float((np.abs(out - right) / np.spacing(right.astype(t.dtype)).astype(exact)).max())

first, last = (int(np.float32(x).view(np.uint32)) for x in (-0.0, -104.0))
bits = np.arange(first, last, 1009, dtype=np.uint32)
print(error(bits[: len(bits) // 16 * 16].view(np.float32), np.float64))
rng = np.random.default_rng(0)
print(error(np.concatenate([-746 * rng.random(1 << 16), -np.exp(rng.uniform(-30, 3, 1 << 16))]), np.longdouble))
for dtype in ("float32", "float64"):
    far = -120 if dtype == "float32" else -800
    t = np.array([-np.inf, np.nan, -np.finfo(dtype).max, -1000, -0.0, 0, -np.inf, far] * 2, dtype)
    out = np.empty_like(t)
    of(t, out)
    print(out[:8].tolist())
"""


@pytest.mark.parametrize("cpu", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nehalem",))])
def test_exp(numba_jit: Any, cpu: str) -> None:
    """Every 1009th float32 of [-104, -0]; -inf and what is far below give exactly 0, NaN stays."""
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""} if cpu else {}
    float32, float64, *ends = run_python(_EXP, **environment).splitlines()
    accuracy = sce.get_backend("numba").info.accuracy
    assert float(float32) <= accuracy["float32"].exp_ulp
    assert float(float64) <= accuracy["float64"].exp_ulp
    assert ends == ["[0.0, nan, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]"] * 2


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("itemsize", ITEMSIZES, ids=ITEMSIZES.values())
@pytest.mark.parametrize("classes", [300, 1013, 2049, 5001, 65537, 67585])
def test_no_bit_depends_on_what_is_kept_or_streamed(dispatcher: Any, classes: int, itemsize: int, soft: bool) -> None:
    """Nor on where lines begin, or on a row that is not counted, or broken, between two that are streamed."""
    rows, dtype, rng = 6, ITEMSIZES[itemsize], np.random.default_rng(classes)
    x = (6 * rng.standard_normal((rows, classes))).astype(dtype)
    x[0, : classes // 2] = -np.inf
    x[1] -= np.linspace(0, 90, classes).astype(dtype)
    x[3, 7] = np.nan
    one, weight, upstream = np.ones(1, dtype), np.array([1.0, 2, 0, 1, 1, 3]), np.full(1, -0.5)
    given: tuple[Any, ...]
    if soft:
        kernel, given = dispatcher("soft_rows", itemsize), (rng.random(x.shape).astype(dtype), one, None, 0.0)
    else:
        kernel, given = dispatcher("hard_rows", itemsize), (rng.integers(0, classes, rows), -100, one, None, 0.0, 0.0)
    last = () if soft else (0.0, False)
    results = set()
    for keep, stream in itertools.product((0, 1 << 40), repeat=2):
        for offset in (0, 5):
            grad = np.zeros(rows * classes + 16, dtype)
            loss, own = np.zeros(rows, dtype), grad[offset : offset + x.size].reshape(x.shape)
            kernel(x, *given, weight, upstream, loss, own, None, None, 0, rows, keep, stream, *last)
            assert not grad[:offset].any()
            assert not grad[offset + x.size :].any()
            assert not own[2].any()
            assert np.isnan(own[3]).all()
            results.add((loss.tobytes(), own.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17, 1797])
def test_totals(numba_jit: Any, dtype: str, n: int) -> None:
    values = np.random.default_rng(n).standard_normal(2 * n).astype(dtype)
    values.setflags(write=False)
    for vector in (values, values[::2]):
        right = math.fsum(vector.tolist()) / 3
        assert numba_jit.total(vector, 3) == pytest.approx(right, abs=2e-16 * float(np.abs(vector).sum()))


def test_a_total_beyond_the_format_is_divided_term_by_term(numba_jit: Any) -> None:
    assert numba_jit.total(np.full(10, 1e308), 10) == pytest.approx(1e308)
    assert numba_jit.total(np.full(10, 1e308), 1) == np.inf
    assert numba_jit.total(np.array([np.inf, 1]), 2) == np.inf
    assert np.isnan(numba_jit.total(np.array([np.inf, -np.inf]), 2))


# Calls without the dispatcher


def arguments(itemsize: int, rows: int = 5, classes: int = 7) -> tuple[Any, ...]:
    """A hard call that uses every input; loss, gradient, row_max and log_sum come before the last two."""
    dtype = ITEMSIZES[itemsize]
    rng = np.random.default_rng(rows * classes)
    given: tuple[Any, ...] = (
        rng.standard_normal((rows, classes)).astype(dtype), rng.integers(0, classes, rows), -100,
        rng.random(classes).astype(dtype), rng.random(classes).astype(dtype), 0.5, 0.25, rng.random(rows), np.ones(1),
        *(np.zeros(shape, dtype) for shape in (rows, (rows, classes), rows, rows)), 0, rows,
    )  # fmt: skip
    return given


@pytest.mark.parametrize("itemsize", ITEMSIZES, ids=ITEMSIZES.values())
@pytest.mark.parametrize("missing", [(), (4,), (9, 11, 12), (10,), (9, 10), (11, 12)])
def test_direct_calls_and_the_dispatcher_agree(
    numba_jit: Any, dispatcher: Any, itemsize: int, missing: tuple[int, ...]
) -> None:
    direct, through = (
        [cast(Any, None) if k in missing else given for k, given in enumerate(arguments(itemsize))] for _ in range(2)
    )
    numba_jit.hard(*direct)
    dispatcher("hard_rows", itemsize)(*through, 1 << 18, 1 << 25, 0.0, False)
    outputs = [k for k in range(9, 13) if k not in missing]
    assert all(np.array_equal(direct[k], through[k]) and direct[k].any() for k in outputs)


def test_a_numba_without_entry_points_is_called_through_the_dispatcher(
    numba_jit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = python_types.SimpleNamespace(overloads={"the signature": object()})
    monkeypatch.setattr(numba_jit, "dispatcher", lambda rows, itemsize: made)
    assert numba_jit._Compiled(None)[4] is made


def test_threads_that_come_first_together_compile_once(numba_jit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, compiled = 8, []
    barrier = threading.Barrier(threads)

    def dispatcher(rows: Any, itemsize: int) -> Any:
        compiled.append(itemsize)
        entry = python_types.SimpleNamespace(entry_point=object())
        return python_types.SimpleNamespace(overloads={"the signature": entry})

    monkeypatch.setattr(numba_jit, "dispatcher", dispatcher)
    kernels = numba_jit._Compiled(None)

    def first(_: int) -> Any:
        barrier.wait(timeout=300)
        return kernels[8]

    with ThreadPoolExecutor(threads) as pool:
        assert len(set(map(id, pool.map(first, range(threads))))) == 1
    assert compiled == [8]


def test_calls_hold_no_references_and_take_read_only_inputs(numba_jit: Any) -> None:
    given = arguments(4)
    inputs = [k for k in range(9) if isinstance(given[k], np.ndarray)]
    for k in inputs:
        given[k].setflags(write=False)
    arrays = [array for array in given if isinstance(array, np.ndarray)]
    wrong = [*given[:9], np.zeros(5), *given[10:]]  # a float64 loss for float32 logits
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(1000):
        numba_jit.hard(*given)
        with pytest.raises(TypeError, match="can't unbox array"):
            numba_jit.hard(*wrong)
    assert [sys.getrefcount(array) for array in arrays] == before
    assert not wrong[9].any()
    assert given[10].any()


def test_kernels_release_the_gil(compiled: Any) -> None:
    (assembly,) = compiled("hard_rows", 4).inspect_asm().values()
    assert "PyEval_SaveThread" in assembly
    assert "PyEval_RestoreThread" in assembly


# The cache, on a kernel that takes no time to compile


def tripled(x: float) -> float:
    return 3 * x


@pytest.fixture
def folder(numba_jit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for compiled kernels."""
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def was_cached(numba_jit: Any) -> bool:
    """Compile or load `tripled`, and see that it is right; any warning is an error here."""
    from numba import njit, types

    made: Any = njit(tripled)
    made._cache = numba_jit.cache.Cache(tripled)
    made.compile(types.float64(types.float64))
    assert made(1.5) == 4.5
    hits, misses = (sum(counts.values()) for counts in (made.stats.cache_hits, made.stats.cache_misses))
    assert hits + misses == 1
    return bool(hits)


def test_compiled_kernels_are_found_again(numba_jit: Any, folder: Path) -> None:
    assert [was_cached(numba_jit) for _ in range(3)] == [False, True, True]
    kept = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kept == {".nbi", ".nbc"}


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": _cut(0),
    **{f"cut at {share:.0%}": _cut(share) for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)},
    "less its last byte": lambda content: content[:-1],
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "zeros from the middle on": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
    "text": lambda content: b"not what was written\n",
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_files_are_compiled_anew_and_replaced(numba_jit: Any, folder: Path, suffix: str) -> None:
    was_cached(numba_jit)
    (path,) = folder.rglob(f"*{suffix}")
    content = path.read_bytes()
    for name, damage in _DAMAGES.items():
        path.write_bytes(damage(content))
        assert not was_cached(numba_jit), name
        assert was_cached(numba_jit), name


def test_damaged_machine_code_is_not_run(numba_jit: Any, folder: Path) -> None:
    was_cached(numba_jit)
    (path,) = folder.rglob("*.nbc")
    content = path.read_bytes()
    code = content.index(b"\x7fELF" if sys.platform == "linux" else b"tripled")
    path.write_bytes(content[: code + 64] + bytes(256) + content[code + 320 :])
    assert [was_cached(numba_jit) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_done_without(numba_jit: Any, folder: Path, path: str) -> None:
    from numba.core import config

    folder.mkdir()
    (folder / "file").write_text("no folder")
    vars(config)["CACHE_DIR"] = str(folder / path)  # the fixture puts it back
    assert [was_cached(numba_jit) for _ in range(2)] == [False, False]
    assert (folder / "file").read_text() == "no folder"


@pytest.mark.parametrize(
    ("system", "variable", "below_home"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("darwin", "XDG_CACHE_HOME", "Library/Caches"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
    ],
)
def test_the_cache_is_where_the_system_keeps_such(
    system: str, variable: str, below_home: str, numba_jit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = numba_jit.cache
    monkeypatch.setattr(cache.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "sys", python_types.SimpleNamespace(platform=system))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(cache.os, "environ", {variable: str(tmp_path / "own")})
    assert cache.folder() == tmp_path / "own" / "softmax_ce" / cache.salt()
    monkeypatch.setattr(cache.os, "environ", {variable: "relative"})
    assert cache.folder() == tmp_path / "home" / below_home / "softmax_ce" / cache.salt()
    monkeypatch.setattr(cache.os, "environ", {})
    assert cache.folder() == tmp_path / "home" / below_home / "softmax_ce" / cache.salt()


def test_another_version_or_source_has_another_folder(
    numba_jit: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = numba_jit.cache
    copy = tmp_path / "copy"
    shutil.copytree(Path(cache.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    salts = [cache.salt(folder=copy), cache.salt("0.0.1", copy)]
    for path in sorted(copy.glob("*.py")):
        path.write_bytes(path.read_bytes() + b"\n")
        salts.append(cache.salt(folder=copy))
    assert salts[0] == cache.salt()
    assert len(set(salts)) == len(salts) > 5
    was_cached(numba_jit)
    monkeypatch.setattr(cache, "salt", lambda: salts[1])
    assert [was_cached(numba_jit) for _ in range(2)] == [False, True]
    assert {path.name for path in (folder / "softmax_ce").iterdir()} == {salts[0], salts[1]}


def test_the_processor_is_part_of_a_kernels_key(numba_jit: Any, folder: Path) -> None:
    from numba import njit, types

    made: Any = njit(tripled)
    cache = numba_jit.cache.Cache(tripled)
    codegen = made.targetctx.codegen()
    _, processor, _ = cache._index_key(types.float64(types.float64), codegen)
    assert codegen._get_host_cpu_features() in processor


# Whole processes

# The kernel that takes the least time to compile; all of them are kept and loaded in the same way.
_CALL = """
import warnings
warnings.simplefilter("error")
import numpy as np
from softmax_ce._backends import numba_jit
print(numba_jit.total(np.linspace(-3, 9, 21, dtype=np.float32), 7.0))
{then}
"""
_FOLDER = _CALL.format(then="print(numba_jit.cache.folder())")


def _number(output: str) -> float:
    return float(output.splitlines()[0])


@pytest.mark.skipif(sys.platform == "win32", reason="HOME names no folder there")
def test_a_process_without_a_home(numba_jit: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    environment = environment_without("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", HOME=str(tmp_path / "file" / "home"))
    command = [sys.executable, "-c", _CALL.format(then="")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    assert done.stderr == ""
    assert _number(done.stdout) == pytest.approx(9.0, rel=1e-6)


def test_two_processes_that_compile_at_once(numba_jit: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda _: run_python(_FOLDER, NUMBA_CACHE_DIR=str(tmp_path)), range(2)))
    kernels = sorted(tmp_path.rglob("*.nb?"))
    assert {path.suffix for path in kernels} == {".nbi", ".nbc"}
    stamps = [path.stat().st_mtime_ns for path in kernels]
    outputs.append(run_python(_FOLDER, NUMBA_CACHE_DIR=str(tmp_path)))
    assert len(set(outputs)) == 1
    assert _number(outputs[0]) == pytest.approx(9.0, rel=1e-6)
    assert [path.stat().st_mtime_ns for path in kernels] == stamps  # the third has read, and written nothing
