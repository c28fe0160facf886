"""The results of a run as plain values. They are filled while the run measures, stored unchanged, and read by all
tables.

The fields, their units and how each was come by are described in one place, report/compare.schema.json. A float that
is infinite is null there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from softmax_ce_bench.measure.machine import Machine
from softmax_ce_bench.measure.stats import FEWEST_ROUNDS, Ratio
from softmax_ce_bench.truth.errors import Errors

SCHEMA = "softmax-ce/compare"
VERSION = 3  # 2 had no normalizers

RANKED, UNRANKED, REJECTED, SKIPPED = "ranked", "unranked", "rejected", "skipped"
BACKEND, PEER = "backend", "peer"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run was measured, and the limits that its words refer to."""

    base: str
    operations: tuple[str, ...]
    results: str
    time_budget: float
    sample_seconds: float
    most_rounds: int
    checked_elements: int
    confidence: float
    tie: float
    contaminated_beyond: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend or a peer, measured or missing."""

    name: str
    kind: str
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
    """Softmax regression on the digits with one backend's gradient."""

    backend: str
    steps: int
    final_loss: float
    accuracy: float
    difference: float
    difference_over_bound: float
    passed: bool
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The workload of a cell."""

    name: str
    set: str
    regime: str
    rows: int
    classes: int
    dtype: str
    targets: str


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options that every call was given."""

    weight: str = "none"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ignore_index: int = -100
    reduction: str = "mean"


@dataclass(frozen=True, slots=True)
class Control:
    """The frozen control, measured twice in every round."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A loop that only moves bytes, in the same rounds."""

    loop: str
    bytes: int
    seconds: tuple[float, ...]
    time: Ratio
    gb_per_s: float


@dataclass(frozen=True, slots=True)
class CellOperation:
    """One operation of a cell: the bytes that it must move, and the fastest candidates."""

    bytes: int
    ceiling: str | None
    fastest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one candidate and operation in one cell."""

    seconds: tuple[float, ...]
    calls: int
    time: Ratio
    speedup: Ratio
    gb_per_s: float
    of_ceiling: Ratio | None


@dataclass(frozen=True, slots=True)
class Entry:
    """The results of one candidate in one cell."""

    name: str
    status: str
    reason: str | None
    errors: Errors | None
    timings: dict[str, Timing]


@dataclass(frozen=True, slots=True)
class ComparedCell:
    """The results of all candidates on one workload, with one number of threads."""

    key: str
    inputs: Inputs
    options: CallOptions
    threads: int | None
    checked_rows: int
    telling_rows: int
    rounds: int
    took: float
    timer_overhead: float
    control: Control
    drifted: bool
    crowded: bool
    cpus_of_others: float | None
    ceilings: tuple[Ceiling, ...]
    why_no_ceilings: str | None
    operations: dict[str, CellOperation]
    entries: tuple[Entry, ...]

    @property
    def tells(self) -> bool:
        """Return whether there are enough rounds for an interval."""
        return self.rounds >= FEWEST_ROUNDS


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A cell that was planned and not measured."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The number of calls after which a candidate's slower start has paid off, relative to the base."""

    cell: str
    operation: str
    cold: float
    cached: float


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The cold start of one candidate."""

    name: str
    failed: str | None
    import_seconds: float | None
    first_call_cold: float | None
    first_call_cached: float | None
    second_call: float | None
    peak_memory: int | None
    peak_memory_cell: str | None
    break_even: tuple[BreakEven, ...]


@dataclass(slots=True)
class Run:
    """A whole run, filled as it proceeds."""

    date: str
    command: tuple[str, ...]
    machine: Machine
    settings: Settings
    candidates: tuple[Candidate, ...]
    schema: str = SCHEMA
    version: int = VERSION
    seconds: float = 0.0
    complete: bool = False
    contaminated: bool = False
    fits: list[DigitsFit] = field(default_factory=list)
    cells: list[ComparedCell] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)
    cold_starts: list[ColdStart] = field(default_factory=list)

    def candidate(self, name: str) -> Candidate:
        """Return a candidate by its name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)
