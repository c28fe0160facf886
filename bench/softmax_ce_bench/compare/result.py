"""The results of a run as plain values. They are filled while the run measures, stored unchanged, and read by all
tables.

The annotations and docstrings here and in :mod:`softmax_ce_bench.compare.measurements` describe the record's format:
its JSON Schema is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from softmax_ce.documents import INFINITE, Limits
from softmax_ce_bench.compare.measurements import (
    RANKED,
    REJECTED,
    SKIPPED,
    UNRANKED,
    CallOptions,
    Ceiling,
    CellOperation,
    ComparedCell,
    Control,
    Count,
    Duration,
    Entry,
    Inputs,
    Number,
    OperationName,
    Seconds,
    Timing,
)
from softmax_ce_bench.measure.machine import Machine

__all__ = [
    "BACKEND",
    "PEER",
    "RANKED",
    "REJECTED",
    "SKIPPED",
    "UNRANKED",
    "BreakEven",
    "CallOptions",
    "Candidate",
    "Ceiling",
    "CellOperation",
    "ColdStart",
    "ComparedCell",
    "Control",
    "DigitsFit",
    "Entry",
    "Inputs",
    "NotMeasured",
    "Run",
    "Settings",
    "Timing",
]  # fmt: skip

BACKEND, PEER = "backend", "peer"


@dataclass(frozen=True, slots=True)
class Settings:
    """How it was measured, and what the words mean.

    Attributes
    ----------
    base : str
        The candidate that speed-ups are relative to: numpy-written if it takes part in every cell, else the numpy
        backend.
    operations : tuple of str
        What was timed. forward: the loss alone. backward: the gradient alone. fused: loss and gradient in one call.
        hessian: loss, gradient and diagonal Hessian in one call. kl: the KL divergence from the logits with noise of
        standard deviation 1, and its gradient. linear_forward: the loss of a linear layer in place of the logits.
        linear: that, and the gradients of the layer. Others: the function of that name.
    results : {"buffers", "allocated"}
        buffers: backends write into preallocated buffers whose pages are there. allocated: every call of a backend
        allocates its results. Peers always allocate theirs: see a candidate's `includes`.
    time_budget : float
        The seconds asked for.
    sample_seconds : float
        Calls are batched until a sample lasts at least about this many seconds.
    most_rounds : int
        A cell ends after this many rounds even if time is left.
    checked_elements : int
        Errors are taken on drawn rows with at most this many logits.
    confidence : float
        The confidence of every interval. All are bootstrap percentile intervals over rounds.
    tie : float
        Candidates tie if their intervals overlap, or if their speed-ups are less than this fraction apart.
    contaminated_beyond : float
        A cell in which the control differs from itself by more than this fraction is contaminated.
    """

    base: str
    operations: Annotated[tuple[OperationName, ...], Limits(minItems=1)]
    results: Annotated[str, Limits(enum=("buffers", "allocated"))]
    time_budget: Duration
    sample_seconds: Seconds
    most_rounds: Number
    checked_elements: Number
    confidence: Annotated[float, Limits(exclusiveMinimum=0, exclusiveMaximum=1)]
    tie: Duration
    contaminated_beyond: Duration


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend or a peer that was asked for, measured or missing.

    Attributes
    ----------
    name : str
        Its name, as everywhere in this record.
    kind : {"backend", "peer"}
        backend: of softmax_ce. peer: another library, run in a process of its own.
    title : str
        The name for headings.
    version : str or None
        A peer's version. None for a backend, whose version is softmax_ce's, and for what is not installed.
    details : str
        What it found when it was loaded, such as the instruction set in use; may be empty.
    includes : str
        What the time of a call covers beside the arithmetic: allocation, copies, dispatch.
    stable : bool
        false: it overflows by design, and is never ranked.
    available : bool
        Whether it could be loaded here.
    why_unavailable : str or None
        The reason if it could not.
    how_to_get : str
        What to do then; may be empty.
    """

    name: str
    kind: Annotated[str, Limits(enum=(BACKEND, PEER))]
    title: str
    version: str | None
    details: str
    includes: str
    stable: bool
    available: bool
    why_unavailable: str | None
    how_to_get: str


@dataclass(frozen=True, slots=True)
class DigitsFit:
    """Softmax regression on scikit-learn's handwritten digits, in float64, by gradient descent with one backend's loss
    and gradient.

    Attributes
    ----------
    backend : str
        The name of the backend.
    steps : int
        The steps of gradient descent.
    final_loss : float
        Mean training loss before the last step, in nats.
    accuracy : float
        The fraction of held-out digits that are recognised.
    difference : float
        The largest relative difference of its loss curve from the base's.
    difference_over_bound : float
        The largest difference of the two curves over what rounding may explain; right up to 1.
    passed : bool
        Whether accuracy and difference are as they must be.
    losses : tuple of float
        Mean training loss before each step, in nats.
    """

    backend: str
    steps: Number
    final_loss: Annotated[float, INFINITE]
    accuracy: Annotated[float, Limits(minimum=0, maximum=1)]
    difference: Annotated[float, INFINITE]
    difference_over_bound: Annotated[float, INFINITE]
    passed: bool
    losses: tuple[Annotated[float, INFINITE], ...]


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A cell that was planned and is not there.

    Attributes
    ----------
    key : str
        The key of the cell.
    reason : str
        The reason, in one line.
    """

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The calls after which a candidate has made up for its slower start, against the base: the difference of what both
    need until their first result is there, over what each later call saves.

    Attributes
    ----------
    cell : str
        The key of a cell.
    operation : str
        The operation of the calls.
    cold : float
        Calls, with nothing cached on disk; 0 if it is ahead from the start.
    cached : float
        Calls, with compiled code in its cache on disk.
    """

    cell: str
    operation: OperationName
    cold: Annotated[float, Limits(minimum=0), INFINITE]
    cached: Annotated[float, Limits(minimum=0), INFINITE]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One candidate in fresh processes. A field that could not be measured is None.

    Attributes
    ----------
    name : str
        The name of a candidate.
    failed : str or None
        Why there is nothing, in one line.
    import_seconds : float or None
        Seconds in a process that has NumPy already. For a backend: import softmax_ce; the first call loads what the
        backend depends on. For a peer: import the library and hand it its arrays. Median of a few processes, as are
        the next three.
    first_call_cold : float or None
        Seconds that the first fused call (1 row, 10 classes, float32) takes after that, with nothing cached on disk,
        including loading the backend and compiling it.
    first_call_cached : float or None
        Seconds that the first fused call takes in a later process, which finds what the first one left on disk.
    second_call : float or None
        Seconds that the next call takes in that later process.
    peak_memory : int or None
        Bytes: the most that was resident in the process during one fused call (the last of settings.operations if
        fused was not timed), not the first, above what was resident before it. Logits, targets and buffers handed in
        are there before and not counted; results that a call allocates, temporaries of Python and scratch of C are.
    peak_memory_cell : str or None
        The key of the cell that it was measured on.
    break_even : tuple of BreakEven
        One for each measured cell.
    """

    name: str
    failed: str | None
    import_seconds: float | None
    first_call_cold: float | None
    first_call_cached: float | None
    second_call: float | None
    peak_memory: Count | None
    peak_memory_cell: str | None
    break_even: tuple[BreakEven, ...]


@dataclass(slots=True)
class Run:
    """One run of `softmax-ce compare`, filled as it proceeds. Times are in seconds, and sizes are in bytes.

    Attributes
    ----------
    date : str
        When the run began: ISO 8601, UTC.
    command : tuple of str
        The arguments of the softmax-ce command.
    machine : Machine
        Where the run was made, and with what.
    settings : Settings
        How it was measured.
    candidates : tuple of Candidate
        Backends in the registry's order, numpy first; then peers.
    seconds : float
        The time of the whole run.
    complete : bool
        false: it was interrupted, or cells were left out: see not_measured.
    contaminated : bool
        Whether any cell is drifted or crowded: then its times are not to be quoted.
    fits : list of DigitsFit
        One for each backend, numpy first; empty unless the digits were among the workloads.
    cells : list of Cell
        In the order measured.
    not_measured : list of NotMeasured
        What was planned and left out.
    cold_starts : list of ColdStart
        Empty unless it was measured.
    """

    date: str
    command: tuple[str, ...]
    machine: Machine
    settings: Settings
    candidates: tuple[Candidate, ...]
    seconds: Duration = 0.0
    complete: bool = False
    contaminated: bool = False
    fits: list[DigitsFit] = field(default_factory=list)
    cells: list[ComparedCell] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)
    cold_starts: list[ColdStart] = field(default_factory=list)

    def candidate(self, name: str) -> Candidate:
        """Return a candidate by its name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)
