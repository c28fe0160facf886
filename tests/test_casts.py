"""A backend's own casts between float32 and the 16-bit formats: the bits of NumPy and ml_dtypes for every value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from helpers import run_python
from softmax_ce import halves
from softmax_ce.staging import Rows

ml_dtypes = pytest.importorskip("ml_dtypes")

FORMATS = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CASTING = [info.name for info in sce.backends() if info.available and sce.get_backend(info.name).widen is not None]


def to_float32(backend: Any, halves: Any, is_bfloat16: bool) -> Any:
    out = np.empty(len(halves), np.float32)
    backend.widen(halves, out, is_bfloat16)
    return out


def to_16_bits(backend: Any, values: Any, is_bfloat16: bool) -> Any:
    out = np.empty(len(values), np.uint16)
    backend.narrow(values, out, is_bfloat16)
    return out


@pytest.mark.parametrize(("dtype", "is_bfloat16"), [("float16", False), ("bfloat16", True), ("int16", None)])
def test_floats_of_16_bits_alone_are_for_the_backend_to_cast(dtype: str, is_bfloat16: bool | None) -> None:
    asked = []

    def widen(halves: Any, out: Any, is_bfloat16: bool) -> None:
        asked.append((halves.dtype.name, len(halves), is_bfloat16))
        out[...] = halves.view(dtype)

    values = np.arange(12).reshape(4, 3).astype(dtype)
    for array, is_native in ((values, True), (values[:, ::-1], True), (values.astype(">f4"), False)):
        asked.clear()
        block = Rows(array, 1, np.dtype(np.float32)).load(1, 3, widen)
        np.testing.assert_array_equal(block, array[1:3].astype(np.float32))
        assert asked == [("uint16", 6, is_bfloat16)] * (is_native and is_bfloat16 is not None)


def hard_to_round(dtype: Any) -> Any:
    """Every value of the format, what lies halfway between two of them, and a step to either side; all kinds of NaN."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    sizes = np.unique(np.abs(every[np.isfinite(every)])).astype(np.float64)
    beyond = 2 * sizes[-1] - sizes[-2]  # what rounds to infinity is halfway to this
    halfway = ((np.append(sizes, beyond)[1:] + sizes) / 2).astype(np.float32)
    steps = [np.nextafter(halfway, np.float32(0)), halfway, np.nextafter(halfway, np.float32(np.inf))]
    nans = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    drawn = np.random.default_rng(5).integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)
    return np.concatenate([every, *steps, *(-step for step in steps), nans, drawn])


def assert_same_values(got: Any, right: Any) -> None:
    """Equal bits, or both NaN."""
    bits = np.uint16 if right.dtype.itemsize == 2 else np.uint32
    is_nan = np.isnan(right.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), is_nan)
    np.testing.assert_array_equal(got.view(bits)[~is_nan], right.view(bits)[~is_nan])


def check_casts(name: str, kind: str) -> None:
    """Both directions, and every length up to a few vectors."""
    backend, dtype = sce.get_backend(name), FORMATS[kind]
    is_bfloat16 = kind == "bfloat16"
    halves = np.arange(1 << 16, dtype=np.uint16)
    assert_same_values(to_float32(backend, halves, is_bfloat16), halves.view(dtype).astype(np.float32))
    values = hard_to_round(dtype)
    with np.errstate(all="ignore"):
        right = values.astype(dtype)
    assert_same_values(to_16_bits(backend, values, is_bfloat16).view(dtype), right)
    for length in range(1, 40):
        part = slice(1000, 1000 + length)
        assert_same_values(to_float32(backend, halves[part].copy(), is_bfloat16), halves[part].view(dtype).astype("f4"))
        assert_same_values(to_16_bits(backend, values[part].copy(), is_bfloat16).view(dtype), right[part])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", CASTING)
def test_casts_give_the_bits_of_numpy(name: str, kind: str) -> None:
    check_casts(name, kind)


def test_casts_without_a_backend_s_give_the_bits_of_numpy() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(every.size, np.float32)
    halves.widen(every, wide)
    assert_same_values(wide, every.view(np.float16).astype(np.float32))
    values = hard_to_round(np.float16)
    with np.errstate(all="ignore"):
        right = values.astype(np.float16)
        narrowed = np.empty(values.size, np.uint16)
        halves.narrow(values, narrowed)
    assert_same_values(narrowed.view(np.float16), right)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_casts(isa: str) -> None:
    available("cython")
    if isa not in sce.get_backend("cython").details:
        pytest.skip(f"this CPU cannot run {isa}")
    code = """
import softmax_ce as sce
import test_casts
for kind in test_casts.FORMATS:
    test_casts.check_casts("cython", kind)
print(sce.get_backend("cython").details.split()[2])
"""
    folder = __file__.rpartition("/")[0] or "."
    assert run_python(f"import sys; sys.path.insert(0, {folder!r})\n{code}", SOFTMAX_CE_ISA=isa).strip() == isa


def test_the_values_include_what_is_easily_rounded_wrong() -> None:
    values = hard_to_round(FORMATS["float16"])
    for wanted in (65519.996, 65520.0, 2.0**-25, 2.0**-24, 2.0**-14, 1 + 2.0**-11, 1 + 3 * 2.0**-11):
        assert np.float32(wanted) in values
