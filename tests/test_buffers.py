"""Which outputs a kernel is given; whether arrays share memory: told exactly where NumPy can, else yes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import softmax_ce as sce
from softmax_ce import checks, registry
from softmax_ce.contract import BackendInfo

X = np.zeros((3, 5), np.float32)


@pytest.fixture
def given() -> Iterator[list[list[str]]]:
    """A backend "spy", and for each of its calls the names of the outputs that it was given."""
    calls: list[list[str]] = []

    def kernel(*arguments: Any) -> None:
        outputs = dict(zip(("loss", "grad", "row_max", "log_sum"), arguments[-6:-2], strict=True))
        calls.append([name for name, output in outputs.items() if output is not None])
        for output in outputs.values():
            if output is not None:
                output[...] = 1

    registry.register(SimpleNamespace(BACKEND=BackendInfo("spy", "spy"), hard=kernel, soft=kernel))
    yield calls
    registry.unregister("spy")


@pytest.mark.parametrize("targets", [np.zeros(3, int), X], ids=["hard", "soft"])
def test_a_kernel_is_asked_for_what_is_wanted_alone(given: list[list[str]], targets: Any) -> None:
    for options in ({}, {"reduction": "none"}, {"z_loss": 0.5}, {"axis": 1}):
        sce.cross_entropy(X, targets, backend="spy", **options)
        sce.cross_entropy_grad(X, targets, backend="spy", **options)
        sce.cross_entropy_with_grad(X, targets, backend="spy", **options)
        assert given == [["loss"], ["grad"], ["loss", "grad"]]
        given.clear()
    sce.cross_entropy_with_grad(X, targets, backend="spy", return_lse=True)
    sce.cross_entropy_grad(X, targets, backend="spy", lse_out=np.empty(3, np.float32))
    assert given == [["loss", "grad", "row_max", "log_sum"], ["grad", "row_max", "log_sum"]]


def test_the_normalisers_want_one_thing_each(given: list[list[str]]) -> None:
    np.testing.assert_array_equal(sce.softmax(X, backend="spy"), np.ones((3, 5)))
    np.testing.assert_array_equal(sce.logsumexp(X, backend="spy"), [2, 2, 2])
    np.testing.assert_array_equal(sce.log_softmax(X, backend="spy"), np.full((3, 5), -2))
    assert given == [["grad"], ["row_max", "log_sum"], ["row_max", "log_sum"]]


def test_overlaps_are_told_element_by_element() -> None:
    room = np.zeros(12)
    assert checks.overlaps(room[::2], room[::3])
    assert checks.overlaps(room[::2], room[1::2]) is False
    assert checks.overlaps(room, np.zeros(12)) is False
    assert checks.overlaps(room, [0.0]) is False


@pytest.mark.parametrize(("one", "other"), [("out", "lse_out"), ("out", "grad_out"), ("grad_out", "lse_out")])
def test_outputs_that_share_memory_are_named(one: str, other: str) -> None:
    room = np.zeros(12)
    buffers: dict[str, Any] = {
        name: room[:6].reshape(2, 3) if name == "grad_out" else room[4:6] for name in (one, other)
    }
    with pytest.raises(ValueError, match=r"^(\w+) overlaps (\w+): each output needs memory of its own$") as caught:
        sce.cross_entropy_with_grad(np.ones((2, 3)), [0, 1], reduction="none", **buffers)
    assert set(str(caught.value).partition(":")[0].split(" overlaps ")) == {one, other}


def test_what_is_too_hard_to_tell_counts_as_an_overlap() -> None:
    """Ten axes whose strides are multiples of three, but for one: whether two sums meet takes a long search."""
    room = np.zeros(1 << 25, np.int8)
    strides = (409108, 21588, 248606, 517294, 341502, 39479, 463636, 443200, 511013, 121880)
    others = (71786, 520643, 32819, 334047, 66631, 193832, 299015, 265158, 253878, 36425)
    one = as_strided(room, (3,) * 10, [3 * step for step in strides])
    other = as_strided(room[1:], (3,) * 10, [*(3 * step for step in others[:-1]), 3 * others[-1] + 1])
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(one, other, max_work=100_000)  # type: ignore[arg-type] # any number
    assert checks.overlaps(one, other)
    # These do not meet, which a search without an end finds out; whoever calls does not wait for it.
    strides = (66173, 267460, 123647, 519502, 471326, 495186, 398056, 220154, 98419, 511555)
    others = (29725, 408745, 453790, 2209, 467023, 279268, 239875, 107193, 332850, 32076)
    one, other = as_strided(room, (2,) * 10, strides), as_strided(room[23:], (2,) * 10, others)
    assert not np.shares_memory(one, other)
    assert checks.overlaps(one, other)


@pytest.mark.parametrize(
    ("shape", "strides", "inside"),
    [
        ((3, 4), (32, 8), False),
        ((3, 4), (24, 8), True),
        ((3, 4), (0, 8), True),
        ((3, 4), (-32, 8), False),
        ((4, 3), (8, 32), False),
        ((2, 2, 2), (64, 16, 8), False),
        ((2, 2, 2), (24, 16, 8), True),
        ((2, 2, 2), (32, 16, 8), False),
        ((1, 4), (0, 8), False),
        ((1,), (0,), False),
        ((0, 4), (0, 0), False),
        ((3,), (7,), True),
        ((3,), (16,), False),
    ],
)
def test_entries_that_share_bytes(shape: tuple[int, ...], strides: tuple[int, ...], inside: bool) -> None:
    room = np.zeros(64)[32:] if min(strides) < 0 else np.zeros(64)
    buffer = as_strided(room, shape, strides)
    assert checks._overlaps_itself(buffer) == inside
