"""How the arguments of a call on Dask arrays are cut into blocks: where the logits are, or where their rows are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np

from softmax_ce import checks

Index = tuple[int, ...]
Argument = Callable[[Index], Any]  # from the index of a block to what a task is given: a key, or the block itself


class Cut:
    """The blocks of the logits. The rows have the axes of the logits without that of the classes.

    Parameters
    ----------
    x : dask.array.Array
        The logits.
    axis : int
        The class axis in [0, ndim).
    """

    def __init__(self, x: da.Array, axis: int) -> None:
        self.x, self.axis = x, axis
        self.row_chunks = self.without_classes(x.chunks)
        self.row_shape = self.without_classes(x.shape)
        self.firsts = _starts(x.chunks[axis])
        self.has_whole_rows = len(self.firsts) == 1

    def without_classes(self, of_axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a tuple that has an entry for each axis without that of the classes."""
        return of_axes[: self.axis] + of_axes[self.axis + 1 :]

    def rows(self) -> Iterator[Index]:
        """Yield the indices of the row blocks."""
        return np.ndindex(*(len(chunks) for chunks in self.row_chunks))

    def shards(self, row: Index) -> Iterator[tuple[Index, int]]:
        """Yield the index and the first class of each block in a row block."""
        for k, first in enumerate(self.firsts):
            yield (*row[: self.axis], k, *row[self.axis :]), first

    def shape(self, row: Index) -> list[int]:
        """Return the shape of a row block."""
        return [chunks[i] for chunks, i in zip(self.row_chunks, row, strict=True)]

    def key(self, at: Index) -> tuple[Any, ...]:
        """Return the key of a block of logits."""
        return (self.x.name, *at)

    def checked(self, name: str, value: Any, whole: bool) -> Any:
        """Return an argument as a Dask or NumPy array, or None. If not `whole`, it has the rows' shape."""
        if value is None:
            return None
        shape, chunks = (self.x.shape, self.x.chunks) if whole else (self.row_shape, self.row_chunks)
        if np.shape(value) != shape:
            raise ValueError(
                f"{name} of shape {np.shape(value)} does not fit logits of shape {self.x.shape} with classes on axis "
                f"{self.axis}"
            )
        if not isinstance(value, da.Array):
            return np.array(checks.as_array(name, value))  # a copy: the caller may change its own before it is computed
        if value.chunks != chunks:
            raise ValueError(f"{name} has chunks {value.chunks}; it must be chunked as the logits are, {chunks}")
        return value

    def argument(self, value: Any, name: str, layer: dict[Any, Any]) -> Argument:
        """Return the blocks of an argument that :meth:`checked` has returned, or None.

        A block of a NumPy array is part of its task, if that is one task, or else a node of its own in `layer`.
        """
        if value is None:
            return lambda index: None
        if isinstance(value, da.Array):
            return lambda index: (value.name, *index)
        whole = value.ndim == self.x.ndim
        starts = [_starts(chunks) for chunks in (self.x.chunks if whole else self.row_chunks)]
        sizes = self.x.chunks if whole else self.row_chunks

        def block(index: Index) -> Any:
            ranges = zip(starts, sizes, index, strict=True)
            return value[(*(slice(first[i], first[i] + size[i]) for first, size, i in ranges), ...)]

        if self.has_whole_rows:
            return block

        def node(index: Index) -> Any:
            key = (name, *index)
            if key not in layer:
                layer[key] = block(index)
            return key

        return node


def _starts(sizes: tuple[int, ...]) -> list[int]:
    return [0, *itertools.accumulate(sizes[:-1])]
