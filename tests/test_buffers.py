"""Whether arrays share memory: told exactly where NumPy can, and yes where it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from softmax_ce import checks


def test_overlaps_are_told_element_by_element() -> None:
    room = np.zeros(12)
    assert checks.overlaps(room[::2], room[::3])
    assert not checks.overlaps(room[::2], room[1::2])
    assert not checks.overlaps(room, np.zeros(12))
    assert not checks.overlaps(room, [0.0])


def test_what_is_too_hard_to_tell_counts_as_an_overlap() -> None:
    """Ten axes whose strides are multiples of three, but for one: whether two sums meet takes a long search."""
    room = np.zeros(1 << 25, np.int8)
    strides = (409108, 21588, 248606, 517294, 341502, 39479, 463636, 443200, 511013, 121880)
    others = (71786, 520643, 32819, 334047, 66631, 193832, 299015, 265158, 253878, 36425)
    one = as_strided(room, (3,) * 10, [3 * step for step in strides])
    other = as_strided(room[1:], (3,) * 10, [*(3 * step for step in others[:-1]), 3 * others[-1] + 1])
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(one, other, max_work=100_000)  # type: ignore[arg-type]
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
