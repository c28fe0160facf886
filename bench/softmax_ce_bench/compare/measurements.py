"""What a cell of a comparison holds: one workload with one number of threads, and every candidate's times and errors.

The annotations and docstrings here and in :mod:`softmax_ce_bench.compare.result` describe the record's format: its
JSON Schema is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from softmax_ce.documents import Limits
from softmax_ce_bench.measure.operations import TABLE
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, Ratio
from softmax_ce_bench.truth.errors import Errors

RANKED, UNRANKED, REJECTED, SKIPPED = "ranked", "unranked", "rejected", "skipped"

OperationName = Annotated[str, Limits(enum=tuple(TABLE))]
Count = Annotated[int, Limits(minimum=0)]
Number = Annotated[int, Limits(minimum=1)]
Duration = Annotated[float, Limits(minimum=0)]
Seconds = Annotated[float, Limits(exclusiveMinimum=0)]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was run on.

    Attributes
    ----------
    name : str
        The name of the workload.
    set : str
        The named set that it belongs to; "shapes" for shapes of the user's, "own" for the user's own arrays.
    regime : str
        What it stands for, in a few words.
    rows : int
        The number of rows, N.
    classes : int
        The number of classes, C.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        The dtype of the logits.
    targets : {"hard", "soft"}
        hard: one label a row, int64 unless they are the user's own. soft: targets of the logits' shape.
    features : int or None
        The features of the linear layer, D; None: no operation takes one.
    """

    name: str
    set: str
    regime: str
    rows: Number
    classes: Number
    dtype: Annotated[str, Limits(enum=("float32", "float64", "float16", "bfloat16"))]
    targets: Annotated[str, Limits(enum=("hard", "soft"))]
    features: Number | None = None


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What every call was given beside logits and targets; as for softmax_ce.cross_entropy.

    Attributes
    ----------
    weight : {"none", "drawn", "file"}
        Class weights. drawn: between 0.5 and 1.5. file: the user's own.
    label_smoothing : float
        In [0, 1].
    z_loss : float
        The factor of logsumexp**2.
    ignore_index : int
        The label of rows that count for nothing.
    reduction : {"mean", "sum", "none"}
        The reduction over the rows.
    """

    weight: Annotated[str, Limits(enum=("none", "drawn", "file"))] = "none"
    label_smoothing: Annotated[float, Limits(minimum=0, maximum=1)] = 0.0
    z_loss: Annotated[float, Limits(minimum=0)] = 0.0
    ignore_index: int = -100
    reduction: Annotated[str, Limits(enum=("mean", "sum", "none"))] = "mean"


@dataclass(frozen=True, slots=True)
class Control:
    """The control: one frozen NumPy kernel, timed twice in every round under two names.

    Attributes
    ----------
    first : tuple of float
        Seconds a call, one a round.
    second : tuple of float
        Seconds a call under its other name, one a round.
    ratio : Ratio
        first / second, paired within the rounds: 1 if the machine is quiet.
    """

    first: tuple[Seconds, ...]
    second: tuple[Seconds, ...]
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A loop that does a part of the work alone, timed in the same rounds on the same arrays.

    Attributes
    ----------
    loop : {"read", "copy", "stream", "product", "products"}
        Loops in C, with as many threads as the backends. read: reads the logits. copy: copies them to the gradient's
        buffer with regular stores, which also read the lines that they write. stream: copies them with non-temporal
        stores, which do not. By NumPy's BLAS, on its own threads. product: the logits of the linear layer, in blocks.
        products: these, and the two products that are the gradients of the layer.
    bytes : int
        The bytes that one call reads and writes: N*C*itemsize for read, twice that for the copies; for the products,
        the bytes of the operation that they are the ceiling of.
    seconds : tuple of float
        Seconds a call, one a round.
    time : Ratio
        Seconds a call.
    gb_per_s : float
        bytes / time / 1e9.
    """

    loop: Annotated[str, Limits(enum=("read", "copy", "stream", "product", "products"))]
    bytes: Number
    seconds: tuple[Seconds, ...]
    time: Ratio
    gb_per_s: Seconds


@dataclass(frozen=True, slots=True)
class CellOperation:
    """One operation of a cell.

    Attributes
    ----------
    bytes : int
        What it must move at least: N*C*itemsize to read the logits, and as much again to read soft targets or target
        logits, and to write a gradient and a Hessian each. For an operation on a linear layer, the bytes of the layer's
        arrays, and of their gradients. Labels and losses are not counted.
    ceiling : str or None
        The loop that candidates are scored against: the matrix products for an operation on a linear layer; read where
        no array of the logits' size is written, as in forward; else the faster of copy and stream. None: not measured.
    fastest : tuple of str
        The fastest ranked candidate, then those that tie with it, the faster first. Empty if none is ranked or if there
        were too few rounds to tell.
    """

    bytes: Number
    ceiling: str | None
    fastest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """One candidate and operation in one cell.

    Attributes
    ----------
    seconds : tuple of float
        Seconds a call, one a round; entry k of everything in the cell belongs to round k.
    calls : int
        The calls in one sample.
    time : Ratio
        Seconds a call.
    speedup : Ratio
        The base's time over this one's, paired within the rounds.
    gb_per_s : float
        The operation's bytes / time / 1e9.
    of_ceiling : Ratio or None
        This one's bytes a second over the ceiling's, paired within the rounds: 1 is the speed of the ceiling. None: no
        ceiling was measured.
    peak_memory : int or None
        Bytes: the most that was resident in a fresh process during one call, not the first, above what was resident
        before it. Arguments and buffers are there before and not counted; a peer's results are. It is measured for the
        operations on a linear layer. None: not measured.
    """

    seconds: tuple[Seconds, ...]
    calls: Number
    time: Ratio
    speedup: Ratio
    gb_per_s: Seconds
    of_ceiling: Ratio | None
    peak_memory: Count | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate in one cell.

    Attributes
    ----------
    name : str
        The name of a candidate.
    status : {"ranked", "unranked", "rejected", "skipped"}
        ranked: right, and may be called fastest. unranked: right here, but it overflows by design. rejected: wrong, or
        it raised. skipped: not asked, or it cannot run here.
    reason : str or None
        Why it is not ranked, in one line; None if it is.
    errors : Errors or None
        None: not checked, or it raised.
    timings : dict
        Operation -> timing. Empty if it was not timed: a rejected candidate is timed only if it is the base.
    """

    name: str
    status: Annotated[str, Limits(enum=(RANKED, UNRANKED, REJECTED, SKIPPED))]
    reason: str | None
    errors: Errors | None
    timings: dict[OperationName, Timing]


@dataclass(frozen=True, slots=True)
class ComparedCell:
    """All candidates on one workload, with one number of threads.

    Attributes
    ----------
    key : str
        Names the cell: unique in the run, and the same in another run of the same cell.
    inputs : Inputs
        What was run on.
    options : Options
        What every call was given.
    threads : int or None
        The number that backends and peers were given. None: backends choose by size up to cpus_available; peers have
        cpus_available.
    checked_rows : int
        The rows on which errors were taken.
    telling_rows : int
        Those of them that count and have a finite log-sum-exp; 0: nothing was compared.
    rounds : int
        The number of rounds. In each, every candidate and the control ran, in an order drawn anew.
    took : float
        Seconds for all of the cell, including checks and warming up.
    timer_overhead : float
        Seconds that timing an empty function takes: the length of one sample, not subtracted.
    control : Control
        The times of the control.
    drifted : bool
        The control differed from itself by more than settings.contaminated_beyond.
    crowded : bool
        Other programs left fewer of the CPUs that this process may use than the cell has threads at work.
    cpus_of_others : float or None
        CPUs, of those that this process may use, that other programs kept busy meanwhile; None if it is not known.
    ceilings : tuple of Ceiling
        Empty if they could not be measured.
    why_no_ceilings : str or None
        Why there are no ceilings.
    operations : dict
        Operation -> what it must move, and who is fastest.
    entries : tuple of Entry
        Backends in the registry's order, the base first; then peers.
    """

    key: str
    inputs: Inputs
    options: CallOptions
    threads: Number | None
    checked_rows: Count
    telling_rows: Count
    rounds: Number
    took: Duration
    timer_overhead: Duration
    control: Control
    drifted: bool
    crowded: bool
    cpus_of_others: float | None
    ceilings: tuple[Ceiling, ...]
    why_no_ceilings: str | None
    operations: dict[OperationName, CellOperation]
    entries: tuple[Entry, ...]

    @property
    def tells(self) -> bool:
        """Whether there are rounds enough for an interval."""
        return self.rounds >= FEWEST_ROUNDS
