"""The gate from two sources to a verdict: build, check, measure, measure again what looks slower, conclude."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from softmax_ce_bench.gate import builds, cells, decision, instructions
from softmax_ce_bench.gate.builds import Source
from softmax_ce_bench.gate.cells import CONTROL, OPERATIONS, WORKLOADS, Cell
from softmax_ce_bench.gate.check import Reference, backends
from softmax_ce_bench.gate.decision import Found
from softmax_ce_bench.gate.result import Measured, Result
from softmax_ce_bench.gate.session import Build, BuildError, Session
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure import load, machine
from softmax_ce_bench.measure.stats import paired_ratio

_MORE = 8  # rounds by which a cell that scatters is extended at a time

Tell = Callable[[str, float, float], None]  # what is being done, the fraction done, seconds left (nan: not known)


@dataclass(frozen=True, slots=True)
class Request:
    """What to gate, and how.

    Attributes
    ----------
    base, head : Source
    backends : tuple of str
        Empty: all stable ones that the builds have.
    workloads : tuple of (Shape, dtype)
    operations : tuple of str
    rounds : int
        Of each measurement, at first.
    most_rounds : int
        To which a cell that scatters is extended.
    seconds : float
        For measuring, infinite unless limited. Building and checking come before.
    instructions : bool
        Whether to count them, too.
    seed : int
    command : tuple of str
    """

    base: Source
    head: Source
    backends: tuple[str, ...] = ()
    workloads: tuple[tuple[Shape, str], ...] = WORKLOADS
    operations: tuple[str, ...] = OPERATIONS
    rounds: int = decision.ROUNDS
    most_rounds: int = decision.MOST_ROUNDS
    seconds: float = math.inf
    instructions: bool = False
    seed: int = 0
    command: tuple[str, ...] = ()


def run(request: Request, tell: Tell) -> Result:
    """Build both, then :func:`compare` them.

    Raises
    ------
    BuildError
        One of them does not build, import or run, or head computes something wrong, or nothing can be compared.
    """
    with tempfile.TemporaryDirectory(prefix="softmax-ce-gate-", ignore_cleanup_errors=True) as name:
        # Both names have four letters: so long are the paths of everything that the two processes load.
        pair = Build("base", Path(name) / "base"), Build("head", Path(name) / "head")
        tell(f"building {request.base.text} and {request.head.text}", 0.0, math.nan)
        builds.make([(request.base, pair[0].site), (request.head, pair[1].site)])
        return compare(request, pair, Path(name), tell)


def compare(request: Request, pair: tuple[Build, Build], folder: Path, tell: Tell) -> Result:
    """Check and measure two installed builds; the workloads are put into a folder."""
    tell("checking what both compute", 0.0, math.nan)
    session, todo, notes = _checked(request, pair, folder)
    started, begin, before = datetime.now(UTC), time.monotonic(), _load()
    measuring = _Measuring(session, request, begin + request.seconds, tell)
    first = measuring.measure(todo, "measuring")
    if not measuring.control[0]:
        raise BuildError("nothing was measured within the time; a longer --time-budget gives more")
    second = measuring.measure([cell for cell in todo if first[cell].found.is_slower], "measuring again what is slower")
    cells = tuple(_measured(cell, first[cell], second.get(cell)) for cell in todo)
    seconds, others = time.monotonic() - begin, load.cpus_of_others(before, _load())
    if request.instructions:
        tell("counting instructions", 0.0, math.nan)
        counts = instructions.count(pair, todo, folder)
        cells = tuple(replace(each, instructions=counts[each.cell]) for each in cells)
    control = paired_ratio(measuring.control[1], measuring.control[0])
    return Result(
        base=request.base.text, head=request.head.text,
        base_commit=request.base.commit, head_commit=request.head.commit,
        started=started.isoformat(timespec="seconds"), seconds=seconds,
        control=control, control_rounds=len(measuring.control[0]), cells=cells, notes=tuple(notes),
        exit=decision.conclusion([measured.verdict for measured in cells], control), out_of_time=measuring.is_over,
        others=others, machine=machine.collect(), command=request.command,
    )  # fmt: skip


def _load() -> load.Reading | None:
    """The load on the machine; the measured processes, which have ended, are ours."""
    reading, own = load.read(), os.times()
    return reading and replace(reading, own=reading.own + own.children_user + own.children_system)


@dataclass(slots=True)
class _Paired:
    """One cell's times, in one measurement."""

    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Measurement:
    """A cell's times, with what they say."""

    times: _Paired
    found: Found


class _Measuring:
    """Rounds until each cell has enough, or the time is up."""

    def __init__(self, session: Session, request: Request, deadline: float, tell: Tell) -> None:
        self.control: tuple[list[float], list[float]] = ([], [])
        self._session = session
        self._request = request
        self._deadline = deadline
        self._tell = tell

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._deadline

    def measure(self, cells: Sequence[Cell], text: str) -> dict[Cell, _Measurement]:
        """One measurement of some cells: the rounds that all get, then more for those that scatter. A cell that the
        time left nothing for is not in it."""
        pairs = {cell: _Paired() for cell in cells}
        self._rounds(pairs, self._request.rounds, text)
        measured = _judged(pairs)
        for _ in range(self._request.rounds + _MORE, self._request.most_rounds + 1, _MORE):
            scattered = {cell: each.times for cell, each in measured.items() if not each.found.is_powerful}
            if not scattered or self.is_over:
                break
            self._rounds(scattered, _MORE, f"{text}, longer where it scatters")
            measured |= _judged(scattered)
        return measured

    def _rounds(self, pairs: dict[Cell, _Paired], count: int, text: str) -> None:
        begin = time.monotonic()
        for k in range(count):
            if not pairs or self.is_over:
                return
            left = (time.monotonic() - begin) * (count - k) / k if k else math.nan
            what = f"{len(pairs)} cell{'s' * (len(pairs) > 1)}, round {k + 1} of {count}"
            self._tell(f"{text}: {what}", k / count, min(left, self._deadline - time.monotonic()))
            base, head = self._session.round(list(pairs))
            self.control[0].append(base[CONTROL])
            self.control[1].append(head[CONTROL])
            for cell, pair in pairs.items():
                pair.base.append(base[cell.text])
                pair.head.append(head[cell.text])


def _judged(pairs: dict[Cell, _Paired]) -> dict[Cell, _Measurement]:
    return {cell: _Measurement(pair, decision.judge(pair.base, pair.head)) for cell, pair in pairs.items() if pair.base}


def _measured(cell: Cell, first: _Measurement, second: _Measurement | None) -> Measured:
    again = None if second is None else second.found
    verdict = decision.verdict(first.found, again)
    return Measured(cell, tuple(first.times.base), tuple(first.times.head), first.found, again, verdict)


def _checked(request: Request, pair: tuple[Build, Build], folder: Path) -> tuple[Session, list[Cell], list[str]]:
    """A session of the cells that both builds compute right, and what was left out."""
    alone = Session(pair, [], folder)
    in_base, in_head = (backends(alone, build) for build in pair)
    notes = []
    names = []
    for name in request.backends or dict.fromkeys((*in_base, *in_head)):
        missing = [side.get(name, (f"it has no backend {name!r}", True)) for side in (in_base, in_head)]
        why_base, why_head = (why for why, _ in missing)
        if not request.backends and not all(stable for _, stable in missing):
            continue
        if why_base is None and why_head is None:
            names.append(name)
        elif why_base is None:
            raise BuildError(f"head has lost the backend {name!r}: {why_head}")
        elif name in request.backends:
            raise BuildError(f"backend {name!r} cannot be compared: base: {why_base}")
        else:
            notes.append(f"{name}: not compared, since base has none: {why_base}")
    wanted = cells.of(names, request.workloads, request.operations)
    session = Session(pair, wanted, folder, request.seed)
    reference = Reference(session)
    wrong_in_base, wrong_in_head = (reference.complaints(build, wanted) for build in pair)
    for cell, reason in wrong_in_head.items():
        if cell not in wrong_in_base:
            raise BuildError(f"head is wrong, and so is not timed: {cell.backend} on {cell.workload_text}: {reason}")
    for cell, reason in wrong_in_base.items():
        notes.append(f"{cell.text}: not compared, since base is wrong there: {reason}")
    todo = [cell for cell in wanted if cell not in wrong_in_base]
    if not todo:
        raise BuildError("the two builds have no backend in common that is right: nothing can be compared")
    return session, todo, notes
