"""What to compare: the grid of cells, and whether it fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce_bench import peers
from softmax_ce_bench.compare.result import CallOptions
from softmax_ce_bench.inputs import digits, workloads
from softmax_ce_bench.inputs.workloads import Shape, Workload
from softmax_ce_bench.measure import memory
from softmax_ce_bench.measure.operations import FEATURES, LOSSES, TABLE

BASE = "numpy"  # always measured: what speed-ups are relative to where the written formula cannot be
WRITTEN = "numpy-written"  # what a user would run otherwise
DIGITS = Shape("digits", 1797, 10, "logits of softmax regression on handwritten digits")
SECONDS = 30.0
LINEAR_BUDGET = 256 << 20  # bytes: the default of the functions that take a linear layer


class RequestError(ValueError):
    """The request cannot be met. The message is one line and gives the reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """The recipe of a workload. Nothing is allocated until the workload is made.

    Attributes
    ----------
    set : str
        The named set, or "shapes", or "own".
    shape : Shape
        Its name, rows, classes and regime; the recipe too, unless `files` or the digits.
    dtype : str
    soft : bool
        Soft targets.
    files : tuple of two Paths, or None
        The user's own arrays.
    ignore_index : int
        The label of their rows to ignore.
    """

    set: str
    shape: Shape
    dtype: str
    soft: bool = False
    files: tuple[Path, Path] | None = None
    ignore_index: int = workloads.IGNORE_INDEX

    def maker(self, fit: digits.Fit | None = None) -> Callable[[], Workload]:
        """Return a function that makes the workload, here or in another process. `fit` is the base's fit of digits."""
        if self.files is not None:
            return partial(workloads.from_files, *self.files, self.ignore_index)
        make: Callable[[], Workload]
        if self.shape is DIGITS:
            assert fit is not None
            make = partial(workloads.from_digits, fit, self.dtype)
        else:
            make = partial(workloads.synthetic, self.shape, self.dtype)
        return partial(_softened, make) if self.soft else make

    def maker_for_layer(self) -> Callable[[], Workload] | None:
        """Return a function that makes the workload without its logits, which calls on a linear layer do not take.

        None if the labels are not drawn.
        """
        if self.files is not None or self.shape is DIGITS or self.soft or self.shape.inner:
            return None
        return partial(workloads.without_logits, self.shape, self.dtype)

    @property
    def elements(self) -> int:
        """Return the number of logits."""
        return self.shape.rows * self.shape.classes

    @property
    def text(self) -> str:
        """Return the name of the workload, which is unique in a run."""
        size = f"{self.shape.rows}x{self.shape.classes}"
        words = (*((self.shape.name,) * (self.shape.name != size)), size, self.dtype, *(("soft",) * self.soft))
        return " ".join(words)


def _softened(make: Callable[[], Workload]) -> Workload:
    return workloads.softened(make())


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell to be measured: a workload and a number of threads."""

    source: Source
    threads: int | None
    options: CallOptions

    @property
    def key(self) -> str:
        """Return the name of the cell, which is unique in a run and the same in other runs."""
        defaults = CallOptions()
        changed = (
            f"{name.replace('_', '-')}={getattr(self.options, name)}"
            for name in CallOptions.__slots__
            if getattr(self.options, name) != getattr(defaults, name)
        )
        threads = "auto threads" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return ", ".join((self.source.text, *changed, threads))


@dataclass(frozen=True, slots=True, eq=False)
class CompareRequest:
    """What to compare, and how.

    Attributes
    ----------
    backends : tuple of str
        Available ones.
    sources : tuple of Source
    peers : tuple of str
        Installed ones.
    operations : tuple of str
        Names from the table of operations.
    threads : tuple of int or None
        Each as for :func:`softmax_ce.cross_entropy`.
    seconds : float
        The time for everything.
    counts_loading : bool
        False: the seconds begin once the backends have been loaded and compiled.
    options : CallOptions
    weight : ndarray or None
        The user's own class weights, where the options say "file".
    allocate : bool
        Backends allocate their results, in place of writing into buffers.
    ceilings : bool
        Time the copy and read loops, too.
    cold_start : bool or None
        Measure what happens before the first call; None: if there is time left.
    command : tuple of str
        The command line, for the record.
    base : str
        The candidate that speed-ups are relative to: `BASE`, or a peer in this process that takes part in every cell.
    """

    backends: tuple[str, ...]
    sources: tuple[Source, ...]
    peers: tuple[str, ...] = ()
    operations: tuple[str, ...] = LOSSES
    threads: tuple[int | None, ...] = (None,)
    seconds: float = SECONDS
    counts_loading: bool = False
    options: CallOptions = field(default_factory=CallOptions)
    weight: Any = None
    allocate: bool = False
    ceilings: bool = True
    cold_start: bool | None = False
    command: tuple[str, ...] = ()
    base: str = BASE

    @property
    def names(self) -> tuple[str, ...]:
        """Return the backends to measure. The base, plain NumPy, comes first."""
        return (BASE, *(name for name in self.backends if name != BASE))

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Return the cells in the order of measurement; those of one workload are neighbours."""
        return tuple(PlannedCell(source, count, self.options) for source in self.sources for count in self.threads)

    def call_options(self, classes: int) -> dict[str, Any]:
        """Return the options of softmax_ce's functions, without the reduction."""
        chosen = self.options
        given: dict[str, Any] = {}
        if chosen.weight == "file":
            given["weight"] = self.weight
        elif chosen.weight == "drawn":
            given["weight"] = 0.5 + np.random.default_rng(8).random(classes)
        for name in ("label_smoothing", "z_loss", "ignore_index"):
            if getattr(chosen, name) != getattr(CallOptions(), name):
                given[name] = getattr(chosen, name)
        return given

    def check(self) -> None:
        """Check the request before anything is allocated.

        Raises
        ------
        RequestError
            The same cell twice, weights that do not fit the classes, a cell that does not fit into memory.
        """
        keys = [cell.key for cell in self.cells]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise RequestError(f"{twice} is given twice")
        for source in self.sources:
            if self.weight is not None and self.weight.shape != (source.shape.classes,):
                raise RequestError(
                    f"there are {source.shape.classes} classes in {source.text}, "
                    f"and the weights have the shape {self.weight.shape}"
                )
        free = memory.available()
        for source in self.sources:
            needed = self._needed(source)
            if free is not None and needed > free:
                each = memory.size(memory.array(source.elements, source.dtype))
                raise RequestError(
                    f"{source.text} needs about {memory.size(needed)} (logits and gradient {each} each), "
                    f"and {memory.size(free)} is free"
                )

    def _needed(self, source: Source) -> int:
        rows = [TABLE[operation] for operation in self.operations]
        more = any(row.takes_target_logits for row in rows) + any(row.arrays_written > 1 for row in rows)
        needed = memory.needed(source.elements, source.dtype, soft=source.soft, more=more)
        if any(row.takes_layer for row in rows):
            shape = source.shape
            entries = (shape.rows + shape.classes) * (shape.features or FEATURES)
            needed += 3 * memory.array(entries, source.dtype) + LINEAR_BUDGET  # layer, gradients, and how it is drawn
        return needed

    def peers_that_fit(self, source: Source) -> tuple[str, ...]:
        """Return the peers that fit into memory.

        Each makes the workload once more, in a process of its own, and keeps several arrays of its size.
        """
        free = memory.available()
        if free is None:
            return self.peers
        left = free - self._needed(source)
        each = memory.needed_by_peer(source.elements, source.dtype)
        elsewhere = [name for name in self.peers if not peers.BY_NAME[name].in_process]
        fitting = elsewhere[: max(0, int(left // each))]
        return tuple(name for name in self.peers if name in fitting or name not in elsewhere)


def built_in(name: str, dtypes: tuple[str, ...], *, soft: bool = False) -> Iterator[Source]:
    """Return the workloads of a named set, in each dtype. Those of the quick set begin with the digits."""
    shapes = ((DIGITS,) if name == "quick" else ()) + workloads.SETS[name]
    for dtype in dtypes:
        for shape in shapes:
            yield Source(name, shape, dtype, soft)


def of_shapes(shapes: tuple[tuple[int, int], ...], dtypes: tuple[str, ...], *, soft: bool = False) -> Iterator[Source]:
    """Return wide logits of the given shapes, in each dtype."""
    for dtype in dtypes:
        for rows, classes in shapes:
            yield Source("shapes", Shape(f"{rows}x{classes}", rows, classes, "a requested shape"), dtype, soft)


def own(logits: Path, targets: Path, ignore_index: int = workloads.IGNORE_INDEX) -> Source:
    """Return the user's own arrays.

    Raises
    ------
    WorkloadError
        As :func:`softmax_ce_bench.inputs.workloads.from_files`.
    """
    found = workloads.from_files(logits, targets, ignore_index)  # memory-mapped
    shape = Shape(found.name, *found.shape, found.regime)
    files = (logits.absolute(), targets.absolute())
    return Source("own", shape, found.dtype, found.targets.ndim == 2, files, ignore_index)


def base_for(
    peer_names: tuple[str, ...], sources: tuple[Source, ...], options: CallOptions, operations: tuple[str, ...] = LOSSES
) -> str:
    """Return the name of the candidate that speed-ups are relative to.

    That is the written formula, if it takes part in every cell and has every operation; else `BASE`.
    """
    plain = options == CallOptions() and all(
        source.dtype in ("float32", "float64") and not source.shape.inner for source in sources
    )
    has_all = set(operations) <= set(peers.BY_NAME[WRITTEN].operations)
    return WRITTEN if plain and has_all and WRITTEN in peer_names else BASE


def installed_peers(operations: tuple[str, ...] = LOSSES) -> tuple[str, ...]:
    """Return the names of all peers that can be imported and have one of the operations."""
    return tuple(peer.name for peer in peers.PEERS if peer.why_missing is None and peer.has_any(operations))
