"""The results of the gate as plain values, for tables, pictures and --json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softmax_ce.documents import plain
from softmax_ce_bench.gate.cells import GateCell
from softmax_ce_bench.gate.decision import Exit, Found, Verdict
from softmax_ce_bench.measure.machine import Machine
from softmax_ce_bench.measure.stats import Ratio

SCHEMA = "softmax-ce/gate"
VERSION = 2


@dataclass(frozen=True, slots=True)
class CellResult:
    """The results of one cell.

    Attributes
    ----------
    cell : GateCell
    base, head : tuple of float
        Seconds a call, one a round, of the first measurement.
    first : Found
    second : Found or None
        The result of the second measurement, which only cells have that the first called slower.
    verdict : Verdict
    instructions : tuple of two floats, or None
        Instructions per call of base and head, or None if they were not counted.
    """

    cell: GateCell
    base: tuple[float, ...]
    head: tuple[float, ...]
    first: Found
    second: Found | None
    verdict: Verdict
    instructions: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """The results of a run.

    Attributes
    ----------
    base, head : str
        As they were asked for.
    base_commit, head_commit : str
    started : str
        Date and time, UTC.
    seconds : float
        The time that measuring took.
    control : Ratio
        The frozen control in head's processes over base's, over all rounds.
    control_rounds : int
    cells : tuple of CellResult
    notes : tuple of str
        The cells and backends that were left out, with the reasons.
    exit : Exit
    out_of_time : bool
        Whether some cell was not clear yet when the time was up.
    others : float or None
        CPUs that other programs used meanwhile.
    machine : Machine
    command : tuple of str
    """

    base: str
    head: str
    base_commit: str
    head_commit: str
    started: str
    seconds: float
    control: Ratio
    control_rounds: int
    cells: tuple[CellResult, ...]
    notes: tuple[str, ...]
    exit: Exit
    out_of_time: bool
    others: float | None
    machine: Machine
    command: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the results as dicts, lists, strings, numbers and None, as --json writes them."""
        return {"schema": SCHEMA, "version": VERSION, **plain(self)}
