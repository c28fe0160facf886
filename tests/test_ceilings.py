"""The loops that set the physical limit move exactly the bytes that they should, at any size and alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers import run_python
from softmax_ce_bench import ceilings

built = pytest.mark.skipif(ceilings.why_unavailable is not None, reason=f"not built: {ceilings.why_unavailable}")
GUARD = 0xA5


@pytest.fixture(params=[] if ceilings.why_unavailable else ceilings._loops.ISAS)
def loops(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The compiled module on each instruction set that runs here."""
    ceilings._loops.use(request.param)
    yield ceilings._loops
    ceilings._loops.use(ceilings._loops.ISAS[0])


def placed(rows: int, width: int, offset: int, seed: int | None) -> tuple[Any, Any]:
    """Rows of bytes that begin so far from a 64-byte boundary, and the guarded buffer around them."""
    buffer = np.full(rows * width + 256, GUARD, np.uint8)
    begin = -buffer.ctypes.data % 64 + offset
    array = buffer[begin : begin + rows * width].reshape(rows, width)
    if seed is not None:
        array[...] = np.random.default_rng(seed).integers(0, 256, array.shape)
    return array, buffer


# Below a word, around one vector and one turn of four, with every kind of rest, and a few thousand bytes.
WIDTHS = [1, 3, 7, 8, 9, 15, 16, 31, 33, 63, 64, 65, 127, 255, 256, 257, 1000, 4099]
OFFSETS = [0, 1, 4, 8, 12, 31, 33, 60, 63]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_copy_writes_its_rows_and_nothing_else(loops: Any, width: int, stream: bool) -> None:
    for offset in OFFSETS:
        source, _ = placed(4, width, OFFSETS[-1] - offset, seed=1)
        target, buffer = placed(4, width, offset, seed=None)
        loops.copy(source, target, 1, 3, stream)
        np.testing.assert_array_equal(target[1:3], source[1:3])
        target[1:3] = GUARD
        assert (buffer == GUARD).all()


def xor_of_words(data: Any) -> int:
    whole = np.zeros(-(-data.size // 8) * 8, np.uint8)
    whole[: data.size] = data.reshape(-1)
    return int(np.bitwise_xor.reduce(whole.view(np.uint64)))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_read_sees_every_byte(loops: Any, width: int) -> None:
    for offset in OFFSETS:
        source, _ = placed(3, width, offset, seed=2)
        assert loops.read(source, 0, 3) == xor_of_words(source)
        assert loops.read(source, 1, 2) == xor_of_words(source[1:2])
        assert loops.read(source, 2, 2) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_an_update_touches_every_whole_word_of_its_rows(loops: Any, width: int) -> None:
    mask = 0xFEDC_BA98_7654_3210
    for offset in OFFSETS:
        array, buffer = placed(4, width, offset, seed=3)
        before = buffer.copy()
        loops.update(array, 0, 0, 4)
        np.testing.assert_array_equal(buffer, before)
        right, right_buffer = placed(4, width, offset, seed=3)
        inner = right.reshape(-1)[width : 3 * width]
        words = inner[: inner.size // 8 * 8]
        words[...] = (np.frombuffer(words.tobytes(), np.uint64) ^ np.uint64(mask)).view(np.uint8)
        loops.update(array, mask, 1, 3)
        np.testing.assert_array_equal(array, right)
        assert (buffer == GUARD).sum() >= (right_buffer == GUARD).sum() - right.size


def test_rows_outside_are_refused(loops: Any) -> None:
    source, target = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    for start, stop in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(ValueError, match=f"rows {start} to {stop} are not within an array of shape 4 x 8"):
            loops.read(source, start, stop)
    with pytest.raises(ValueError, match="differ in shape"):
        loops.copy(source, target[:3], 0, 3, False)


@built
@pytest.mark.parametrize("threads", [None, 1, 2, 7])
@pytest.mark.parametrize(("shape", "dtype"), [((1, 1_000_003), "float32"), ((1000, 333), "float64"), ((3, 5), "int8")])
def test_over_whole_arrays_on_any_number_of_threads(shape: tuple[int, int], dtype: str, threads: int | None) -> None:
    source = np.random.default_rng(4).integers(-100, 100, shape).astype(dtype)
    for what in ("copy", "stream"):
        target = np.zeros_like(source)
        ceilings.call(what, source, target, threads)()
        np.testing.assert_array_equal(target, source)
    for what in ("read", "update", "new"):
        kept, target = source.copy(), source.copy()
        ceilings.call(what, source, target, threads)()
        np.testing.assert_array_equal(source, kept)
        np.testing.assert_array_equal(target, kept)


@built
def test_an_unknown_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown loop 'memcpy'; there are read, copy, stream, update, new"):
        ceilings.call("memcpy", np.zeros(3), np.zeros(3))


def test_without_the_compiled_loops_the_reason_is_given() -> None:
    printed = run_python("""
import sys
sys.modules["softmax_ce_bench.ceilings._loops"] = None
import numpy as np
from softmax_ce_bench import ceilings
assert ceilings.why_unavailable
print(ceilings.instruction_set(), ceilings.best_copy())
try:
    ceilings.call("copy", np.zeros(3), np.zeros(3))
except RuntimeError as error:
    print(error)
""")
    assert printed.startswith("None copy\nthe copy and read loops are not available: ")
