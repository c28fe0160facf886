"""Arrays that end, or begin, at a page that nobody may touch; and every kernel run on nothing but such arrays."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

import softmax_ce as sce

SIDES = ("end", "start")
_PAGE = mmap.PAGESIZE
_CANARY = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)


class Room:
    """Pages between two forbidden ones, for one array at a time."""

    def __init__(self, pages: int) -> None:
        self._size = pages * _PAGE
        self._memory = mmap.mmap(-1, self._size + 2 * _PAGE)
        whole = np.frombuffer(self._memory, np.uint8)
        for edge in (whole.ctypes.data, whole.ctypes.data + _PAGE + self._size):
            if _libc.mprotect(ctypes.c_void_p(edge), ctypes.c_size_t(_PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._inside = whole[_PAGE : _PAGE + self._size]
        self._slack = self._inside[:0]

    def place(self, values: Any, side: str) -> Any:
        """A copy of `values` up against the page on this side; the rest of the room is marked."""
        values = np.ascontiguousarray(values)
        slack = self._size - values.nbytes
        at = slice(slack, None) if side == "end" else slice(0, values.nbytes)
        self._inside[:] = _CANARY
        self._slack = self._inside[:slack] if side == "end" else self._inside[values.nbytes :]
        array = self._inside[at].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array

    def untouched(self) -> bool:
        """Whether nothing was written beside the array."""
        return bool((self._slack == _CANARY).all())


def logits(rows: int, classes: int, dtype: str) -> Any:
    """Ordinary rows, and one each with -inf, NaN, +inf and nothing but -inf."""
    rng = np.random.default_rng(rows * 10_007 + classes)
    x = (5 * rng.standard_normal((rows, classes))).astype(dtype)
    for row, value in ((1, -np.inf), (2, np.nan), (4, np.inf)):
        x[row::8, classes // 2] = value
    x[6::8] = -np.inf
    return x


def cases(sizes: Any, dtypes: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Sizes, with the ways in which a class or a row can have its own factor, or share one, taken in turns."""
    tables = itertools.cycle(itertools.product((None, 1, "C"), (1, "C"), (1, "N"), ("all", "loss", "grad", "lse")))
    for dtype, (rows, classes), soft in itertools.product(dtypes, sizes, (False, True)):
        for _ in range(3):
            yield dtype, rows, classes, soft, *next(tables)


def sizes() -> list[tuple[int, int]]:
    """Around the vectors' widths, the blocks of a few rows, and the chunks of a long row."""
    few = [(rows, classes) for classes in range(1, 36) for rows in (1, 7, 17)]
    more = [(9, classes) for classes in (*range(47, 50), *range(63, 66), *range(127, 131), 191, 255, 257, 1000)]
    return few + more + [(3, classes) for classes in (2047, 2048, 2049, 2063, 4095, 4097, 5001)]


def sweep(name: str, dtypes: tuple[str, ...] = ("float32", "float64"), kernels: Any = None) -> int:
    """Each case in guarded memory and in ordinary memory: the same bits, nothing beside them. Tells how many."""
    kernels = kernels or sce.get_backend(name)
    pages = 3 * 5001 * 8 // _PAGE + 2
    rooms = {key: Room(pages) for key in _ARRAYS}
    count = 0
    for case, side in itertools.product(cases(sizes(), dtypes), SIDES):
        os.write(1, f"{name} {case} {side}\n".encode())  # the last line tells where it died
        given = _arguments(*case)
        here = {key: None if array is None else array.copy() for key, array in given.items()}
        there = {key: None if array is None else rooms[key].place(array, side) for key, array in given.items()}
        _call(kernels, here)
        _call(kernels, there)
        for key, array in there.items():
            if array is not None:
                np.testing.assert_array_equal(array, here[key], err_msg=f"{key} {case}")
                assert rooms[key].untouched(), f"written beside {key}: {case} {side}"
        count += 1
    return count


_ARRAYS = (
    "logits", "labels", "targets", "class_scale", "base_mass", "row_weight", "upstream",
    "loss", "grad", "row_max", "log_sum",
)  # fmt: skip


def _arguments(
    dtype: str, rows: int, classes: int, soft: bool, base: Any, scale: Any, factor: Any, wanted: str
) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    by_class = {None: None, 1: np.full(1, 0.25, dtype), "C": rng.random(classes).astype(dtype)}
    by_row = {1: np.ones(1), "N": rng.random(rows)}
    labels = rng.integers(0, classes, rows)
    labels[3::8] = -100  # ignored
    one_a_row = np.zeros(rows, dtype)
    return {
        "logits": logits(rows, classes, dtype),
        "labels": None if soft else labels,
        "targets": rng.random((rows, classes)).astype(dtype) if soft else None,
        "class_scale": by_class[scale],
        "base_mass": by_class[base],
        "row_weight": by_row[factor],
        "upstream": by_row[factor],
        "loss": one_a_row if wanted in ("all", "loss") else None,
        "grad": np.zeros((rows, classes), dtype) if wanted in ("all", "grad") else None,
        "row_max": one_a_row if wanted in ("all", "lse") else None,
        "log_sum": one_a_row if wanted in ("all", "lse") else None,
    }


def _call(kernels: Any, arrays: dict[str, Any]) -> None:
    """The contract's kernel on these arrays, and the same call handed out to threads where the backend can."""
    a = SimpleNamespace(**arrays)
    outputs = (a.loss, a.grad, a.row_max, a.log_sum)
    rows = len(a.logits)
    if a.labels is not None:
        total = 0.0 if a.base_mass is None else float(a.base_mass.sum())
        inputs: tuple[Any, ...] = (a.logits, a.labels, -100, a.class_scale, a.base_mass, total)
    else:
        inputs = (a.logits, a.targets, a.class_scale, a.base_mass)
    rest = (0.1, a.row_weight, a.upstream, *outputs)
    hard = a.labels is not None
    (kernels.hard if hard else kernels.soft)(*inputs, *rest, 0, rows)
    if kernels.team is not None:
        team = (kernels.team.hard if hard else kernels.team.soft)(*inputs, *rest, 3, 1 << 22)
        assert not team.work(False)


def sweep_casts(name: str) -> int:
    """The casts between float32 and the 16-bit formats."""
    backend = sce.get_backend(name)
    wide, narrow = Room(4), Room(4)
    count = 0
    for n, side, bfloat in itertools.product((*range(1, 70), 255, 1023), SIDES, (False, True)):
        os.write(1, f"{name} cast {n} {side} {bfloat}\n".encode())
        half = np.arange(n, dtype=np.uint16) * 37
        floats = np.linspace(-3, 3, n, dtype=np.float32)
        for cast, source, target in ((backend.widen, half, 0 * floats), (backend.narrow, floats, 0 * half)):
            assert cast is not None
            expected = target.copy()
            cast(source, expected, bfloat)
            rooms = (narrow, wide) if source is half else (wide, narrow)
            there = rooms[0].place(source, side), rooms[1].place(target, side)
            cast(*there, bfloat)
            np.testing.assert_array_equal(there[1], expected)
            assert all(room.untouched() for room in rooms), (n, side, bfloat)
            count += 1
    return count


def wrong(touch: Callable[[Any, Any], None]) -> Any:
    """The NumPy backend with a fault of its own: `touch` gets logits and gradient."""
    right = sce.get_backend("numpy")

    def hard(*arguments: Any) -> None:
        right.hard(*arguments)
        if arguments[10] is not None:
            touch(arguments[0], arguments[10])

    return SimpleNamespace(hard=hard, soft=right.soft, team=None)


def read_one_beyond(x: Any, grad: Any) -> None:
    ctypes.string_at(x.ctypes.data + x.nbytes, 1)


def read_one_before(x: Any, grad: Any) -> None:
    ctypes.string_at(x.ctypes.data - 1, 1)


def write_one_beyond(x: Any, grad: Any) -> None:
    ctypes.memset(grad.ctypes.data + grad.nbytes, 0, 1)
