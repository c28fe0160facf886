"""The C kernels replay the suite's vectors without Python: here, and on aarch64 where its compiler and emulator are."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce_bench.conformance.cases import Case
from tools.cross import build, vectors

# Enough to go through the program's every step. make replay and make aarch64 take more. Every instruction set, the
# model and aarch64 take a minute or more to compile, and are left to make trust.
_SAMPLES = "100000"
_HEADER = len(vectors.MAGIC) + struct.calcsize("<2dq")
_SIZES = vectors.NAME_BYTES + struct.calcsize("<9q2d")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vectors.bin"
    vectors.write(path)
    return path


def _command(target: str) -> list[str]:
    try:
        return build.build(build.TARGETS[target])
    except build.MissingTool as error:
        pytest.skip(str(error))


def _replay(target: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*_command(target), str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


_SLOW = (pytest.param(target, marks=pytest.mark.slow) for target in ("quick", "aarch64"))


@pytest.mark.parametrize("target", ["baseline", *_SLOW])
def test_every_vector_is_within_its_bound(target: str, path: Path) -> None:
    done = _replay(target, path, "--samples", _SAMPLES)
    assert done.returncode == 0, done.stderr
    isas = re.findall(r"^(\w+) +\d+ vectors within", done.stdout, re.MULTILINE)
    assert "baseline" in isas
    assert ("model" in isas) == (target != "baseline")
    over = [float(value) for value in re.findall(r"(?:loss|gradient|lse|log_sum) (\d\.\d+)", done.stdout)]
    assert len(over) == 8 * len(isas)
    # A bound that is never half used could not catch a wrong formula.
    assert 0 < min(over) <= max(over) <= 1
    assert max(over) > 0.5
    declared = next(info.accuracy for info in sce.backends() if info.name == "cython")
    wide = target == "aarch64" or np.finfo(np.longdouble).nmant > 52  # without, float64 is not measured
    for dtype in ("float32", "float64") if wide else ("float32",):
        errors = [float(e) for e in re.findall(rf"exp +{dtype}: at most ([\d.]+) ULP", done.stdout)]
        assert len(errors) == len(isas)
        assert all(0.5 <= error <= declared[dtype].exp_ulp for error in errors)


@pytest.fixture
def one_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the same small case in both dtypes: 3 rows of 5 classes, an infinite loss in one."""
    x = np.array([[0.5, -1, 2, 0, 1], [3, 3, 0, -2, 1], [0, -np.inf, 1, 1, 1]])
    monkeypatch.setattr(vectors, "cases", lambda largest: [Case("small", x, np.array([2, 0, 1]))])
    monkeypatch.setattr(vectors, "broken", lambda: [])
    path = tmp_path / "one.bin"
    assert vectors.write(path) == 2
    assert _replay("baseline", path, "baseline", "--samples", "0").returncode == 0
    return path


# Where what is right stands in the first vector, float32 with 3 rows of 5 classes: after logits, labels, class_scale,
# row_weight and upstream, each as (high, low, bound).
_LOSS = _HEADER + _SIZES + 4 * 15 + 8 * 3 + 4 + 8 + 8
_GRAD = _LOSS + 3 * 8 * 3
_LSE = _GRAD + 3 * 8 * 15
_LOG_SUM = _LSE + 3 * 8 * 3


@pytest.mark.parametrize(
    ("at", "entries", "what"),
    [(_LOSS, 3, "loss"), (_GRAD, 15, "gradient"), (_LSE, 3, "lse"), (_LOG_SUM, 3, "log_sum")],
)
def test_a_result_beyond_its_bound_is_a_violation(one_vector: Path, at: int, entries: int, what: str) -> None:
    data = bytearray(one_vector.read_bytes())
    right = struct.unpack_from("<d", data, at)[0]
    bound = struct.unpack_from("<d", data, at + 2 * 8 * entries)[0]
    assert 0 < bound < 1e-5 * abs(right)
    for shift, code in ((2.5 * bound, 1), (-2.5 * bound, 1), (0.0, 0)):
        struct.pack_into("<d", data, at, right + shift)
        one_vector.write_bytes(data)
        done = _replay("baseline", one_vector, "baseline", "--samples", "0")
        assert done.returncode == code, done.stderr
        assert (f"{what} of row 0, entry 0" in done.stderr) == (code == 1)


@pytest.mark.parametrize("right", [np.nan, np.inf, -np.inf, 1.5])
def test_what_is_not_finite_must_be_where_it_is(one_vector: Path, right: float) -> None:
    data = bytearray(one_vector.read_bytes())
    assert struct.unpack_from("<3d", data, _LOSS)[2] == np.inf
    # A number where an infinity is right or the other way round, another sign, NaN for infinity.
    struct.pack_into("<d", data, _LOSS + (0 if abs(right) == np.inf and right > 0 else 16), right)
    one_vector.write_bytes(data)
    done = _replay("baseline", one_vector, "baseline", "--samples", "0")
    assert done.returncode == 1
    assert "VIOLATION: baseline, float32" in done.stderr


def test_an_exp_worse_than_declared_is_a_violation(one_vector: Path) -> None:
    data = bytearray(one_vector.read_bytes())
    struct.pack_into("<d", data, len(vectors.MAGIC), 0.5)  # float32: correct rounding
    one_vector.write_bytes(data)
    done = _replay("baseline", one_vector, "baseline", "--samples", _SAMPLES)
    assert done.returncode == 1
    assert "exp is less accurate than declared" in done.stderr


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated: vector 2 of 2, log_sum"),
        (lambda data: data[: _HEADER + 10], "truncated: vector 1 of 2, its name"),
        (lambda data: data[:5], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: b"sce-vec0" + data[8:], "must begin with sce-vec1"),
        (lambda data: data + b"\0", "bytes after the last vector"),
        (lambda data: data[: _HEADER + 64] + struct.pack("<q", 5) + data[_HEADER + 72 :], "impossible sizes"),
        (lambda data: data[: _HEADER + 72] + struct.pack("<q", -1) + data[_HEADER + 80 :], "impossible sizes"),
        (lambda data: data[: _HEADER + 104] + struct.pack("<q", 4) + data[_HEADER + 112 :], "lengths that do not fit"),
    ],
)
def test_a_damaged_file_is_refused(one_vector: Path, damage: object, message: str) -> None:
    one_vector.write_bytes(damage(one_vector.read_bytes()))  # type: ignore[operator]
    done = _replay("baseline", one_vector, "baseline")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_file_and_an_unknown_instruction_set_are_refused(tmp_path: Path) -> None:
    done = _replay("baseline", tmp_path / "none.bin")
    assert done.returncode == 2
    assert "cannot open" in done.stderr
    done = _replay("baseline", tmp_path / "none.bin", "sse9")
    assert done.returncode == 2
    assert "this CPU has:" in done.stderr
    assert "baseline" in done.stderr


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(build.MissingTool, match="aarch64-linux-gnu-gcc and qemu-aarch64: on Debian, apt-get install"):
        build.build(build.TARGETS["aarch64"])
