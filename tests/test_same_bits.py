"""float32 results have the same bits on every instruction set with fused operations: AVX2, AVX-512, its model, NEON.

Through the replay program on vectors, aarch64 emulated; through Python on this CPU. The baseline of x86 has no fused
operations and another exp, and in float64 AVX-512 has a table and the others a polynomial: their bits are their own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from helpers import run_python
from tools.cross import build, vectors

_FUSED = ("avx512", "avx2", "model")
_JUDGED = ("loss", "gradient", "lse", "log_sum")
_Hashes = dict[tuple[str, str], dict[str, tuple[str, ...]]]


def _hashes(target: str, path: Path) -> _Hashes:
    """By instruction set and dtype, of each vector by its name: the hashes of what is judged."""
    try:
        command = build.build(build.TARGETS[target])
    except build.MissingTool as error:
        pytest.skip(str(error))
    done = subprocess.run([*command, str(path), "--bits"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    hashes: _Hashes = {}
    for line in done.stdout.splitlines():
        isa, dtype, *four, name = line.split(" ", 6)
        of_isa = hashes.setdefault((isa, dtype), {})
        assert name not in of_isa
        of_isa[name] = tuple(four)
    return hashes


def _assert_same(left: dict[str, tuple[str, ...]], right: dict[str, tuple[str, ...]]) -> None:
    assert left.keys() == right.keys()
    differing = [
        f"{name}: {', '.join(what for what, a, b in zip(_JUDGED, one, right[name], strict=True) if a != b)}"
        for name, one in left.items()
        if one != right[name]
    ]
    assert not differing, f"{len(differing)} of {len(left)} vectors, the first of them {differing[:5]}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "bits.bin"
    vectors.write(path, more=vectors.shapes())
    return path


@pytest.fixture(scope="module")
def here(path: Path) -> _Hashes:
    return _hashes("quick", path)


@pytest.mark.slow  # it compiles every instruction set and the model
def test_this_machine_agrees_with_the_model(here: _Hashes) -> None:
    fused = [isa for isa, dtype in here if dtype == "float32" and isa in _FUSED]
    assert "model" in fused
    for isa in fused:
        _assert_same(here[isa, "float32"], here["model", "float32"])


@pytest.mark.slow  # it compiles every instruction set and the model
def test_another_exp_is_seen(here: _Hashes) -> None:
    """What has other bits by design is told apart, or the comparison would show nothing."""
    polynomial = here["baseline", "float64"]
    with pytest.raises(AssertionError, match="gradient"):
        _assert_same(polynomial, here["model", "float64"])


@pytest.mark.slow  # it compiles every instruction set and the model
def test_avx512_agrees_with_its_model_in_float64(here: _Hashes) -> None:
    if ("avx512", "float64") not in here:
        pytest.skip("this CPU has no AVX-512")
    _assert_same(here["avx512", "float64"], here["model", "float64"])


@pytest.mark.slow  # it compiles every instruction set and the model
def test_aarch64_agrees(path: Path, here: _Hashes) -> None:
    there = _hashes("aarch64", path)
    _assert_same(there["model", "float32"], here["model", "float32"])
    _assert_same(there["baseline", "float32"], here["model", "float32"])


# Few classes in lanes and longer rows, one chunk and several; what is hashed is all that the functions return.
_PYTHON = """
import hashlib
import numpy as np
import softmax_ce as sce
options = {"label_smoothing": 0.1, "z_loss": 1e-3}
for classes in (*range(2, 301, 7), 10, 32, 33, 256, 257, 1013, 5000, 140_000):
    rng = np.random.default_rng(classes)
    rows = 3 if classes > 5000 else 41
    x32 = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    soft = rng.random((rows, classes), np.float32) / classes
    weight, sample_weight = rng.random(classes), rng.random(rows)
    for x in (x32, x32.astype(np.float16), np.asfortranarray(x32)):
        digest = hashlib.sha256()
        for targets in (labels, soft.astype(x.dtype)):
            for given in ({}, options, {**options, "weight": weight, "sample_weight": sample_weight}):
                made = sce.cross_entropy_with_grad(
                    x, targets, reduction="none", return_lse=True, backend="cython", **given
                )
                for values in made:
                    digest.update(np.ascontiguousarray(values).tobytes())
        for function in (sce.softmax, sce.log_softmax, sce.logsumexp):
            digest.update(np.ascontiguousarray(function(x, backend="cython")).tobytes())
        print(classes, x.dtype, x.strides, digest.hexdigest())
"""


def test_bits_are_the_same_through_python() -> None:
    available("cython")
    details = sce.get_backend("cython").details
    fused = [isa for isa in ("avx512", "avx2") if isa in details]
    if len(fused) < 2:
        pytest.skip(f"of AVX-512 and AVX2, both with fused operations, this CPU has {fused[0] if fused else 'neither'}")
    one, other = (run_python(_PYTHON, SOFTMAX_CE_ISA=isa).splitlines() for isa in fused)
    assert len(one) == len(other) > 100
    assert [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]] == []


def test_what_python_compares_is_the_bits_alone() -> None:
    """One instruction set, twice, has the same, and so have both layouts; other inputs have others."""
    available("cython")
    isa = sce.get_backend("cython").details.split()[2]
    code = _PYTHON.replace("(*range(2, 301, 7), 10, 32, 33, 256, 257, 1013, 5000, 140_000)", "(10, 257, 5000)")
    once, twice = (run_python(code, SOFTMAX_CE_ISA=isa) for _ in range(2))
    assert once == twice
    assert np.unique([line.split()[-1] for line in once.splitlines()]).size == 2 * 3
