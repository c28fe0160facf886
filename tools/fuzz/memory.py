"""The memory layout of an array: strides, byte order, alignment, and a margin that nobody may write to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

_MARGIN = 64  # bytes on either side
_UNWRITTEN = 0xA5

PLAIN: dict[str, Any] = {"reversed": False, "steps": [], "shift": 0, "swapped": False, "frozen": False}


def layouts() -> st.SearchStrategy[Any]:
    """Return the strategy for layouts. Half of them are ordinary."""
    other = st.fixed_dictionaries(
        {
            "reversed": st.booleans(),  # Fortran order
            "steps": st.lists(st.sampled_from((1, -1, 2, -2, 3)), max_size=4),  # along each axis
            "shift": st.sampled_from((0, 0, 1, 4, 8)),  # bytes from an aligned address
            "swapped": st.booleans(),
            "frozen": st.booleans(),
        }
    )
    return st.one_of(st.just(PLAIN), other)


@dataclass(slots=True)
class GuardedArray:
    """An array inside memory of which every byte is known.

    Attributes
    ----------
    view : ndarray
        The array that a call is given.
    """

    view: Any
    _memory: Any
    _before: Any
    _values: Any

    def untouched(self) -> bool:
        """Return whether no byte has changed."""
        return bool((self._memory == self._before).all())

    def margin_untouched(self) -> bool:
        """Return whether no byte outside the view has changed, and restore the view."""
        self.view[...] = self._values
        return self.untouched()


def place(values: Any, layout: dict[str, Any], *, writeable: bool = False) -> GuardedArray:
    """Copy values into guarded memory. If `writeable`, the array is an output: in native byte order and never
    read-only.
    """
    dtype = values.dtype
    if layout["swapped"] and not writeable and dtype.itemsize > 1 and dtype.kind in "fiu":
        dtype = dtype.newbyteorder("S")
    steps = [layout["steps"][axis] if axis < len(layout["steps"]) else 1 for axis in range(values.ndim)]
    shape = [length * abs(step) for length, step in zip(values.shape, steps, strict=True)]
    if layout["reversed"]:
        shape.reverse()
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    start = _MARGIN + layout["shift"]
    memory = np.full(start + size + _MARGIN, _UNWRITTEN, np.uint8)
    whole = memory[start : start + size].view(dtype).reshape(shape)
    if layout["reversed"]:
        whole = whole.transpose()
    view = whole[tuple(slice(None, None, step) for step in steps)] if values.ndim else whole
    view[...] = values
    before, kept = memory.copy(), view.copy()
    if layout["frozen"] and not writeable:
        view.flags.writeable = False
    return GuardedArray(view, memory, before, kept)
